//! The agent as a file: nothing of the node's C library is needed, whatever its age.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{Endianness, elf};

use super::super::agent::Agent;
use super::{Packages, directory};
use crate::command;

/// How long the agent may take to look up a name.
const LIMIT: Duration = Duration::from_secs(20);

pub(super) fn needs_nothing(agent: &Agent, _: &Packages) -> Result<()> {
    let bytes = fs::read(&agent.binary).with_context(|| agent.binary.display().to_string())?;
    let header = elf::FileHeader64::<Endianness>::parse(&*bytes)?;
    let endian = header.endian()?;
    for segment in header.program_headers(endian, &*bytes)? {
        ensure!(
            segment.p_type(endian) != elf::PT_INTERP,
            "the agent asks for a loader: it is not static"
        );
        if let Some(entries) = segment.dynamic(endian, &*bytes).ok().flatten() {
            let needed = entries
                .iter()
                .filter(|entry| entry.tag(endian) == elf::DT_NEEDED)
                .count();
            ensure!(
                needed == 0,
                "the agent asks for {needed} libraries: it is not static"
            );
        }
    }
    Ok(())
}

pub(super) fn runs_alone(agent: &Agent, _: &Packages) -> Result<()> {
    let root = directory()?.join("empty.root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    fs::create_dir_all(&root)?;
    fs::copy(&agent.binary, root.join("calico-ebpf"))?;
    let run = |arguments: &[&str]| {
        let mut chroot = Command::new("chroot");
        command::output(chroot.arg(&root).arg("/calico-ebpf").args(arguments))
    };
    let version = run(&["--version"])?;
    ensure!(
        version.contains(super::super::agent::VERSION),
        "--version says {version}"
    );
    let parameters = run(&["config", "show", "--hostname", "node", "--all", "-o", "json"])?;
    ensure!(
        parameters.contains("FelixHostname"),
        "config show says {parameters}"
    );
    Ok(())
}

/// Lets the agent look for etcd under a name that only `/etc/hosts` of the root knows, where nothing listens.
///
/// # Errors
/// It does not get as far as to be refused by the address of that name.
pub(super) fn looks_up_names(agent: &Agent, packages: &Packages) -> Result<()> {
    runs_alone(agent, packages)?;
    let root = directory()?.join("empty.root");
    fs::create_dir_all(root.join("etc"))?;
    fs::create_dir_all(root.join("dev"))?;
    for (device, minor) in [("random", "8"), ("urandom", "9")] {
        command::run(
            Command::new("mknod")
                .arg(root.join("dev").join(device))
                .args(["c", "1", minor]),
        )?;
    }
    fs::write(root.join("etc/hosts"), "127.0.0.77 datastore.example\n")?;
    // What a node may have, and what a C library would need a module for.
    fs::write(root.join("etc/nsswitch.conf"), "hosts: no-such-module\n")?;
    // In a network of its own: the lock and the addresses of this machine are not touched.
    let script = "ip link set lo up && exec chroot \"$1\" /calico-ebpf run --set RunDir=/run/agent \
                  --hostname node --etcd-endpoints http://datastore.example:2379";
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "sh", "-euc", script, "sh"]).arg(&root);
    let (reader, writer) = std::io::pipe()?;
    unshare
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let mut child = unshare.spawn().with_context(|| command::display(&unshare))?;
    drop(unshare);
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        let lines = BufReader::new(reader).lines().map_while(std::io::Result::ok);
        lines
            .take_while(|line| sender.send(line.clone()).is_ok())
            .for_each(drop);
    });
    let mut said = Vec::new();
    let end = Instant::now() + LIMIT;
    let refused = loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => said.push(line),
            Err(_silence) => break false,
        }
        if said.last().is_some_and(|line| line.contains("refused")) {
            break true;
        }
    };
    child.kill()?;
    child.wait()?;
    ensure!(
        refused,
        "no \"connection refused\" by 127.0.0.77 within {LIMIT:?}; the agent says:\n{}",
        said.join("\n")
    );
    Ok(())
}
