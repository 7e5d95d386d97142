//! A host of a recorded cloud: a tap for each of its ports, the agent, and the rest of the cloud behind the uplink.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use calico_ebpf_tests::agent::{Agent, Launcher};
use calico_ebpf_tests::etcd::Etcd;
use calico_ebpf_tests::host::Host;
use calico_ebpf_tests::manifests::{Manifests, Object, key_of};
use calico_ebpf_tests::packets::Packet;
use calico_ebpf_tests::port::Port;
use calico_ebpf_tests::recording::{Group, GroupRule, RecordedPort, Recording};
use calico_ebpf_tests::wait;
use calico_ebpf_tests::wire::Wire;
use serde_json::{Value, json};

use super::flavour::Flavour;
use super::volley::{seen_in, token};

/// MAC addresses at both ends of the host's uplink.
const OUTSIDE_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];
const UPLINK_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
/// A host that is in no recording.
const THIRD_HOST: &str = "compute-3";
/// Where the packets come from that tell that a change is in force, and the first of their ports.
const CANARY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 250);
const CANARY_PORT: u16 = 60_000;
/// A change may take so long to be in force.
const IN_FORCE: Duration = Duration::from_secs(20);

/// One end of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    /// A port of this host, by its place in [`Cloud::ports`].
    Port(usize),
    /// Behind the uplink.
    Outside,
}

/// A port that is plugged into this host.
pub(super) struct Local {
    pub(super) recorded: RecordedPort,
    pub(super) port: Port,
    /// Whether the recording has it: others were added for what cannot be probed with those.
    pub(super) is_recorded: bool,
}

impl Local {
    /// Returns the first fixed address of a family.
    pub(super) fn address(&self, is_v4: bool) -> Option<IpAddr> {
        let addresses = self.recorded.addresses();
        addresses.into_iter().find(|address| address.is_ipv4() == is_v4)
    }
}

/// The host and what it knows. What ends first is declared first.
pub(super) struct Cloud {
    hostname: &'static str,
    agent: Agent,
    launcher: Launcher,
    etcd: Etcd,
    locals: Vec<Local>,
    /// Ports of other hosts.
    remotes: Vec<RecordedPort>,
    groups: Vec<Group>,
    rules: Vec<GroupRule>,
    /// Objects that are neither endpoints nor groups.
    others: Vec<Value>,
    wire: Wire,
    host: Host,
    numbers: Cell<usize>,
    changes: u16,
    /// VMs that were on their way here.
    arrivals: usize,
}

impl Cloud {
    /// Plugs in every port of a host, starts the agent there and waits until all are in force. For each group two
    /// ports are added that are in this group alone, one here and one on another host, and one port without groups.
    pub(super) fn start(recording: &Recording, hostname: &'static str) -> Self {
        let host = Host::new();
        let wire = Wire::tap(host.outside(), "eth0");
        let groups = recording.groups();
        let (here, remotes): (Vec<_>, Vec<_>) = recording
            .ports()
            .into_iter()
            .partition(|port| port.host() == hostname);
        let template = here.first().expect("a port on this host").clone();
        let mut locals: Vec<_> = here.into_iter().map(|port| (port, true)).collect();
        let mut remotes = remotes;
        let bare = template.another(hostname, 1, &[], &added_addresses(1));
        locals.push((bare, false));
        for (group, number) in groups.iter().zip((10..).step_by(2)) {
            let of = |host, number| template.another(host, number, &[group.id()], &added_addresses(number));
            locals.push((of(hostname, number), false));
            remotes.push(of(THIRD_HOST, number + 1));
        }
        let plug = |(recorded, is_recorded): (RecordedPort, bool)| Local {
            port: Port::plug(&host, recorded.interface(), recorded.mac(), recorded.nets()),
            recorded,
            is_recorded,
        };
        let locals: Vec<_> = locals.into_iter().map(plug).collect();
        let etcd = Etcd::start(host.namespace());
        let recorded = recording.pairs().iter();
        let recorded: Vec<_> = recorded
            .map(|(key, value)| (key.clone(), value.to_string()))
            .collect();
        etcd.put_all(&recorded);
        let added = locals.iter().filter(|local| !local.is_recorded);
        put(
            &etcd,
            added
                .map(|local| &local.recorded)
                .chain(&remotes)
                .map(|port| &port.0),
        );
        let nothing = Manifests::new(&host.directory().join("manifests"));
        let launcher = Launcher::new(&host, &nothing)
            .with_etcd(&etcd.endpoint())
            .on(hostname)
            .with("AllowIPIPPacketsFromWorkloads", "true");
        let agent = launcher.start(locals.len());
        let mut cloud = Self {
            hostname,
            agent,
            launcher,
            etcd,
            rules: groups.iter().flat_map(Group::rules).collect(),
            groups,
            locals,
            remotes,
            others: Vec::new(),
            wire,
            host,
            numbers: Cell::new(0),
            changes: 0,
            arrivals: 0,
        };
        cloud.arrivals = cloud.receive(recording);
        cloud.await_change();
        cloud
    }

    pub(super) fn hostname(&self) -> &str {
        self.hostname
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    pub(super) fn launcher(&self) -> &Launcher {
        &self.launcher
    }

    /// How many VMs were on their way here.
    pub(super) fn arrivals(&self) -> usize {
        self.arrivals
    }

    /// Every port of this host.
    pub(super) fn ports(&self) -> &[Local] {
        &self.locals
    }

    /// Ports of other hosts.
    pub(super) fn remotes(&self) -> &[RecordedPort] {
        &self.remotes
    }

    /// The port without groups that was added.
    pub(super) fn bare(&self) -> usize {
        self.position(|local| !local.is_recorded && local.recorded.groups().is_empty())
    }

    /// The port that was added for one group.
    pub(super) fn port_of_group(&self, group: &str) -> usize {
        self.position(|local| !local.is_recorded && local.recorded.groups().contains(group))
    }

    fn position(&self, wanted: impl Fn(&Local) -> bool) -> usize {
        self.locals.iter().position(wanted).expect("a port was added")
    }

    /// Every rule that is in force.
    pub(super) fn rules(&self) -> &[GroupRule] {
        &self.rules
    }

    /// Returns every object in force, without some rules.
    pub(super) fn objects_without(&self, rules: &[GroupRule]) -> Vec<Value> {
        let left: Vec<_> = self
            .rules
            .iter()
            .filter(|rule| !rules.contains(rule))
            .cloned()
            .collect();
        let groups = self.groups.iter().map(|group| group.with_rules(&left).0);
        let ports = self
            .locals
            .iter()
            .map(|local| &local.recorded)
            .chain(&self.remotes);
        groups
            .chain(ports.map(|port| port.0.clone()))
            .chain(self.others.iter().cloned())
            .collect()
    }

    /// Takes rules out of their groups and waits until that is in force.
    pub(super) fn take_out(&mut self, rules: &[GroupRule]) {
        self.rules.retain(|rule| !rules.contains(rule));
        let groups = self.groups.iter().map(|group| group.with_rules(&self.rules).0);
        put(&self.etcd, &groups.collect::<Vec<_>>());
        self.await_change();
    }

    /// Changes a policy of no group and waits until packets tell that it is in force: so is everything before it.
    fn await_change(&mut self) {
        self.changes += 1;
        let port = CANARY_PORT + self.changes;
        let rule = json!({
            "action": "Allow",
            "ipVersion": 4,
            "protocol": "UDP",
            "source": { "nets": [format!("{CANARY}/32")] },
            "destination": { "ports": [port] },
        });
        let canary = Object::new(
            "NetworkPolicy",
            "openstack",
            "canary",
            &json!({ "selector": "all()" }),
        )
        .with("types", json!(["Ingress"]))
        .ingress(rule);
        put(&self.etcd, [canary.value()]);
        self.others = vec![canary.value().clone()];
        let bare = self.bare();
        let address = self.locals[bare].address(true).expect("an IPv4 address");
        wait::until("the last change is in force", IN_FORCE, || {
            let number = self.next_number();
            let flavour = Flavour::Ports(17, port);
            let packet = flavour.packet(CANARY.into(), address, source_port(number), &token(number));
            self.send(End::Outside, &packet);
            let mut frames = self.drain().into_iter();
            frames.any(|(end, frame)| end == End::Port(bare) && seen_in(&frame) == Some(number))
        });
    }

    /// Returns a number that no probe had.
    pub(super) fn next_number(&self) -> usize {
        self.numbers.set(self.numbers.get() + 1);
        self.numbers.get()
    }

    /// Sends a packet from one of its ends.
    pub(super) fn send(&self, from: End, packet: &Packet) {
        match from {
            End::Port(index) => self.locals[index].port.send(packet),
            End::Outside => self.wire.send(&packet.filled(OUTSIDE_MAC, UPLINK_MAC)),
        }
    }

    /// Returns what arrived anywhere.
    pub(super) fn drain(&self) -> Vec<(End, Vec<u8>)> {
        let of_ports = self.locals.iter().enumerate().flat_map(|(index, local)| {
            let frames = local.port.drain().into_iter();
            frames.map(move |frame| (End::Port(index), frame))
        });
        let outside = self.wire.drain().into_iter().map(|frame| (End::Outside, frame));
        of_ports.chain(outside).collect()
    }

    /// Ends the agent.
    pub(super) fn stop(self) {
        assert!(self.agent.terminate().success());
    }
}

/// Writes objects under their keys.
fn put<'a>(etcd: &Etcd, objects: impl IntoIterator<Item = &'a Value>) {
    let pairs = objects
        .into_iter()
        .map(|object| (key_of(object), object.to_string()));
    etcd.put_all(&pairs.collect::<Vec<_>>());
}

/// Returns the port or identifier of a probe.
pub(super) fn source_port(number: usize) -> u16 {
    1024 + u16::try_from(number % 50_000).expect("below 50,000")
}

/// Addresses of an added port: none that a rule of a recording names.
fn added_addresses(number: u8) -> [IpAddr; 2] {
    let v6 = Ipv6Addr::new(0xfd5f, 0xaaaa, 0, 0, 0, 0, 0, number.into());
    [Ipv4Addr::new(10, 67, 0, number).into(), v6.into()]
}
