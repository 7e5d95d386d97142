//! The agent's own way from a calculated state to the kernel, in this process: a host in a namespace, its taps, and the
//! dataplane that the agent runs.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use aya::programs::{TestRun, TestRunOptions};
use calico_ebpf_common::maps;
use calico_ebpf_tests::host::PIN_DIR;
use calico_ebpf_tests::netns::Netns;
use calico_ebpf_tests::tap::Tap;
use calico_ebpf_userspace::calc::effective::EffectiveState;
use calico_ebpf_userspace::config::values::Config;
use calico_ebpf_userspace::dataplane::apply::{Dataplane, Part};
use calico_ebpf_userspace::dataplane::netlink;
use calico_ebpf_userspace::dataplane::sk_buff::{self, SkBuff};
use etherparse::PacketBuilder;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::bed::HOST_MAC;
use crate::rules::{MACS, address};

/// `TC_ACT_UNSPEC` and `TC_ACT_SHOT`.
const TO_STACK: u32 = u32::MAX;
const DROPPED: u32 = 2;

/// A namespace with taps, where an agent may start.
pub(super) struct Site {
    pub(super) namespace: Netns,
    pub(super) names: Vec<String>,
    _taps: Vec<Tap>,
    directory: TempDir,
}

impl Site {
    pub(super) fn new(endpoints: usize) -> anyhow::Result<Self> {
        let namespace = Netns::host();
        let names = names(endpoints);
        let taps = names.iter().map(|name| Tap::create(&namespace, name)).collect();
        let mut up = String::new();
        for name in &names {
            let _ = writeln!(up, "link set {name} up");
        }
        namespace.ip(&up);
        Ok(Self {
            namespace,
            names,
            _taps: taps,
            directory: TempDir::new()?,
        })
    }

    /// Returns the configuration that an agent begins with, but for where it keeps things.
    pub(super) fn config(&self) -> Config {
        Config {
            felix_hostname: "bench".to_owned(),
            bpf_pin_dir: PathBuf::from(PIN_DIR),
            run_dir: self.directory.path().to_owned(),
            ..Config::default()
        }
    }
}

/// Returns the names of the taps of so many endpoints.
pub(super) fn names(endpoints: usize) -> Vec<String> {
    (0..endpoints)
        .map(|index| format!("tapbench{index:04}"))
        .collect()
}

/// A dataplane at work. To be made and used inside of the site's namespace.
pub(super) struct Working {
    runtime: Runtime,
    pub(super) dataplane: Dataplane,
    /// How long it took to load the programs.
    pub(super) load_milliseconds: f64,
    /// Tap of the first endpoint.
    sender: u32,
    /// Source port of the last packet that was asked about.
    port: u16,
}

impl Working {
    /// Starts the dataplane as the agent does, and puts a first state in force.
    pub(super) fn start(
        config: &Config,
        first_tap: &str,
        state: &Arc<EffectiveState>,
    ) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let guard = runtime.enter();
        let started = Instant::now();
        let mut dataplane = Dataplane::start(config, netlink::open()?)?;
        let load_milliseconds = started.elapsed().as_secs_f64() * 1e3;
        drop(guard);
        let outcome = runtime.block_on(dataplane.reconcile(state, &Part::ALL.into()))?;
        anyhow::ensure!(outcome.dirty.is_empty(), "not written: {:?}", outcome.dirty);
        anyhow::ensure!(dataplane.enforces(state), "the first state is not in force");
        Ok(Self {
            runtime,
            dataplane,
            load_milliseconds,
            sender: nix::net::if_::if_nametoindex(first_tap)?,
            port: 0,
        })
    }

    /// Puts another state in force, as the agent does when only policy has changed.
    pub(super) fn put_in_force(&mut self, state: &Arc<EffectiveState>) -> anyhow::Result<()> {
        let outcome = self
            .runtime
            .block_on(self.dataplane.reconcile(state, &BTreeSet::new()))?;
        anyhow::ensure!(outcome.dirty.is_empty(), "not written: {:?}", outcome.dirty);
        Ok(())
    }

    /// Asks the program in the kernel whether the first endpoint may open a UDP flow.
    pub(super) fn may_send(&mut self, to: Ipv4Addr, port: u16) -> anyhow::Result<bool> {
        let IpAddr::V4(from) = address(false, 0) else {
            anyhow::bail!("endpoints have IPv4 addresses");
        };
        // Each question is a flow of its own.
        self.port = self.port.wrapping_add(1).max(1);
        let builder = PacketBuilder::ethernet2(MACS[0], HOST_MAC)
            .ipv4(from.octets(), to.octets(), 64)
            .udp(self.port, port);
        let mut frame = Vec::with_capacity(builder.size(18));
        builder.write(&mut frame, &[0; 18])?;
        let context = SkBuff::default().with(sk_buff::IFINDEX, self.sender);
        let program = self
            .dataplane
            .programs_mut()
            .program(maps::PROGRAM_FROM_WORKLOAD)?;
        let ran = program
            .test_run(TestRunOptions {
                data_in: Some(&frame),
                ctx_in: Some(context.bytes()),
                ..TestRunOptions::new()
            })
            .context("from_workload")?;
        match ran.return_value {
            TO_STACK => Ok(true),
            DROPPED => Ok(false),
            other => anyhow::bail!("TC action {other}, expected {TO_STACK} (pass) or {DROPPED} (drop)"),
        }
    }
}
