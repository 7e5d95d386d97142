//! The agent and what comes with it, whatever the form of the package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::epoch::Epoch;
use super::third_party;
use super::tree::{Tree, printed_by};
use crate::{build, command, workspace};

/// Version of the packages.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Longest line of Debian's changelog.
const COLUMNS: usize = 79;

/// Where each form of package has the same thing at another place.
pub(super) struct Places {
    pub(super) systemd_units: &'static str,
    pub(super) zsh_completions: &'static str,
}

/// The built agent.
pub(super) struct Agent {
    pub(super) binary: PathBuf,
    pub(super) epoch: Epoch,
    third_party: String,
}

impl Agent {
    /// Builds it.
    ///
    /// # Errors
    /// The build fails.
    pub(super) fn build() -> Result<Self> {
        Self::of(build::build(&[])?.agent)
    }

    /// Takes a binary that was built before.
    ///
    /// # Errors
    /// The time of the source or the licences of dependencies cannot be told.
    pub(super) fn of(binary: PathBuf) -> Result<Self> {
        Ok(Self {
            binary,
            epoch: Epoch::find()?,
            third_party: third_party::notices()?,
        })
    }

    /// Stages everything that both forms of package have.
    ///
    /// # Errors
    /// A source cannot be read, or the agent does not print its manual.
    pub(super) fn stage(&self, root: PathBuf, places: &Places) -> Result<Tree> {
        let tree = Tree::new(root)?;
        tree.program("usr/bin/calico-ebpf", &read(&self.binary)?)?;
        tree.file("etc/calico/felix.cfg", &source("felix.cfg")?)?;
        tree.file("etc/sysctl.d/60-calico-ebpf.conf", &source("sysctl.conf")?)?;
        tree.file(
            "etc/modules-load.d/calico-ebpf.conf",
            &source("modules-load.conf")?,
        )?;
        let unit = format!("{}/calico-ebpf.service", places.systemd_units);
        tree.file(&unit, &source("calico-ebpf.service")?)?;
        for (shell, path) in [
            ("bash", "usr/share/bash-completion/completions/calico-ebpf"),
            ("fish", "usr/share/fish/vendor_completions.d/calico-ebpf.fish"),
            ("zsh", &*format!("{}/_calico-ebpf", places.zsh_completions)),
        ] {
            let script = printed_by(Command::new(&self.binary).args(["completion", shell]))?;
            tree.file(path, &script)?;
        }
        self.stage_manual(&tree)?;
        let documents = "usr/share/doc/calico-ebpf";
        tree.file(&format!("{documents}/copyright"), copyright()?.as_bytes())?;
        tree.compressed(&format!("{documents}/changelog"), self.changelog()?.as_bytes())?;
        tree.compressed(&format!("{documents}/third-party"), self.third_party.as_bytes())?;
        Ok(tree)
    }

    fn stage_manual(&self, tree: &Tree) -> Result<()> {
        let pages = tree.root().with_extension("manual");
        if pages.exists() {
            fs::remove_dir_all(&pages).with_context(|| pages.display().to_string())?;
        }
        command::run(Command::new(&self.binary).arg("manual").arg(&pages))?;
        for page in fs::read_dir(&pages).with_context(|| pages.display().to_string())? {
            let path = page?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            tree.compressed(&format!("usr/share/man/man8/{name}"), &read(&path)?)?;
        }
        Ok(())
    }

    /// Returns the newest section of CHANGELOG.md in Debian's form.
    fn changelog(&self) -> Result<String> {
        let text = String::from_utf8(read(&workspace::root().join("CHANGELOG.md"))?)?;
        let date = OffsetDateTime::from(self.epoch.time()).format(&Rfc2822)?;
        Ok(debian_changelog(&text, &date))
    }
}

/// Returns a file of `calico-ebpf-userspace/packaging`.
pub(super) fn source(name: &str) -> Result<Vec<u8>> {
    read(
        &workspace::root()
            .join("calico-ebpf-userspace/packaging")
            .join(name),
    )
}

/// As [`source`], as text with the version filled in.
pub(super) fn template(name: &str) -> Result<String> {
    let text = String::from_utf8(source(name)?).with_context(|| name.to_owned())?;
    Ok(text.replace("@VERSION@", VERSION))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

/// Returns the copyright file with the text of our own licence, a full stop standing for an empty line.
fn copyright() -> Result<String> {
    let licence = String::from_utf8(read(&workspace::root().join("LICENSE-MIT"))?)?;
    let lines = licence.lines().map(|line| match line.trim_end() {
        "" => " .".to_owned(),
        line => format!(" {line}"),
    });
    let licence = lines.collect::<Vec<_>>().join("\n");
    Ok(template("debian/copyright")?.replace("@MIT@", &licence))
}

fn debian_changelog(markdown: &str, date: &str) -> String {
    let newest = markdown
        .lines()
        .skip_while(|line| !line.starts_with("## "))
        .skip(1)
        .take_while(|line| !line.starts_with("## "));
    let mut changelog = format!("calico-ebpf ({VERSION}) unstable; urgency=medium\n\n");
    let mut paragraph = String::new();
    for line in newest.chain(["### "]) {
        if line.starts_with("- ") || line.starts_with("### ") {
            changelog += &wrapped(&paragraph);
            paragraph.clear();
        }
        if let Some(title) = line.strip_prefix("### ").filter(|title| !title.is_empty()) {
            changelog.extend(["  [ ", title, " ]\n"]);
        } else {
            paragraph += line.strip_prefix("- ").unwrap_or(line).trim();
            paragraph.push(' ');
        }
    }
    changelog + &format!("\n -- calico-ebpf maintainers <maintainers@calico-ebpf.invalid>  {date}\n")
}

/// Returns an item of Debian's changelog, in lines of less than 80 columns.
fn wrapped(paragraph: &str) -> String {
    let mut item = String::new();
    let mut column = COLUMNS;
    for word in paragraph.split_whitespace() {
        if column + 1 + word.len() > COLUMNS {
            item += if item.is_empty() { "  * " } else { "\n    " };
            column = 4;
        } else {
            item.push(' ');
            column += 1;
        }
        item += word;
        column += word.len();
    }
    if !item.is_empty() {
        item.push('\n');
    }
    item
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_changelog_takes_the_newest_section_in_debians_form() {
        let markdown = "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- One, which\n  goes on.\n\n## [0.0.1]\n\n- Old.\n";
        let text = debian_changelog(markdown, "Thu, 26 Nov 2026 10:00:00 +0000");
        assert!(
            text.contains("\n  [ Added ]\n  * One, which goes on.\n\n --"),
            "{text}"
        );
        assert!(!text.contains("Old"), "{text}");
        assert!(text.ends_with(">  Thu, 26 Nov 2026 10:00:00 +0000\n"), "{text}");
    }

    #[test]
    fn long_items_of_the_changelog_go_on_in_the_next_line() {
        let text = wrapped(&"word ".repeat(40));
        assert!(
            text.starts_with("  * word word") && text.contains("\n    word"),
            "{text}"
        );
        assert!(text.lines().all(|line| line.len() < 80), "{text}");
        assert_eq!(wrapped(" "), "");
    }

    #[test]
    fn the_copyright_has_no_empty_line_inside_of_a_licence() {
        let text = copyright().expect("readable sources");
        let (_, licence) = text.split_once("License: MIT\n").expect("a licence");
        assert!(licence.contains("Permission is hereby granted"), "{licence}");
        assert!(licence.lines().all(|line| line.starts_with(' ')), "{licence}");
    }
}
