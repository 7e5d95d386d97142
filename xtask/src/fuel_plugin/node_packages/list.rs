//! `fuel-plugin/packages.toml`: what the nodes get, and where it comes from.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::fuel_plugin::generation::{shown, source};

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    pub(super) built: Vec<Built>,
    pub(super) debian: Vec<FromDebian>,
    pub(super) python: Vec<FromPypi>,
    pub(super) slot: Vec<Slot>,
}

/// Made by another subcommand, which prints the package's path in its first line.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Built {
    pub(super) name: String,
    pub(super) command: Vec<String>,
    pub(super) licence: String,
}

/// Made of files of Debian's packages.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FromDebian {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) description: String,
    pub(super) depends: Vec<String>,
    pub(super) licence: String,
    pub(super) from: Vec<DebianPackage>,
}

/// One of Debian's packages.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DebianPackage {
    pub(super) package: String,
    pub(super) version: String,
    pub(super) sha256: String,
    /// What is taken of it, and where that is to be.
    pub(super) files: BTreeMap<String, String>,
}

/// Made of a source archive of PyPI and of wheels.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FromPypi {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) sha256: String,
    pub(super) description: String,
    pub(super) depends: Vec<String>,
    pub(super) licence: String,
    pub(super) beside: Vec<Wheel>,
}

/// A wheel for Python 2.7, pure Python.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wheel {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) sha256: String,
}

/// A package that who builds has to bring along.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Slot {
    pub(super) name: String,
    pub(super) needed_for: String,
    #[serde(rename = "where")]
    pub(super) origin: String,
}

/// Reads the file.
///
/// # Errors
/// It cannot be read, or is not as it has to be.
pub(super) fn read() -> Result<List> {
    let path = source().join("packages.toml");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let list: List = toml_edit::de::from_str(&text).with_context(|| shown(&path))?;
    for sum in list.sums() {
        let is_sum = sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit());
        ensure!(is_sum, "{}: {sum:?} is no SHA-256", shown(&path));
    }
    Ok(list)
}

impl List {
    fn sums(&self) -> impl Iterator<Item = &str> {
        let debian = self.debian.iter().flat_map(|package| &package.from);
        let python = self.python.iter();
        let wheels = self.python.iter().flat_map(|package| &package.beside);
        debian
            .map(|package| package.sha256.as_str())
            .chain(python.map(|package| package.sha256.as_str()))
            .chain(wheels.map(|wheel| wheel.sha256.as_str()))
    }
}
