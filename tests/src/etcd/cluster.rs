//! Three servers that agree with each other, on a network that can be cut.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::process;
use std::sync::Arc;

use super::{Etcd, Setup};
use crate::netns::Netns;

/// Number of members.
pub const MEMBERS: usize = 3;

const PEER_PORT: u16 = 2380;
/// The client's address on the cluster's network.
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 100);

/// A cluster of three, each member in a namespace of its own, on one bridge with its client.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<Etcd>,
    /// Holds the bridge; named by nobody.
    _switch: Netns,
}

impl Cluster {
    /// Starts three members, which `client` reaches through its new interface `etcd0`, and waits until all serve.
    pub fn start(client: &Arc<Netns>) -> Self {
        let switch = Netns::guest();
        switch.ip("link add bridge type bridge forward_delay 0\nlink set bridge up");
        plug(&switch, "client", client, CLIENT);
        let namespaces: Vec<_> = (0..MEMBERS)
            .map(|number| {
                let namespace = Arc::new(Netns::guest());
                plug(&switch, &port(number), &namespace, address(number));
                namespace
            })
            .collect();
        let peers: Vec<_> = (0..MEMBERS)
            .map(|number| format!("member{number}=http://{}:{PEER_PORT}", address(number)))
            .collect();
        let members: Vec<_> = (0..MEMBERS)
            .map(|number| {
                let peer = format!("http://{}:{PEER_PORT}", address(number));
                Setup::new(&namespaces[number])
                    .at(address(number))
                    .with(&format!("--name=member{number}"))
                    .with(&format!("--listen-peer-urls={peer}"))
                    .with(&format!("--initial-advertise-peer-urls={peer}"))
                    .with(&format!("--initial-cluster={}", peers.join(",")))
                    .spawn()
            })
            .collect();
        for member in &members {
            member.wait_until_healthy();
        }
        Self {
            members,
            _switch: switch,
        }
    }

    /// Where the members are reached, as in `EtcdEndpoints`.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Etcd::endpoint).collect()
    }

    pub fn member(&self, number: usize) -> &Etcd {
        &self.members[number]
    }

    pub fn member_mut(&mut self, number: usize) -> &mut Etcd {
        &mut self.members[number]
    }

    /// Cuts a member off from the other two but not from its clients: it keeps running without a leader.
    pub fn isolate(&self, number: usize) {
        self.filter(number, "add");
    }

    /// Takes [`Self::isolate`] back.
    pub fn reunite(&self, number: usize) {
        self.filter(number, "del");
    }

    /// Takes a member's cable out: nobody reaches it, and nobody is told.
    pub fn unplug(&self, number: usize) {
        self.members[number].namespace().ip("link set eth0 down");
    }

    /// Puts a member's cable in again.
    pub fn plug(&self, number: usize) {
        self.members[number].namespace().ip("link set eth0 up");
    }

    /// The host's own routes lead to the other members nowhere, or no longer.
    fn filter(&self, number: usize, verb: &str) {
        let others = (0..MEMBERS).filter(|other| *other != number);
        let lines: Vec<_> = others
            .map(|other| format!("route {verb} blackhole {}/32", address(other)))
            .collect();
        self.members[number].namespace().ip(&lines.join("\n"));
    }
}

fn address(number: usize) -> Ipv4Addr {
    let last = u8::try_from(number + 1).expect("few members");
    Ipv4Addr::new(198, 51, 100, last)
}

fn port(number: usize) -> String {
    format!("member{number}")
}

/// Connects a namespace to the bridge.
fn plug(switch: &Netns, port: &str, namespace: &Netns, address: Ipv4Addr) {
    let interface = if address == CLIENT { "etcd0" } else { "eth0" };
    let path = format!("/proc/{}/fd/{}", process::id(), namespace.as_raw_fd());
    switch.ip(&format!(
        "link add {port} type veth peer name {interface} netns {path}
         link set {port} master bridge
         link set {port} up"
    ));
    namespace.ip(&format!(
        "addr add {address}/24 dev {interface}\nlink set {interface} up"
    ));
}
