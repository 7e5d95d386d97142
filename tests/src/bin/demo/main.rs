//! The main job in one go: a host with three guests on real taps, policy step by step, the agent killed under
//! traffic, speed beside iptables, and nothing left behind.

mod matrix;
mod screen;
mod speed;
mod steps;
mod story;

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use clap::Parser;

use crate::screen::Screen;
use crate::story::Story;

/// Shows calico-ebpf at work between virtual machines of this host. Needs root; everything happens in network
/// namespaces that end with the program.
#[derive(Debug, Parser)]
#[command(name = "demo", version)]
struct Arguments {
    /// Print one JSON document on standard output and nothing else.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut story = Story::new(Screen::new(arguments.json));
    if !nix::unistd::geteuid().is_root() {
        story.fail("the demo needs root: it makes network namespaces and taps");
    } else if let Err(cause) = panic::catch_unwind(AssertUnwindSafe(|| steps::tell(&mut story))) {
        story.fail(&message_of(cause.as_ref()));
    }
    if story.finish() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn message_of(cause: &(dyn std::any::Any + Send)) -> String {
    let text = cause.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| cause.downcast_ref::<&str>().copied())
        .unwrap_or("a fixture failed")
        .to_owned()
}
