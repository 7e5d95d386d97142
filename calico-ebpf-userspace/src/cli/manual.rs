//! `manual`: the manual's pages, made of the command line's own help. For packages; hidden from people.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Command, CommandFactory as _};
use clap_mangen::Man;

use super::CommandLine;
use super::failure::{Ending, Failure};

/// Commands of administrators.
const SECTION: &str = "8";

const AFTER_HELP: &str = "\
Example:
  calico-ebpf manual /tmp/pages && man /tmp/pages/calico-ebpf.8";

#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Directory that gets the pages
    directory: PathBuf,
}

pub(super) fn execute(arguments: &Arguments) -> Result<Ending, Failure> {
    let directory = &arguments.directory;
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let mut command = CommandLine::command().disable_help_subcommand(true);
    command.build();
    write_pages(&command, directory)?;
    Ok(Ending::Good)
}

/// Writes the page of a command and those of its subcommands.
fn write_pages(command: &Command, directory: &Path) -> anyhow::Result<()> {
    let name = command
        .get_bin_name()
        .unwrap_or(command.get_name())
        .replace(' ', "-");
    let path = directory.join(format!("{name}.{SECTION}"));
    let mut page = Vec::new();
    let titled = command.clone().display_name(name);
    let version = concat!("calico-ebpf ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(titled)
        .section(SECTION)
        .manual("calico-ebpf")
        .source(version)
        .date("");
    man.render(&mut page)
        .with_context(|| path.display().to_string())?;
    let page = with_examples(&String::from_utf8_lossy(&page));
    fs::write(&path, page).with_context(|| path.display().to_string())?;
    for subcommand in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        write_pages(subcommand, directory)?;
    }
    Ok(())
}

/// Gives what stands behind the options its name, and keeps its lines as they are: they are commands.
fn with_examples(page: &str) -> String {
    let Some((before, extra)) = page.split_once(".SH EXTRA\n") else {
        return page.to_owned();
    };
    let (extra, after) = extra.split_at(extra.find("\n.SH ").map_or(extra.len(), |end| end + 1));
    format!("{before}.SH EXAMPLES\n.nf\n{extra}\n.fi\n{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_its_examples() {
        let directory = tempfile::tempdir().unwrap();
        let arguments = Arguments {
            directory: directory.path().to_owned(),
        };
        execute(&arguments).unwrap();
        for command in CommandLine::command()
            .get_subcommands()
            .filter(|command| !command.is_hide_set())
        {
            let path = directory
                .path()
                .join(format!("calico-ebpf-{}.8", command.get_name()));
            let page =
                fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(page.contains("Example"), "{page}");
        }
        assert!(directory.path().join("calico-ebpf.8").exists());
        assert!(directory.path().join("calico-ebpf-config-show.8").exists());
        assert!(!directory.path().join("calico-ebpf-manual.8").exists());
    }
}
