//! `cargo xtask test hostile`: one guest floods its host while two others talk. Nothing of theirs may be lost.

mod bare;
mod case;
mod checks;
mod counted;
mod mixture;
mod ports;
mod progress;
mod quota;
mod report;
mod screen;
mod sender;
mod stream;
mod talk;

use std::io::Write as _;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use clap::Parser;

use case::Setting;
use progress::Progress;
use report::{Document, Run};

/// Floods a host from one guest while two others hold connections and open new ones. Needs root; everything happens in
/// network namespaces that end with the program
#[derive(Debug, Parser)]
#[command(name = "hostile")]
struct Arguments {
    /// How long each attack lasts
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(3..=3600))]
    seconds: u64,
    /// Only the run of this name: `roomy` or `small-table`
    #[arg(long, value_name = "NAME", value_parser = ["roomy", "small-table"])]
    only: Option<String>,
    /// Prints one JSON document on standard output and nothing else
    #[arg(long)]
    json: bool,
}

const SETTINGS: [Setting; 2] = [
    Setting {
        name: "roomy",
        about: "conntrack tables as large as by default",
        parameters: &[("BPFMapSizeConntrack", "512000")],
    },
    Setting {
        name: "small-table",
        about: "conntrack tables that the attacker could fill alone within seconds",
        // The two need some 10,000: what they have closed stays for a while.
        parameters: &[("BPFMapSizeConntrack", "32768")],
    },
];

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut document = Document {
        ok: false,
        seconds: arguments.seconds,
        runs: Vec::new(),
        error: None,
    };
    if nix::unistd::geteuid().is_root() {
        // A fixture that fails panics.
        let ended = panic::catch_unwind(AssertUnwindSafe(|| attack(&arguments, &mut document)));
        document.error = match ended {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some("a fixture failed: see standard error".to_owned()),
        };
    } else {
        document.error = Some("this needs root: it makes network namespaces and loads programs".to_owned());
    }
    if let Some(error) = &document.error {
        anstream::eprintln!("{error}");
    }
    document.ok = document.error.is_none() && document.runs.iter().all(Run::is_ok);
    let mut output = anstream::stdout().lock();
    let written = if arguments.json {
        let text = serde_json::to_string_pretty(&document).expect("plain data");
        writeln!(output, "{text}")
    } else {
        document
            .runs
            .iter()
            .try_for_each(|run| screen::write(run, &mut output))
    };
    if document.ok && written.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs what was asked for.
fn attack(arguments: &Arguments, document: &mut Document) -> anyhow::Result<()> {
    let progress = Progress::new();
    for setting in &SETTINGS {
        if arguments.only.as_deref().is_none_or(|name| name == setting.name) {
            let outcome = case::run(setting, arguments.seconds, &progress)?;
            document.runs.push(Run::new(setting, outcome));
        }
    }
    Ok(())
}
