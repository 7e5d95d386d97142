//! The whole path from tap to tap, without a sender's system calls: an XDP program run on live frames passes each
//! frame to the stack as if it had come in by the tap (Linux 5.18). TC ingress, forwarding and the other tap's
//! transmit run in the calling thread, so its CPU time is the path's cost. The generator's own cost is subtracted.
//! Nobody reads the receiving tap; its ring is full, alike for all.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, ensure};
use aya::Ebpf;
use aya::programs::tc::{SchedClassifier, TcAttachType};
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp};
use calico_ebpf_common::maps;
use calico_ebpf_tests::netns::Netns;
use calico_ebpf_tests::tap::Tap;
use nix::time::{ClockId, clock_gettime};

use crate::bed::{self, HOST_MAC};
use crate::report::Bench;
use crate::{Benches, felix, rules};

const TAPS: [&str; 2] = ["tapbencha", "tapbenchb"];
/// Frames of one round.
const FRAMES: u32 = 64 * 1500;
/// Rules of the policy.
const RULES: usize = 100;

/// Runs the benchmarks of this file.
pub(crate) fn run(
    rounds: usize,
    wanted: &dyn Fn(&str) -> bool,
    progress: &dyn Fn(&str),
    benches: &mut Benches,
) -> anyhow::Result<()> {
    let felix = [
        ("path_felix_legacy_established", "iptables-legacy-restore"),
        ("path_felix_nft_established", "iptables-nft-restore"),
    ];
    if !wanted("path_established") && !felix.iter().any(|(name, _)| wanted(name)) {
        return Ok(());
    }
    progress("path: taps and programs");
    let ours = Road::new(Surface::Ours)?;
    let bare = Road::new(Surface::Redirect)?;
    let mut measured = Vec::new();
    let mut ours_rounds = Vec::new();
    if wanted("path_established") {
        progress("path_established");
        for _ in 0..rounds {
            let pair = [ours.nanoseconds()?, bare.nanoseconds()?];
            measured.push(pair);
            ours_rounds.push(pair[0]);
        }
        benches.push(Bench::at_most(
            "path_established",
            "bare redirect",
            1.15,
            measured,
        ));
    }
    for (name, restore) in felix {
        if !wanted(name) {
            continue;
        }
        progress(name);
        let iptables = Road::new(Surface::Iptables(restore))?;
        let mut measured = Vec::new();
        for _ in 0..rounds.min(9) {
            measured.push([iptables.nanoseconds()?, ours.nanoseconds()?]);
        }
        benches.push(Bench::at_least(
            name,
            "path_established of this dataplane",
            3.0,
            measured,
        ));
    }
    Ok(())
}

/// What forwards.
#[derive(Clone, Copy)]
enum Surface {
    Ours,
    Redirect,
    /// The program that restores rules.
    Iptables(&'static str),
}

/// Two taps in a namespace of their own, with what forwards between them.
struct Road {
    namespace: Netns,
    object: Ebpf,
    frame: Vec<u8>,
    context: [u8; 24],
    taps: [Tap; 2],
}

impl Road {
    fn new(surface: Surface) -> anyhow::Result<Self> {
        let namespace = Netns::host();
        let taps = TAPS.map(|name| Tap::create(&namespace, name));
        let mac = HOST_MAC.map(|byte| format!("{byte:02x}")).join(":");
        let mut lines = String::new();
        for (index, name) in TAPS.iter().enumerate() {
            let guest = rules::MACS[index].map(|byte| format!("{byte:02x}")).join(":");
            let address = rules::address(false, u8::try_from(index)?);
            let _ = writeln!(
                lines,
                "link set {name} address {mac}\nlink set {name} up\nroute add {address}/32 dev {name}"
            );
            let _ = writeln!(
                lines,
                "neigh replace {address} lladdr {guest} dev {name} nud permanent"
            );
        }
        namespace.ip(&lines);
        namespace.set_sysctls(&[("net/ipv4/ip_forward", "1")]);
        let ifindexes = namespace.run(|| TAPS.map(|name| nix::net::if_::if_nametoindex(name).unwrap_or(0)));
        let target = [("BENCH_TARGET", ifindexes[1])];
        let mut object = bed::load(false, RULES, TAPS, ifindexes, &target)?;
        namespace.run(|| attach(&mut object, surface))?;
        if let Surface::Iptables(restore) = surface {
            namespace.feed("ipset", &["restore"], &felix::sets());
            namespace.feed(restore, &["--noflush"], &felix::rules(RULES, TAPS));
        }
        let mut context = [0; 24];
        let frame = bed::frame(false);
        context[4..8].copy_from_slice(&u32::try_from(frame.len())?.to_ne_bytes());
        context[12..16].copy_from_slice(&ifindexes[0].to_ne_bytes());
        let road = Self {
            namespace,
            object,
            frame,
            context,
            taps,
        };
        road.establish(surface)?;
        Ok(road)
    }

    /// Sends one packet each way, so that the flow is established, and shows that both arrive.
    fn establish(&self, surface: Surface) -> anyhow::Result<()> {
        let [sender, receiver] = &self.taps;
        sender.send(&self.frame)?;
        expect_frame(receiver).context("the first packet does not arrive")?;
        if matches!(surface, Surface::Redirect) {
            return Ok(());
        }
        receiver.send(&answer(&self.frame))?;
        expect_frame(sender).context("the answer does not arrive")
    }

    /// Returns nanoseconds a packet, without the generator.
    fn nanoseconds(&self) -> anyhow::Result<f64> {
        let whole = self.generate("bench_generate")?;
        let generator = self.generate("bench_generate_nothing")?;
        Ok(whole - generator)
    }

    fn generate(&self, name: &str) -> anyhow::Result<f64> {
        let program: &Xdp = self.object.program(name).context("no generator")?.try_into()?;
        self.namespace.run(|| {
            let start = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
            program.test_run(TestRunOptions {
                data_in: Some(&self.frame),
                ctx_in: Some(&self.context),
                repeat: FRAMES,
                attrs: TestRunAttrs::new().xdp_live_frames(64),
                ..TestRunOptions::new()
            })?;
            let end = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
            let seconds = Duration::from(end).as_secs_f64() - Duration::from(start).as_secs_f64();
            Ok(seconds * 1e9 / f64::from(FRAMES))
        })
    }
}

fn attach(object: &mut Ebpf, surface: Surface) -> anyhow::Result<()> {
    match surface {
        Surface::Ours => {
            for tap in TAPS {
                attach_to(object, maps::PROGRAM_FROM_WORKLOAD, tap, TcAttachType::Ingress)?;
                attach_to(object, maps::PROGRAM_TO_WORKLOAD, tap, TcAttachType::Egress)?;
            }
        }
        Surface::Redirect => attach_to(object, "bench_redirect", TAPS[0], TcAttachType::Ingress)?,
        Surface::Iptables(_) => {}
    }
    for name in ["bench_generate", "bench_generate_nothing"] {
        let program: &mut Xdp = object.program_mut(name).context("no generator")?.try_into()?;
        program.load()?;
    }
    Ok(())
}

fn attach_to(object: &mut Ebpf, name: &str, tap: &str, hook: TcAttachType) -> anyhow::Result<()> {
    let program: &mut SchedClassifier = bed::program(object, name)?;
    program.attach(tap, hook)?;
    Ok(())
}

/// Waits for an IPv4 UDP frame at a tap. Others (neighbour discovery of the host) are passed over.
fn expect_frame(tap: &Tap) -> anyhow::Result<()> {
    let mut buffer = vec![0; calico_ebpf_tests::tap::LARGEST];
    let deadline = std::time::Instant::now() + Duration::from_secs(2);
    while std::time::Instant::now() < deadline {
        match tap.read(&mut buffer) {
            Ok(length) => {
                let frame = &buffer[calico_ebpf_tests::tap::VNET_HEADER..length];
                if frame.get(12..14) == Some(&[8, 0]) && frame.get(23) == Some(&17) {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) => return Err(error.into()),
        }
    }
    ensure!(false, "no frame within 2 s");
    Ok(())
}

/// Returns the answer to a UDP frame without options: both ends exchanged.
fn answer(frame: &[u8]) -> Vec<u8> {
    let mut answer = frame.to_vec();
    answer[0..6].copy_from_slice(&HOST_MAC);
    answer[6..12].copy_from_slice(&rules::MACS[1]);
    answer[26..30].copy_from_slice(&frame[30..34]);
    answer[30..34].copy_from_slice(&frame[26..30]);
    answer[34..36].copy_from_slice(&frame[36..38]);
    answer[36..38].copy_from_slice(&frame[34..36]);
    answer
}
