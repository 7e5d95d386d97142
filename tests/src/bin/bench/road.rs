//! The whole path from tap to tap, without a sender's system calls: an XDP program run on live frames passes each
//! frame to the stack as if it had come in by the tap (Linux 5.18). TC ingress, redirect or forwarding and the other
//! tap's transmit run in the calling thread, so its processor time is the path's cost. The generator's own cost is
//! subtracted. Nobody reads the receiving tap; its ring is full, alike for all.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use aya::Ebpf;
use aya::maps::Array;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::programs::tc::TcAttachType;
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp};
use calico_ebpf_common::bench::{LinearRule, Vary};
use calico_ebpf_common::maps;
use calico_ebpf_tests::netns::Netns;
use calico_ebpf_tests::tap::{LARGEST, Tap, VNET_HEADER};

use crate::bed::{self, Bed, HOST_MAC};
use crate::cpu_time::cpu_nanoseconds;
use crate::felix;
use crate::rules::{self, Peer, Policy};

const TAPS: [&str; 2] = ["tapbencha", "tapbenchb"];
/// Frames that the kernel takes at once.
pub(crate) const BATCH: u32 = 64;
/// Source ports of new flows, 60,032: from behind that of the established one, and fewer than there are.
const FIRST_NEW_PORT: u32 = 40_001;
pub(crate) const NEW_PORTS: u32 = BATCH * 938;

/// What forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Surface {
    Ours,
    Redirect,
    /// A program that walks the rules.
    Linear,
    /// The program that restores rules.
    Iptables(&'static str),
}

/// Two taps in a namespace of their own, with what forwards between them.
pub(crate) struct Road {
    pub(crate) surface: Surface,
    pub(crate) namespace: Netns,
    pub(crate) object: Ebpf,
    pub(crate) ifindexes: [u32; 2],
    /// Sender and receiver.
    pub(crate) taps: [Tap; 2],
    frame: Vec<u8>,
    context: [u8; 24],
    /// New flows so far.
    opened: u32,
}

impl Road {
    /// Builds the road and shows that a packet arrives, and its answer.
    pub(crate) fn new(surface: Surface, policy: &Policy, flows: u32) -> anyhow::Result<Self> {
        let namespace = Netns::host();
        let taps = TAPS.map(|name| Tap::create(&namespace, name));
        namespace.ip(&ip_commands());
        namespace.set_sysctls(&[("net/ipv4/ip_forward", "1")]);
        let ifindexes = namespace.run(|| TAPS.map(|name| nix::net::if_::if_nametoindex(name).unwrap_or(0)));
        let tracks = matches!(surface, Surface::Ours | Surface::Linear);
        let mut settings = vec![("BENCH_TARGET", ifindexes[1])];
        if surface == Surface::Linear {
            settings.push(("BENCH_LINEAR_COUNT", u32::try_from(policy.rules)?));
        }
        let bed = Bed {
            policy: (surface == Surface::Ours).then_some(*policy),
            names: TAPS,
            ifindexes,
            flows: if tracks { flows } else { 1024 },
            settings,
            ..Bed::new(*policy)
        };
        let mut object = bed.load()?;
        if surface == Surface::Linear {
            fill_linear(&mut object, policy)?;
        }
        namespace.run(|| attach(&mut object, surface))?;
        if let Surface::Iptables(restore) = surface {
            namespace.feed("ipset", &["restore"], &felix::sets(policy, TAPS.len()));
            namespace.feed(restore, &["--noflush"], &felix::rules(policy, &TAPS, 1));
        }
        let mut context = [0; 24];
        let frame = bed::frame(false);
        context[4..8].copy_from_slice(&u32::try_from(frame.len())?.to_ne_bytes());
        context[12..16].copy_from_slice(&ifindexes[0].to_ne_bytes());
        let road = Self {
            surface,
            namespace,
            object,
            ifindexes,
            taps,
            frame,
            context,
            opened: 0,
        };
        if policy.protocol == 17 {
            road.establish().with_context(|| format!("{surface:?}"))?;
        }
        Ok(road)
    }

    /// Sends one packet each way, so that the flow is established, and shows that both arrive.
    fn establish(&self) -> anyhow::Result<()> {
        let [sender, receiver] = &self.taps;
        sender.send(&self.frame)?;
        expect_frame(receiver).context("the first packet does not arrive")?;
        if matches!(self.surface, Surface::Redirect | Surface::Linear) {
            return Ok(());
        }
        receiver.send(&answer(&self.frame))?;
        expect_frame(sender).context("the answer does not arrive")
    }

    /// Returns nanoseconds a packet of the established flow.
    pub(crate) fn established(&mut self, frames: u32) -> anyhow::Result<f64> {
        self.nanoseconds(frames, Vary::default())
    }

    /// Returns nanoseconds a packet, each of which goes on with the next of `flows` flows.
    pub(crate) fn round_robin(&mut self, frames: u32, flows: u32) -> anyhow::Result<f64> {
        self.nanoseconds(
            frames,
            Vary {
                ports: flows,
                first_port: FIRST_NEW_PORT,
                ..Vary::default()
            },
        )
    }

    /// Returns nanoseconds a packet, each of which opens a flow, and shows that each did.
    pub(crate) fn new_flows(&mut self, frames: u32) -> anyhow::Result<f64> {
        ensure!(
            self.opened + frames <= NEW_PORTS,
            "no source port is left for another {frames} flows"
        );
        let before = self.count_flows()?;
        let nanoseconds = self.nanoseconds(
            frames,
            Vary {
                ports: NEW_PORTS,
                first_port: FIRST_NEW_PORT + self.opened,
                ..Vary::default()
            },
        )?;
        self.opened += frames;
        if let (Some(before), Some(after)) = (before, self.count_flows()?) {
            let opened = after.saturating_sub(before);
            // The kernel's own conntrack may have expired some from before.
            ensure!(
                opened + u64::from(frames) / 10 >= u64::from(frames),
                "{:?}: {frames} packets opened {opened} flows",
                self.surface
            );
        }
        Ok(nanoseconds)
    }

    /// Returns the number of flows, where they are tracked.
    fn count_flows(&mut self) -> anyhow::Result<Option<u64>> {
        Ok(match self.surface {
            Surface::Redirect => None,
            Surface::Iptables(_) => {
                let count = self.namespace.sysctl("net/netfilter/nf_conntrack_count");
                Some(count.parse()?)
            }
            Surface::Ours | Surface::Linear => Some(bed::count_flows(&self.object)? as u64),
        })
    }

    /// Returns nanoseconds a packet, without the generator.
    fn nanoseconds(&mut self, frames: u32, vary: Vary) -> anyhow::Result<f64> {
        let whole = self.generate("bench_generate", frames, vary)?;
        let generator = self.generate("bench_generate_nothing", frames, vary)?;
        Ok(whole - generator)
    }

    fn generate(&mut self, name: &str, frames: u32, vary: Vary) -> anyhow::Result<f64> {
        bed::vary(&mut self.object, vary)?;
        let program: &Xdp = self.object.program(name).context("no generator")?.try_into()?;
        let (frame, context) = (&self.frame, &self.context);
        self.namespace.run(|| {
            let nanoseconds = cpu_nanoseconds(|| {
                program.test_run(TestRunOptions {
                    data_in: Some(frame),
                    ctx_in: Some(context),
                    repeat: frames,
                    attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                    ..TestRunOptions::new()
                })?;
                Ok(())
            })?;
            Ok(nanoseconds / f64::from(frames))
        })
    }
}

fn ip_commands() -> String {
    let mac = HOST_MAC.map(|byte| format!("{byte:02x}")).join(":");
    let mut lines = String::new();
    for (index, name) in TAPS.iter().enumerate() {
        let guest = rules::MACS[index].map(|byte| format!("{byte:02x}")).join(":");
        let address = rules::address(false, index);
        let _ = writeln!(
            lines,
            "link set {name} address {mac}\nlink set {name} up\nroute add {address}/32 dev {name}"
        );
        let _ = writeln!(
            lines,
            "neigh replace {address} lladdr {guest} dev {name} nud permanent"
        );
    }
    lines
}

fn attach(object: &mut Ebpf, surface: Surface) -> anyhow::Result<()> {
    let hooks: &[(&str, usize, TcAttachType)] = match surface {
        Surface::Ours => &[
            (maps::PROGRAM_FROM_WORKLOAD, 0, TcAttachType::Ingress),
            (maps::PROGRAM_TO_WORKLOAD, 0, TcAttachType::Egress),
            (maps::PROGRAM_FROM_WORKLOAD, 1, TcAttachType::Ingress),
            (maps::PROGRAM_TO_WORKLOAD, 1, TcAttachType::Egress),
        ],
        Surface::Redirect => &[("bench_redirect", 0, TcAttachType::Ingress)],
        Surface::Linear => &[("bench_linear", 0, TcAttachType::Ingress)],
        Surface::Iptables(_) => &[],
    };
    for (name, tap, hook) in hooks {
        bed::program(object, name)?.attach(TAPS[*tap], *hook)?;
    }
    for name in ["bench_generate", "bench_generate_nothing"] {
        let program: &mut Xdp = object.program_mut(name).context("no generator")?.try_into()?;
        program.load()?;
    }
    Ok(())
}

/// Writes the rules, and the sets that they name, for the walk.
fn fill_linear(object: &mut Ebpf, policy: &Policy) -> anyhow::Result<()> {
    let map = object.map_mut("BENCH_LINEAR").context("no map of rules")?;
    let mut walked: Array<_, LinearRule> = Array::try_from(map)?;
    for index in 0..policy.rules {
        let (peer, port) = policy.rule(index);
        let (net, set) = match peer {
            Peer::Net(net) => (Some(net), 0),
            Peer::Set(set) => (None, set + 1),
            Peer::Everybody => (None, policy.sets + 1),
            Peer::Anyone => (None, 0),
        };
        let rule = LinearRule {
            net: net.map_or(0, |net| net.network().to_bits()),
            mask: net.map_or(0, |net| net.netmask().to_bits()),
            set: u32::try_from(set)?,
            first_port: port,
            last_port: port,
        };
        walked.set(u32::try_from(index)?, rule, 0)?;
    }
    let map = object.map_mut("BENCH_LINEAR_SETS").context("no map of sets")?;
    let mut sets: LpmTrie<_, [u8; 8], u32> = LpmTrie::try_from(map)?;
    let mut insert = |set: usize, address: std::net::IpAddr| -> anyhow::Result<()> {
        if let std::net::IpAddr::V4(address) = address {
            let mut key = [0; 8];
            key[..4].copy_from_slice(&u32::try_from(set)?.to_be_bytes());
            key[4..].copy_from_slice(&address.octets());
            sets.insert(&Key::new(64, key), 1, 0)?;
        }
        Ok(())
    };
    for set in 0..policy.sets {
        for address in policy.members(set) {
            insert(set + 1, address)?;
        }
    }
    if policy.names_everybody() {
        for address in policy.everybody(TAPS.len()) {
            insert(policy.sets + 1, address)?;
        }
    }
    Ok(())
}

/// Waits for an IPv4 UDP frame at a tap. Others (neighbour discovery of the host) are passed over.
fn expect_frame(tap: &Tap) -> anyhow::Result<()> {
    next_frame(tap, |frame| frame.get(23) == Some(&17)).map(|_| ())
}

/// Returns the next IPv4 frame that `wanted` names, with its virtio-net header.
pub(crate) fn next_frame(tap: &Tap, wanted: impl Fn(&[u8]) -> bool) -> anyhow::Result<Vec<u8>> {
    let mut buffer = vec![0; LARGEST];
    let deadline = Instant::now() + Duration::from_secs(2);
    while Instant::now() < deadline {
        match tap.read(&mut buffer) {
            Ok(length) => {
                let frame = &buffer[VNET_HEADER..length];
                if frame.get(12..14) == Some(&[8, 0]) && wanted(frame) {
                    buffer.truncate(length);
                    return Ok(buffer);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) => return Err(error.into()),
        }
    }
    anyhow::bail!("no frame within 2 s")
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
