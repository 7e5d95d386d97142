mod documents;
mod following;
mod random;
mod reading;

use std::fs;
use std::path::Path;

use super::*;
use crate::model::problem::Consequence;
use crate::model::resource::Resource;

/// A manifest directory for one test.
struct Manifests {
    dir: tempfile::TempDir,
}

impl Manifests {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path().join(name), text).unwrap();
    }
}

fn tier(name: &str, order: u32) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata:\n  name: {name}\nspec:\n  order: {order}\n"
    )
}

fn order_of(view: &View, name: &str) -> Option<f64> {
    let (_, resource) = view.snapshot.iter().find(|(key, _)| key.name == name)?;
    if let Resource::Tier(tier) = &**resource {
        tier.order
    } else {
        None
    }
}

/// Returns names of the objects in order.
fn names(view: &View) -> Vec<&str> {
    view.snapshot.keys().map(|key| key.name.as_str()).collect()
}

/// Returns the problems with paths relative to the directory.
fn told(view: &View, manifests: &Manifests) -> Vec<String> {
    let prefix = format!("{}/", manifests.path().display());
    view.problems
        .iter()
        .map(|problem| problem.to_string().replace(&prefix, ""))
        .collect()
}
