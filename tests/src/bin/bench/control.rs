//! The control plane: from a key in etcd to a verdict in the kernel, in a large cloud.
//!
//! A real etcd on loopback, the real agent, a tap for each local endpoint. A change is in force when the class of the
//! address has changed in the table that packets are judged by: everything that it leads to was written before.

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use calico_ebpf_common::address::{Bucket4, CLASS_NONE, hashes4};
use calico_ebpf_common::line::Line;
use calico_ebpf_common::maps;
use calico_ebpf_common::root::Root;
use calico_ebpf_tests::agent::{Agent, Launcher};
use calico_ebpf_tests::cloud::{Cloud, LARGE, address, endpoint};
use calico_ebpf_tests::etcd::Etcd;
use calico_ebpf_tests::host::{Host, PIN_DIR};
use calico_ebpf_tests::manifests::{Manifests, key_of};
use calico_ebpf_tests::tap::Tap;
use calico_ebpf_userspace::dataplane::bpf_syscall::{MappedArray, open_pinned};
use calico_ebpf_userspace::dataplane::pins::Pins;
use serde::Serialize;
use serde_json::Value;

const HOSTNAME: &str = "compute-1";
/// Changes of labels.
const CHANGES: usize = 1000;
/// Changes that are not counted: the first ones find cold caches.
const WARM_UP: usize = 20;
/// Longest wait for anything.
const LIMIT: Duration = Duration::from_mins(2);
/// Pause between looks at the table.
const LOOK: Duration = Duration::from_micros(100);

/// What was measured; times in milliseconds.
#[derive(Serialize)]
struct Control {
    local_endpoints: usize,
    remote_endpoints: usize,
    groups: usize,
    members: usize,
    rules: usize,
    cold_start: ColdStart,
    change: Change,
    /// Resident memory of the agent at its highest, and without what it shares with the kernel's maps, in MiB.
    resident_mib: f64,
    anonymous_mib: f64,
    /// Versions of the policy table that the changes needed.
    new_versions: u32,
}

#[derive(Serialize)]
struct ColdStart {
    /// From the start of the process to the whole datastore having been read.
    read: f64,
    /// From there to policy being in force; the goal is 3,000.
    in_force: f64,
    /// Of this: calculating, and loading the programs.
    loaded: f64,
    /// Of this: attaching the programs to all taps.
    attached: f64,
    /// Of this: compiling and writing the table.
    table: f64,
    /// From there to all endpoints being up.
    up: f64,
}

#[derive(Serialize)]
struct Change {
    /// From before the write to etcd to the change being in force; the goal for `p99` is 20.
    total: Quantiles,
    /// Of this: etcd's answer to the write.
    etcd: Quantiles,
}

#[derive(Serialize)]
struct Quantiles {
    p50: f64,
    p99: f64,
    max: f64,
}

impl Quantiles {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |percent: usize| values.get(values.len() * percent / 100).or(values.last());
        Self {
            p50: at(50).copied().unwrap_or(0.0),
            p99: at(99).copied().unwrap_or(0.0),
            max: values.last().copied().unwrap_or(0.0),
        }
    }
}

/// Measures and prints.
pub(crate) fn run(json: bool, progress: &dyn Fn(&str)) -> anyhow::Result<()> {
    let control = measure(&LARGE, progress)?;
    let mut output = anstream::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut output, &control)?;
        writeln!(output)?;
    } else {
        write!(output, "{}", control.table()?)?;
    }
    Ok(())
}

fn measure(cloud: &Cloud, progress: &dyn Fn(&str)) -> anyhow::Result<Control> {
    let host = Host::new();
    let etcd = Etcd::start(host.namespace());
    progress("control: writing the cloud to etcd");
    let objects = cloud.objects(HOSTNAME);
    let pairs: Vec<(String, String)> = objects
        .iter()
        .map(|object| (key_of(object), object.to_string()))
        .collect();
    etcd.put_all(&pairs);
    let taps = make_taps(&host, &objects[..cloud.local]);
    drop(pairs);

    progress("control: cold start");
    let launcher = Launcher::new(&host, &Manifests::new(&host.directory().join("manifests")))
        .with_etcd(&etcd.endpoint())
        .with("BPFPolicyTableLines", "524288")
        .on(HOSTNAME);
    let started = Instant::now();
    let mut agent = launcher.spawn();
    let cold_start = cold_start(&host, &mut agent, cloud.local, started)?;

    progress("control: changes");
    let table = Table::open(&host)?;
    let epoch = agent.report().map_or(0, |report| report.epoch);
    let change = changes(cloud, &objects, &etcd, &table)?;
    sleep(Duration::from_secs(2));
    let new_versions = agent.report().map_or(0, |report| report.epoch) - epoch;
    let (resident_mib, anonymous_mib) = memory(agent.pid())?;
    drop(taps);
    Ok(Control {
        local_endpoints: cloud.local,
        remote_endpoints: cloud.remote,
        groups: cloud.groups,
        members: cloud.members,
        rules: cloud.rules,
        cold_start,
        change,
        resident_mib,
        anonymous_mib,
        new_versions,
    })
}

fn make_taps(host: &Host, endpoints: &[Value]) -> Vec<Tap> {
    let mut up = String::new();
    let taps = endpoints
        .iter()
        .filter_map(|object| object["spec"]["interfaceName"].as_str())
        .map(|name| {
            let _ = writeln!(up, "link set {name} up");
            Tap::create(host.namespace(), name)
        })
        .collect();
    host.namespace().ip(&up);
    taps
}

/// Waits for the marks of a start in the agent's log and report.
fn cold_start(host: &Host, agent: &mut Agent, local: usize, started: Instant) -> anyhow::Result<ColdStart> {
    let log = host.directory().join("agent.log");
    let read = wait_for_line(&log, "the datastore was read as a whole", started)?;
    let loaded = wait_for_line(&log, "programs loaded", started)?;
    let attached = wait_for_lines(&log, "programs attached", local, started)?;
    let in_force = wait_for_line(&log, "policy table in force", started)?;
    agent.wait_for("endpoints are up", |report| {
        let up = report.endpoints.iter().filter(|one| one.state == "up");
        up.count() == local
    });
    let up = started.elapsed();
    let table = agent.report().context("no report")?.tables.apply_milliseconds;
    Ok(ColdStart {
        read: milliseconds(read),
        in_force: milliseconds(in_force.saturating_sub(read)),
        loaded: milliseconds(loaded.saturating_sub(read)),
        attached: milliseconds(attached.saturating_sub(loaded)),
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        table: table as f64,
        up: milliseconds(up.saturating_sub(in_force)),
    })
}

fn wait_for_line(log: &Path, text: &str, started: Instant) -> anyhow::Result<Duration> {
    wait_for_lines(log, text, 1, started)
}

fn wait_for_lines(log: &Path, text: &str, count: usize, started: Instant) -> anyhow::Result<Duration> {
    while started.elapsed() < LIMIT {
        let log = std::fs::read_to_string(log).unwrap_or_default();
        if log.lines().filter(|line| line.contains(text)).count() >= count {
            return Ok(started.elapsed());
        }
        sleep(Duration::from_millis(2));
    }
    anyhow::bail!("the agent did not say {text:?} {count} times: see its log")
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Moves one remote endpoint at a time from a group that policies of this host name to another one.
fn changes(cloud: &Cloud, objects: &[Value], etcd: &Etcd, table: &Table) -> anyhow::Result<Change> {
    let memberships = cloud.memberships();
    let named = named_groups(cloud, objects, &memberships);
    let (mut total, mut of_etcd) = (Vec::new(), Vec::new());
    for number in 0..WARM_UP + CHANGES {
        let index = cloud.local + number * 7 % cloud.remote;
        let mut groups = memberships[index].clone();
        let new = (0..named.len())
            .map(|step| named[(number * 31 + step) % named.len()])
            .find(|group| !groups.contains(group))
            .context("a group to move to")?;
        groups.retain(|group| Some(group) != memberships[index].first());
        groups.push(new);
        let object = endpoint(index, &cloud.host(index, HOSTNAME), &groups);
        let (key, text) = (key_of(&object), object.to_string());
        let before = table.class(index)?;
        let started = Instant::now();
        etcd.put(&key, text);
        let answered = started.elapsed();
        while table.class(index)? == before {
            ensure!(
                started.elapsed() < LIMIT,
                "change {number} of {} never came into force",
                address(index)
            );
            sleep(LOOK);
        }
        if number >= WARM_UP {
            total.push(milliseconds(started.elapsed()));
            of_etcd.push(milliseconds(answered));
        }
        sleep(Duration::from_millis(5));
    }
    Ok(Change {
        total: Quantiles::of(total),
        etcd: Quantiles::of(of_etcd),
    })
}

/// Returns the groups that rules of local endpoints name: membership of the others is nothing to this host.
fn named_groups(cloud: &Cloud, objects: &[Value], memberships: &[Vec<usize>]) -> Vec<usize> {
    let policies = &objects[cloud.local + cloud.remote..];
    let local = memberships[..cloud.local].iter().flatten();
    let texts: Vec<String> = local
        .map(|group| policies[*group]["spec"]["ingress"].to_string())
        .collect();
    let text = texts.concat();
    (0..cloud.groups)
        .filter(|group| text.contains(&calico_ebpf_tests::cloud::label(*group)))
        .collect()
}

/// The policy table in the kernel.
struct Table {
    lines: MappedArray<Line>,
    active: MappedArray<u64>,
}

impl Table {
    fn open(host: &Host) -> anyhow::Result<Self> {
        let pins = Pins::below(Path::new(PIN_DIR));
        host.namespace().run(|| {
            let lines = open_pinned(&pins.map(maps::POLICY)).context("the policy table")?;
            let active = open_pinned(&pins.map(maps::ACTIVE)).context("the active root")?;
            Ok(Self {
                lines: MappedArray::map_for_reading(lines, 524_288)?,
                active: MappedArray::map_for_reading(active, 1)?,
            })
        })
    }

    /// Returns version and class of an endpoint's address; class 0 when it has no entry.
    fn class(&self, index: usize) -> anyhow::Result<(u64, u16)> {
        let active = self.active.load_acquire(0)?;
        let line = |number: u32| -> anyhow::Result<Line> {
            let read = self.lines.read(number as usize, 1)?;
            read.first().copied().context("a line")
        };
        let root = line(u32::try_from(active)?)?;
        let root: &Root = root.read_as();
        let key = address(index).to_bits();
        for hash in hashes4(root.hash_seed(), key) {
            let bucket = line(root.exact4 + (hash & root.exact4_mask))?;
            let bucket: &Bucket4 = bucket.read_as();
            let entry = (0..bucket.keys.len())
                .find(|entry| bucket.keys[*entry] == key && bucket.classes[*entry] != CLASS_NONE);
            if let Some(entry) = entry {
                return Ok((active, bucket.classes[entry]));
            }
        }
        Ok((active, CLASS_NONE))
    }
}

/// Returns the highest resident memory of a process and its anonymous part now, in MiB.
fn memory(process: u32) -> anyhow::Result<(f64, f64)> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let field = |name: &str| -> anyhow::Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes: f64 = line
            .and_then(|rest| rest.split_whitespace().next())
            .context("a figure")?
            .parse()?;
        Ok(kilobytes / 1024.0)
    };
    Ok((field("VmHWM:")?, field("RssAnon:")?))
}

impl Control {
    fn table(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        writeln!(
            text,
            "{} local and {} remote endpoints, {} groups of {} members and {} rules",
            self.local_endpoints, self.remote_endpoints, self.groups, self.members, self.rules
        )?;
        let mut row = |what: &str, value: f64, unit: &str, goal: Option<f64>| match goal {
            Some(goal) => {
                let word = if value <= goal { "met" } else { "not met" };
                writeln!(text, "{what:<52} {value:>9.1} {unit:<4} goal {goal:>6.0} {word}")
            }
            None => writeln!(text, "{what:<52} {value:>9.1} {unit}"),
        };
        let ColdStart {
            read,
            in_force,
            loaded,
            attached,
            table,
            up,
        } = self.cold_start;
        row("cold start: process to datastore read", read, "ms", None)?;
        row(
            "cold start: datastore read to in force",
            in_force,
            "ms",
            Some(3000.0),
        )?;
        row("    of this: calculated, programs loaded", loaded, "ms", None)?;
        row("    of this: programs attached to all taps", attached, "ms", None)?;
        row("    of this: table compiled and written", table, "ms", None)?;
        row("cold start: in force to all endpoints up", up, "ms", None)?;
        let (total, etcd) = (&self.change.total, &self.change.etcd);
        row(
            "label of a remote endpoint: write to in force, p50",
            total.p50,
            "ms",
            None,
        )?;
        row(
            "label of a remote endpoint: write to in force, p99",
            total.p99,
            "ms",
            Some(20.0),
        )?;
        row(
            "label of a remote endpoint: write to in force, max",
            total.max,
            "ms",
            None,
        )?;
        row("    of this: etcd's answer, p50", etcd.p50, "ms", None)?;
        row("    of this: etcd's answer, p99", etcd.p99, "ms", None)?;
        row(
            "new versions of the table for these changes",
            f64::from(self.new_versions),
            "",
            None,
        )?;
        row("resident memory, highest", self.resident_mib, "MiB", Some(300.0))?;
        row("    anonymous, at the end", self.anonymous_mib, "MiB", None)?;
        Ok(text)
    }
}
