//! One run: two guests that talk, the attacker beside them, and the host without this project for comparison.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use calico_ebpf_tests::agent::Launcher;
use calico_ebpf_tests::guest::{Guest, Vm};
use calico_ebpf_tests::host::PIN_DIR;
use calico_ebpf_tests::manifests::{
    Manifests, allow_tcp, allow_udp, network_policy, only_from, workload_endpoint,
};
use calico_ebpf_tests::scene::Scene;
use calico_ebpf_tests::tap::Tap;
use calico_ebpf_tests::traffic::Server;
use calico_ebpf_userspace::observe::pinned::PinnedMaps;
use serde_json::json;

use crate::bare::{Bare, plug};
use crate::counted::Counted;
use crate::mixture::{Kind, Mixture, ROUNDS};
use crate::ports;
use crate::progress::Progress;
use crate::quota::{self, Share};
use crate::sender::{Sent, Until, send};
use crate::talk::seen::{Phase, Seen};
use crate::talk::{self, Cues};

/// Names of the guests that talk.
pub(crate) const GUESTS: [&str; 2] = ["left", "right"];
const ATTACKER: &str = "attacker";

/// Slices of the host without this project, before the attack and after it.
const SLICES: usize = 3;
const SLICE: Duration = Duration::from_secs(1);
/// How long the talk is measured without the attack, at most.
const BEFORE: u64 = 15;

/// What is different from one run to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// Parameters of the agent. The fixtures' own are for small tables.
    pub(crate) parameters: &'static [(&'static str, &'static str)],
}

/// What a run has seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) seen: Seen,
    /// Seconds of the phases.
    pub(crate) before: f64,
    pub(crate) attack: f64,
    /// By the attacker, while the talk went on.
    pub(crate) sent: Sent,
    pub(crate) by_second: Vec<u64>,
    /// Frames of each kind in what is sent over and over.
    pub(crate) mixture: BTreeMap<Kind, usize>,
    pub(crate) bare: Sent,
    /// On a tap whose frames are thrown away.
    pub(crate) sink: Sent,
    /// Packets of the comparison that its host forwarded.
    pub(crate) bare_forwarded: u64,
    pub(crate) shares: Vec<Share>,
    pub(crate) attacker: String,
    /// Flows in both tables at the end of the attack, and the room of each.
    pub(crate) flows: [u64; 2],
    pub(crate) flow_room: Option<u32>,
    /// Packets by reason, during the attack.
    pub(crate) counted: Counted,
    /// SYNs that the guests had to send again during the attack.
    pub(crate) repeated_syns: u64,
}

/// Runs one setting.
///
/// # Errors
///
/// When it could not be measured: the bed does not stand, or the machine is too slow for the talk alone.
pub(crate) fn run(setting: &Setting, seconds: u64, progress: &Progress) -> anyhow::Result<Outcome> {
    progress.title(setting.name, setting.about);
    let bed = Bed::new(setting);
    let mut agent = bed.launcher.start(3);
    let victims = bed.guests();
    let mut mixture = Mixture::new(&bed.attacker, victims.map(Guest::vm), ROUNDS);
    progress.step(&format!("{} frames are ready", mixture.len()));
    let bare = Bare::new(&bed.attacker, victims.map(Guest::vm));
    let cues = Cues::new();
    thread::scope(|scope| {
        let talk = scope.spawn(|| talk::talk(victims, &cues));
        let over = Over(&cues);
        progress.step(&format!("{} connections are opened", talk::HELD));
        talk::wait_until_held(&cues)?;
        let mut measured = Measured::new(&bed, &cues, progress);
        measured.before(seconds);
        let first = measured.bare(&bare, &mut mixture)?;
        let attack = measured.attack(seconds, &mut mixture)?;
        let shares = quota::shares(&bed.launcher);
        let maps = PinnedMaps::under(Path::new(PIN_DIR));
        let (flows, flow_room) = bed
            .scene
            .host()
            .namespace()
            .run(|| (maps.flow_counts(), maps.flow_room()));
        let (v4, v6) = flows.context("count the flows")?;
        let second = measured.bare(&bare, &mut mixture)?;
        progress.step("the connections come to their end");
        drop(over);
        talk.join().expect("the talk does not panic")?;
        agent.wait_for("it lives after the attack", |_| true);
        Ok(Outcome {
            seen: cues.seen(),
            before: measured.before,
            attack: attack.seconds,
            sent: attack.sent,
            by_second: attack.by_second,
            mixture: mixture.kinds(),
            bare: first[0].and(second[0]),
            sink: first[1].and(second[1]),
            bare_forwarded: bare.forwarded(),
            shares,
            attacker: bed.attacker.interface(),
            flows: [v4, v6],
            flow_room,
            counted: attack.counted,
            repeated_syns: attack.repeated_syns,
        })
    })
}

/// Ends the talk, also when something before its end fails.
struct Over<'a>(&'a Cues);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

/// Guests, the attacker's tap, policy and agent of the host under attack.
struct Bed {
    tap: Tap,
    launcher: Launcher,
    attacker: Vm,
    _listeners: Vec<Server>,
    scene: Scene,
}

impl Bed {
    fn new(setting: &Setting) -> Self {
        let scene = Scene::new(&GUESTS);
        let attacker = Vm::new(ATTACKER, 3);
        let tap = plug(scene.host(), &attacker);
        scene.manifests().put(&workload_endpoint(&attacker));
        put_policy(scene.manifests());
        let listeners = scene.guests().iter().flat_map(|guest| {
            [
                Server::tcp(guest.namespace(), ports::OPEN),
                Server::udp(guest.namespace(), ports::ECHO),
            ]
        });
        let listeners = listeners.collect();
        let parameters = setting.parameters.iter();
        let launcher = parameters.fold(scene.launcher(), |launcher, (name, value)| {
            launcher.with(name, value)
        });
        Self {
            tap,
            launcher,
            attacker,
            _listeners: listeners,
            scene,
        }
    }

    fn guests(&self) -> [&Guest; 2] {
        GUESTS.map(|name| self.scene.guest(name))
    }

    fn repeated_syns(&self) -> u64 {
        let of = |guest: &Guest| guest.namespace().netstat("TcpExt", "TCPSynRetrans");
        self.guests().map(of).iter().sum()
    }
}

/// Everybody may open the ports that a service has; the two may open their own connections. The attacker may send what
/// it likes, but for one port.
fn put_policy(manifests: &Manifests) {
    let talkers = format!("name in {{'{}', '{}'}}", GUESTS[0], GUESTS[1]);
    manifests.put(
        &network_policy("guests", &talkers)
            .ingress(only_from(allow_tcp(ports::TALK), &talkers))
            .ingress(allow_tcp(ports::OPEN))
            .ingress(allow_tcp(ports::CLOSED))
            .ingress(allow_udp(ports::ECHO))
            .egress(json!({ "action": "Allow" })),
    );
    let forbidden = json!({
        "action": "Deny", "protocol": "TCP", "destination": { "ports": [ports::FORBIDDEN] }
    });
    manifests.put(
        &network_policy(ATTACKER, &format!("name == '{ATTACKER}'"))
            .egress(forbidden)
            .egress(json!({ "action": "Allow" })),
    );
}

/// Goes through the phases of a run.
struct Measured<'a> {
    bed: &'a Bed,
    cues: &'a Cues,
    progress: &'a Progress,
    before: f64,
}

/// What was measured under attack.
struct Attack {
    seconds: f64,
    sent: Sent,
    by_second: Vec<u64>,
    counted: Counted,
    repeated_syns: u64,
}

impl<'a> Measured<'a> {
    fn new(bed: &'a Bed, cues: &'a Cues, progress: &'a Progress) -> Self {
        Self {
            bed,
            cues,
            progress,
            before: 0.0,
        }
    }

    /// The talk without the attack.
    fn before(&mut self, seconds: u64) {
        self.cues.is_opening.store(true, Ordering::Relaxed);
        self.cues.enter(Phase::Before);
        let start = Instant::now();
        for second in 1..=seconds.min(BEFORE) {
            sleep_until(start + Duration::from_secs(second));
            self.progress
                .talk(second, seconds.min(BEFORE), &self.cues.seen().before);
        }
        self.before = start.elapsed().as_secs_f64();
        self.cues.enter(Phase::Around);
    }

    /// The same frames on the host without this project, and where they are thrown away, while the talk goes on.
    fn bare(&self, bare: &Bare, mixture: &mut Mixture) -> anyhow::Result<[Sent; 2]> {
        let mut all = [Sent::default(); 2];
        for _ in 0..SLICES {
            let forwarded = bare.forwarded();
            let mut slice = |tap: &Tap| send(tap, mixture, &Until::Passed(SLICE), &AtomicU64::new(0));
            let forwarding = slice(bare.tap())?;
            ensure!(
                bare.forwarded() > forwarded,
                "the host without this project forwards nothing: its rate is none to compare with"
            );
            let sink = slice(bare.sink())?;
            self.progress
                .bare(forwarding.packets_per_second(), sink.packets_per_second());
            all = [all[0].and(forwarding), all[1].and(sink)];
        }
        Ok(all)
    }

    fn attack(&self, seconds: u64, mixture: &mut Mixture) -> anyhow::Result<Attack> {
        let (bed, cues) = (self.bed, self.cues);
        let before = Counted::read(&bed.launcher);
        let repeated_syns = bed.repeated_syns();
        let (stop, counter) = (AtomicBool::new(false), AtomicU64::new(0));
        let mut by_second = Vec::new();
        let start = Instant::now();
        cues.enter(Phase::Attack);
        let sent = thread::scope(|scope| {
            let sender = scope.spawn(|| send(&bed.tap, mixture, &Until::Told(&stop), &counter));
            // Also when the wait fails: the scope ends with the sender.
            let stop = Stop(&stop);
            let mut last = 0;
            for second in 1..=seconds {
                sleep_until(start + Duration::from_secs(second));
                ensure!(!sender.is_finished(), "the attacker stopped by itself");
                let now = counter.load(Ordering::Relaxed);
                by_second.push(now - last);
                self.progress.attack(second, seconds, now - last, &cues.seen());
                last = now;
            }
            drop(stop);
            sender.join().expect("the sender does not panic")
        })?;
        cues.enter(Phase::Around);
        let seconds = start.elapsed().as_secs_f64();
        let packets = Counted::read(&bed.launcher).since(&before);
        Ok(Attack {
            seconds,
            sent,
            by_second,
            counted: packets,
            repeated_syns: bed.repeated_syns() - repeated_syns,
        })
    }
}

fn sleep_until(time: Instant) {
    thread::sleep(time.saturating_duration_since(Instant::now()));
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
