//! `cargo xtask fuel-plugin check`.

use anyhow::{Result, bail};

use super::builder::Builder;
use super::generation::{Generation, source};
use super::{elf, sources, stage};
use crate::command;
use crate::progress::headline;
use crate::setup::{self, Need};
use crate::test_report::TestReport;

/// Runs every check, also behind one that fails.
///
/// # Errors
/// One fails; what it says was printed.
pub(super) fn run() -> Result<()> {
    setup::ensure(&[Need::FuelPlugin])?;
    let builder = Builder::ready()?;
    let mut report = TestReport::start("fuel-plugin-check");
    let mut failed = Vec::new();
    let checks: [(&str, &dyn Fn() -> Result<()>); 8] = [
        ("YAML: yamllint", &sources::yaml),
        ("shell: shellcheck", &sources::shell),
        ("templates: erb and ruby", &sources::templates),
        (
            "manifests: puppet parser validate, puppet-lint",
            &sources::manifests,
        ),
        ("Puppet 3 and Ruby 1.9.3", &sources::old_syntax),
        ("no ELF file outside of packages", &|| elf::forbid(&source())),
        ("both packages: fuel-plugin-builder", &|| validate(&builder)),
        ("settings and tasks", &|| settings_and_tasks(&builder)),
    ];
    for (name, check) in checks {
        headline(name);
        if let Err(error) = report.note(name, check()) {
            eprintln!("{error:#}");
            failed.push(name);
        }
    }
    report.skipped("installation on a Fuel master", "none can be had here");
    report.write()?;
    if !failed.is_empty() {
        bail!("fuel-plugin check: {}", failed.join("; "));
    }
    headline("fuel-plugin check: nothing found");
    Ok(())
}

fn validate(builder: &Builder) -> Result<()> {
    for generation in Generation::ALL {
        let tree = stage::stage(generation)?;
        stage::finish(&tree)?;
        builder.run("--check", tree.root())?;
    }
    Ok(())
}

/// The tests in `fuel-plugin/tests`, over the stages.
fn settings_and_tasks(builder: &Builder) -> Result<()> {
    for generation in Generation::ALL {
        stage::stage(generation)?;
    }
    let mut tests = builder.python();
    tests.args(["-m", "unittest", "discover", "--start-directory"]);
    tests
        .arg(source().join("tests"))
        .env("FUEL_PLUGIN_STAGES", stage::folder()?);
    command::run(&mut tests)
}
