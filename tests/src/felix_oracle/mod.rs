//! A second judge of policy, which shares nothing with ours: a host in a namespace of its own where iptables and ipset
//! enforce the same policy on real packets, as Felix would write it.

mod rules;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd as _;
use std::process;
use std::time::{Duration, Instant};

use calico_ebpf_userspace::calc::effective::{EffectiveEndpoint, EffectiveState, PacketFacts};
use calico_ebpf_userspace::model::name::ResourceKey;
use ipnet::IpNet;

use crate::netns::Netns;
use crate::packets::Path;
use crate::policy_packets::packet_of;
use crate::wire::Wire;
pub use rules::NotExpressible;
use rules::SENTINEL;

/// Interface towards everybody else.
const UPLINK: &str = "up0";
const UPLINK_MAC: [u8; 6] = [0xfe, 0x16, 0x3e, 0, 1, 0];
/// Everybody else's next hop.
const OUTSIDE_MAC: [u8; 6] = [0xfa, 0x16, 0x3e, 0, 1, 0];
/// The host's own address.
const OWN: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// How long a sentinel may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Programs that restore rules, of both families, in order of preference.
const RESTORE: [[&str; 2]; 2] = [
    ["iptables-legacy-restore", "ip6tables-legacy-restore"],
    ["iptables-nft-restore", "ip6tables-nft-restore"],
];

/// A packet, and where it comes from and goes to: an endpoint's tap, or the rest of the world.
#[derive(Clone, Debug)]
pub struct Question {
    pub facts: PacketFacts,
    pub source: Option<ResourceKey>,
    pub target: Option<ResourceKey>,
}

/// The host.
#[derive(Debug)]
pub struct Oracle {
    host: Netns,
    restore: [&'static str; 2],
    /// Other ends of the taps, by number, and of the uplink.
    taps: Vec<Wire>,
    uplink: Wire,
    /// Prefixes that lead to a tap.
    routes: BTreeSet<(IpNet, String)>,
}

impl Oracle {
    /// Makes a host with taps `tap1` to `tap<taps>`.
    ///
    /// # Panics
    ///
    /// When the kernel has no iptables of any kind.
    pub fn new(taps: u8) -> Self {
        let (host, outside) = (Netns::host(), Netns::guest());
        host.set_sysctls(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv6/conf/default/accept_dad", "0"),
        ]);
        outside.set_sysctls(&[
            ("net/ipv6/conf/all/disable_ipv6", "1"),
            ("net/ipv6/conf/default/disable_ipv6", "1"),
        ]);
        for number in 1..=taps {
            let mac = text(tap_mac(number));
            join(
                &host,
                &outside,
                &format!("tap{number}"),
                &mac,
                &format!("vm{number}"),
            );
        }
        join(&host, &outside, UPLINK, &text(UPLINK_MAC), "world");
        let outside_mac = text(OUTSIDE_MAC);
        host.ip(&format!(
            "addr add {OWN}/32 dev {UPLINK}
             neigh replace 198.51.100.254 lladdr {outside_mac} dev {UPLINK} nud permanent
             neigh replace fe80::fe lladdr {outside_mac} dev {UPLINK} nud permanent
             route add default via 198.51.100.254 dev {UPLINK} onlink
             route add default via fe80::fe dev {UPLINK} onlink"
        ));
        let untracked = "*raw\n-A PREROUTING -j CT --notrack\nCOMMIT\n";
        let takes = |programs: &&[&str; 2]| {
            let feed = |program: &&str| host.try_feed(program, &["--noflush"], untracked).is_ok();
            programs.iter().all(feed)
        };
        let restore = RESTORE.iter().find(takes).expect("some iptables");
        let tap = |interface: &str| Wire::tap(&outside, interface);
        Self {
            restore: *restore,
            taps: (1..=taps).map(|number| tap(&format!("vm{number}"))).collect(),
            uplink: tap("world"),
            host,
            routes: BTreeSet::new(),
        }
    }

    /// Enforces the policies of all endpoints, and nothing else any more.
    ///
    /// # Errors
    ///
    /// When a rule cannot be told to iptables.
    pub fn enforce(&mut self, state: &EffectiveState) -> Result<(), NotExpressible> {
        let rules = rules::render(state)?;
        for program in self.restore {
            self.host
                .feed(program, &[], "*filter\n:FORWARD DROP [0:0]\nCOMMIT\n");
        }
        self.host.feed("ipset", &["restore"], "destroy\n");
        self.host.feed("ipset", &["restore"], &rules.sets);
        for (program, filter) in self.restore.iter().zip(&rules.filter) {
            self.host.feed(program, &[], filter);
        }
        self.route(state);
        Ok(())
    }

    /// Makes the addresses of all endpoints, and no others, lead to their taps.
    fn route(&mut self, state: &EffectiveState) {
        let mut routes = BTreeSet::new();
        let mut neighbors = Vec::new();
        for endpoint in state.endpoints.values() {
            let (tap, mac) = (&endpoint.interface_name, text(mac_of(endpoint)));
            for net in &endpoint.ip_networks {
                routes.insert((*net, tap.clone()));
                let address = net.addr();
                neighbors.push(format!(
                    "neigh replace {address} lladdr {mac} dev {tap} nud permanent"
                ));
            }
        }
        let gone = self.routes.difference(&routes);
        let new = routes.difference(&self.routes);
        let lines: Vec<String> = gone
            .map(|(net, tap)| format!("route del {net} dev {tap}"))
            .chain(new.map(|(net, tap)| format!("route add {net} dev {tap}")))
            .chain(neighbors)
            .collect();
        self.host.ip(&lines.join("\n"));
        self.routes = routes;
    }

    /// Sends packets and returns which of them arrive.
    ///
    /// # Panics
    ///
    /// When a packet that always passes does not.
    pub fn verdicts(&self, state: &EffectiveState, questions: &[Question]) -> Vec<bool> {
        self.drain();
        for (number, question) in questions.iter().enumerate() {
            let packet = packet_of(&question.facts, &token(number));
            match &question.source {
                Some(key) => {
                    let endpoint = &state.endpoints[key];
                    let tap = number_of(endpoint);
                    let frame = packet.filled(mac_of(endpoint), tap_mac(tap));
                    self.taps[usize::from(tap) - 1].send(&frame);
                }
                None => self.uplink.send(&packet.filled(OUTSIDE_MAC, UPLINK_MAC)),
            }
        }
        self.send_sentinels(state, questions.len());
        let mut arrived: BTreeSet<(u8, usize)> = BTreeSet::new();
        let awaited: BTreeSet<(u8, usize)> = state
            .endpoints
            .values()
            .map(|endpoint| (number_of(endpoint), questions.len()))
            .chain([(0, questions.len())])
            .collect();
        let end = Instant::now() + LIMIT;
        while !awaited.is_subset(&arrived) {
            assert!(
                Instant::now() < end,
                "only {arrived:?} have arrived of {awaited:?}"
            );
            arrived.extend(self.drain());
        }
        let place = |question: &Question| match &question.target {
            Some(key) => number_of(&state.endpoints[key]),
            None => 0,
        };
        let numbered = questions.iter().enumerate();
        numbered
            .map(|(number, question)| arrived.contains(&(place(question), number)))
            .collect()
    }

    /// Sends to every tap in use, and from one to the rest of the world.
    fn send_sentinels(&self, state: &EffectiveState, number: usize) {
        let far = IpAddr::from([198, 51, 100, 200]);
        for endpoint in state.endpoints.values() {
            let networks = endpoint.ip_networks.iter();
            let Some(own) = networks.map(IpNet::addr).find(IpAddr::is_ipv4) else {
                continue;
            };
            let sentinel = |from, to| {
                let path = Path::new((from, 0), (to, 0));
                path.protocol(SENTINEL, &token(number))
            };
            self.uplink
                .send(&sentinel(far, own).filled(OUTSIDE_MAC, UPLINK_MAC));
            let tap = number_of(endpoint);
            let out = sentinel(own, far).filled(mac_of(endpoint), tap_mac(tap));
            self.taps[usize::from(tap) - 1].send(&out);
        }
    }

    /// Returns the numbers of what has arrived, with the tap; 0 is the uplink.
    fn drain(&self) -> Vec<(u8, usize)> {
        let taps = self.taps.iter().zip(1..);
        let places = taps
            .map(|(wire, number)| (number, wire))
            .chain([(0, &self.uplink)]);
        let read = |(place, wire): (u8, &Wire)| {
            let frames = wire.drain();
            let numbers = frames.iter().filter_map(|frame| number_in(frame));
            numbers.map(|number| (place, number)).collect::<Vec<_>>()
        };
        places.flat_map(read).collect()
    }
}

/// What is before and behind the number of a packet.
const MARK: &[u8] = b"<oracle ";
const DIGITS: usize = 6;

fn token(number: usize) -> Vec<u8> {
    [MARK, format!("{number:0DIGITS$}>").as_bytes()].concat()
}

/// Returns the number of a packet. What the host itself says about one, such as a redirect, quotes its number.
fn number_in(frame: &[u8]) -> Option<usize> {
    let is_own = match frame.get(12..14)? {
        [0x08, 0x00] => frame.get(26..30)? == OWN.octets(),
        _ => frame.get(22..24)? == [0xfe, 0x80],
    };
    if is_own {
        return None;
    }
    let place = frame.windows(MARK.len()).position(|window| window == MARK)?;
    let digits = frame.get(place + MARK.len()..)?.get(..DIGITS)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Makes a pair of interfaces, one in each namespace.
fn join(host: &Netns, outside: &Netns, inner: &str, mac: &str, outer: &str) {
    let namespace = format!("/proc/{}/fd/{}", process::id(), outside.as_raw_fd());
    host.ip(&format!(
        "link add {inner} address {mac} type veth peer name {outer} netns {namespace}
         link set {inner} up"
    ));
    outside.ip(&format!("link set {outer} up"));
}

fn tap_mac(number: u8) -> [u8; 6] {
    [0xfe, 0x16, 0x3e, 0, 0, number]
}

fn mac_of(endpoint: &EffectiveEndpoint) -> [u8; 6] {
    endpoint.mac.expect("a MAC address").0
}

fn number_of(endpoint: &EffectiveEndpoint) -> u8 {
    let number = endpoint.interface_name.trim_start_matches("tap");
    number.parse().expect("a tap with a number")
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
