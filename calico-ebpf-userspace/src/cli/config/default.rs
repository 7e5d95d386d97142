//! `config default`: every parameter.

use serde::Serialize;

use crate::cli::output::{Page, Tone, plain};
use crate::config::parameters::{self, Handling};

#[derive(Debug, Serialize)]
pub(super) struct DefaultRow {
    name: &'static str,
    values: String,
    default: &'static str,
    doc: String,
    /// `acted`, `ignored`.
    handling: &'static str,
    local_only: bool,
}

impl DefaultRow {
    pub(super) fn of(parameter: &parameters::Parameter) -> Self {
        let (handling, doc) = match parameter.handling {
            Handling::Acted => ("acted", parameter.doc.to_owned()),
            Handling::Ignored(reason) => ("ignored", format!("Without effect: {reason}.")),
        };
        Self {
            name: parameter.name,
            values: parameter.kind.describe(),
            default: parameter.default,
            doc,
            handling,
            local_only: parameter.local_only,
        }
    }
}

pub(super) fn put_defaults_on(page: &mut Page, rows: &[DefaultRow]) {
    let row = |row: &DefaultRow| {
        let tone = if row.handling == "acted" {
            Tone::Plain
        } else {
            Tone::Quiet
        };
        let default = row.default.to_owned();
        vec![
            (tone, row.name.to_owned()),
            plain(default),
            (tone, row.values.clone()),
            (tone, row.doc.clone()),
        ]
    };
    page.table(
        &["PARAMETER", "DEFAULT", "VALUES", "MEANING"],
        rows.iter().map(row).collect(),
    );
}
