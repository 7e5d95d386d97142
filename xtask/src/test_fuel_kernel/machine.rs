//! A machine in QEMU that boots from its disk, and what its serial console says.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::disk::Disk;

/// What a case does until the machine is off.
pub(super) struct Run<'a> {
    /// The case's name: the machine finds it as its product name.
    pub(super) case: &'a str,
    pub(super) disk: &'a Disk,
    /// A kernel, an initial file system and the kernel's command line, in place of what the disk boots.
    pub(super) kernel: Option<(&'a Path, &'a Path, &'a str)>,
    /// Texts that have to come on the console, in this order.
    pub(super) expected: &'a [String],
    /// Keeps the console's text, behind what is there.
    pub(super) log: PathBuf,
    pub(super) processors: u32,
    pub(super) time_limit: Duration,
}

impl Run<'_> {
    /// Boots and waits until the machine is off.
    ///
    /// # Errors
    /// QEMU cannot start, a text did not come, the machine says that it failed, or the time is over.
    pub(super) fn until_off(&self) -> Result<()> {
        let started = Instant::now();
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-accel", "tcg", "-cpu", "max,avx=off,avx2=off", "-m", "1024"]);
        qemu.arg("-smp").arg(self.processors.to_string());
        qemu.args(["-display", "none", "-monitor", "none", "-serial", "stdio"]);
        // A device with a carrier; the machine's packets lead nowhere.
        qemu.args(["-nic", "user,restrict=on,model=virtio-net-pci"]);
        qemu.arg("-smbios").arg(format!("type=1,product={}", self.case));
        qemu.arg("-drive").arg(format!(
            "file={},format=raw,if=virtio,cache=unsafe",
            self.disk.file.display()
        ));
        if let Some((kernel, initrd, words)) = self.kernel {
            qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
            qemu.args(["-append", words]);
        }
        let mut child = qemu
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("qemu-system-x86_64")?;
        let console = child.stdout.take().context("no console")?;
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| self.log.display().to_string());
        let result = log.and_then(|log| self.watch(&lines(console), log, started));
        end(&mut child);
        result.with_context(|| format!("see {}", self.log.display()))
    }

    fn watch(&self, lines: &Receiver<String>, mut log: impl Write, started: Instant) -> Result<()> {
        let mut expected = self.expected.iter();
        let mut next = expected.next();
        let deadline = started + self.time_limit;
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    writeln!(log, "{line}")?;
                    if ["proof: ", "calico-kernel: ", "Kernel panic", "GNU GRUB"]
                        .iter()
                        .any(|sign| line.contains(sign))
                    {
                        eprintln!("[{} {:>3} s] {line}", self.case, started.elapsed().as_secs());
                    }
                    if line.contains("proof: ") && line.contains(": FAILED") {
                        bail!("{line}");
                    }
                    if next.is_some_and(|text| line.contains(text.as_str())) {
                        next = expected.next();
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => bail!(
                    "{} s are over; waited for `{}`",
                    self.time_limit.as_secs(),
                    next.map_or("the machine to be off", String::as_str)
                ),
            }
        }
        match next {
            Some(text) => bail!("the machine is off, and never said `{text}`"),
            None => Ok(()),
        }
    }
}

/// Reads the console in a thread of its own, so that the reader can give up waiting.
fn lines(console: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n') {
            let Ok(line) = line else { return };
            if sender.send(plain(&String::from_utf8_lossy(&line))).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Returns a line without what moves a terminal's cursor, as GRUB's menu does.
fn plain(line: &str) -> String {
    let mut text = String::new();
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            // ESC, `[`, parameters, and a letter as the end.
            '\u{1b}' => while characters.next().is_some_and(|part| !part.is_ascii_alphabetic()) {},
            '\r' => {}
            _ => text.push(character),
        }
    }
    text
}

/// Ends the machine when it has not ended by itself.
fn end(child: &mut Child) {
    // An error means that it is off.
    drop(child.kill());
    if let Err(error) = child.wait() {
        eprintln!("qemu-system-x86_64: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(console: &'static str, expected: &[&str]) -> Result<()> {
        let expected: Vec<String> = expected.iter().map(|text| (*text).to_owned()).collect();
        let run = Run {
            case: "good",
            disk: &Disk { file: PathBuf::new() },
            kernel: None,
            expected: &expected,
            log: PathBuf::new(),
            processors: 1,
            time_limit: Duration::from_mins(1),
        };
        run.watch(&lines(console.as_bytes()), Vec::new(), Instant::now())
    }

    #[test]
    fn texts_have_to_come_in_their_order() {
        watch("proof: a\r\nnoise\nproof: b\n", &["a", "b"]).expect("both came");
        let error = watch("proof: b\nproof: a\n", &["a", "b"]).expect_err("b came first");
        assert!(error.to_string().contains("never said `b`"), "{error}");
    }

    #[test]
    fn the_log_has_no_cursor_movements() {
        assert_eq!(plain("\u{1b}[1;1H\u{1b}[?25lGNU \u{1b}[mGRUB\r"), "GNU GRUB");
    }

    #[test]
    fn a_machine_that_says_that_it_failed_is_not_waited_for() {
        let error =
            watch("proof: good: FAILED in step 2: no marker\nproof: a\n", &["a"]).expect_err("a failure");
        assert!(error.to_string().contains("no marker"), "{error}");
    }
}
