//! The control files of packages that are made here.

use std::fs;

use anyhow::{Context, Result};

use crate::fuel_plugin::generation::source;
use crate::package::tree::Tree;

/// What the control file says.
pub(super) struct Control<'a> {
    pub(super) name: &'a str,
    pub(super) version: String,
    pub(super) architecture: &'a str,
    pub(super) depends: &'a [String],
    /// One line.
    pub(super) description: &'a str,
    /// The lines behind it, without indentation.
    pub(super) details: String,
}

impl Control<'_> {
    /// Puts the control file and the scripts of `fuel-plugin/packages/<name>` into a tree.
    ///
    /// # Errors
    /// A script cannot be read, or something cannot be written.
    pub(super) fn put(&self, tree: &Tree) -> Result<()> {
        let mut size = 0;
        for file in tree.files()? {
            let path = tree.root().join(file);
            size += fs::metadata(&path)
                .with_context(|| path.display().to_string())?
                .len();
        }
        tree.file("DEBIAN/control", self.text(size.div_ceil(1024)).as_bytes())?;
        let scripts = source().join("packages").join(self.name);
        for script in ["postinst", "prerm"] {
            let path = scripts.join(script);
            if path.is_file() {
                let content = fs::read(&path).with_context(|| path.display().to_string())?;
                tree.program(&format!("DEBIAN/{script}"), &content)?;
            }
        }
        Ok(())
    }

    fn text(&self, kilobytes: u64) -> String {
        let depends = if self.depends.is_empty() {
            String::new()
        } else {
            format!("Depends: {}\n", self.depends.join(", "))
        };
        let details: Vec<String> = self.details.lines().map(|line| format!(" {line}\n")).collect();
        format!(
            "Package: {}\nVersion: {}\nArchitecture: {}\nMaintainer: The calico-ebpf developers\n\
             Installed-Size: {kilobytes}\n{depends}Section: net\nPriority: optional\nDescription: {}\n{}",
            self.name,
            self.version,
            self.architecture,
            self.description,
            details.concat()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_file_has_its_fields_in_order_and_ends_with_a_line() {
        let depends = ["a".to_owned(), "b (>= 1)".to_owned()];
        let control = Control {
            name: "n",
            version: "1+calico1".to_owned(),
            architecture: "all",
            depends: &depends,
            description: "What it is",
            details: "More.\nAnd more.".to_owned(),
        };
        assert_eq!(
            control.text(7),
            "Package: n\nVersion: 1+calico1\nArchitecture: all\nMaintainer: The calico-ebpf developers\n\
             Installed-Size: 7\nDepends: a, b (>= 1)\nSection: net\nPriority: optional\nDescription: What it is\n \
             More.\n And more.\n"
        );
    }
}
