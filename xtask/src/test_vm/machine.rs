//! A machine in QEMU.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Begins the line with which the machine's init ends; the exit status of the tests follows.
const CLOSING_LINE: &str = "calico-ebpf-vm: exit status ";

/// What to boot.
pub(super) struct Machine<'a> {
    /// The bootable file.
    pub(super) kernel: &'a Path,
    /// The file system with `/init`.
    pub(super) initramfs: &'a Path,
    /// QEMU's name for what runs the processor.
    pub(super) accelerator: &'a str,
    /// Words for the tests.
    pub(super) arguments: &'a [String],
    /// When to give up.
    pub(super) time_limit: Duration,
}

impl Machine<'_> {
    /// Boots, shows the console on standard error and waits for the end.
    ///
    /// # Errors
    /// QEMU cannot start, the tests fail, the machine stops without a closing line, or the time is over.
    pub(super) fn run(&self) -> Result<()> {
        let started = Instant::now();
        let mut child = Command::new("qemu-system-x86_64")
            .args([
                "-accel",
                self.accelerator,
                "-cpu",
                "max",
                "-smp",
                "2",
                "-m",
                "3072",
            ])
            .args([
                "-display",
                "none",
                "-monitor",
                "none",
                "-serial",
                "stdio",
                "-no-reboot",
                "-nic",
                "none",
            ])
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .args(["-append", &self.command_line()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("qemu-system-x86_64")?;
        let console = child.stdout.take().context("no console")?;
        let status = watch(&lines(console), started + self.time_limit);
        end(&mut child);
        match status? {
            0 => Ok(()),
            status => bail!("the tests ended with exit status {status}"),
        }
    }

    fn command_line(&self) -> String {
        let mut words = "console=ttyS0 panic=-1 quiet loglevel=4 mitigations=off".to_owned();
        if !self.arguments.is_empty() {
            // What follows two dashes is for init.
            words.push_str(" -- ");
            words.push_str(&self.arguments.join(" "));
        }
        words
    }
}

/// Shows lines until the console ends; returns the exit status that the closing line names.
fn watch(lines: &Receiver<String>, deadline: Instant) -> Result<i32> {
    let mut status = None;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                eprintln!("{line}");
                status = status.or(closing_status(&line));
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) if status.is_some() => break,
            Err(RecvTimeoutError::Timeout) => bail!("no closing line within the time limit"),
        }
    }
    status.context("the machine stopped without a closing line")
}

fn closing_status(line: &str) -> Option<i32> {
    let (_before, status) = line.split_once(CLOSING_LINE)?;
    status.trim().parse().ok()
}

/// Reads the console in a thread of its own, so that the reader can give up waiting.
fn lines(console: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n') {
            let Ok(line) = line else { return };
            let text = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            if sender.send(text).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Ends the machine when it has not ended by itself.
fn end(child: &mut Child) {
    if let Err(error) = child.kill() {
        eprintln!("qemu-system-x86_64: {error}");
    }
    if let Err(error) = child.wait() {
        eprintln!("qemu-system-x86_64: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn far() -> Instant {
        Instant::now() + Duration::from_mins(1)
    }

    #[test]
    fn the_closing_line_gives_the_exit_status_and_lines_may_end_with_carriage_returns() {
        let console = "booting\r\ncalico-ebpf-vm: exit status 101\r\nreboot: Power down\r\n";
        assert_eq!(
            watch(&lines(console.as_bytes()), far()).expect("a closing line"),
            101
        );
    }

    #[test]
    fn a_machine_that_stops_without_a_closing_line_has_failed() {
        assert!(watch(&lines("Kernel panic\n".as_bytes()), far()).is_err());
    }

    #[test]
    fn a_machine_that_says_nothing_is_given_up_at_the_time_limit() {
        let (_sender, receiver) = channel();
        let error = watch(&receiver, Instant::now()).expect_err("nothing was said");
        assert!(error.to_string().contains("time limit"));
    }
}
