//! The host without this project: what the attacker's rate is held against.
//!
//! A second host of the same interfaces, addresses and routes, which forwards by the kernel alone and judges nothing.
//! The same frames go into the attacker's tap there, so the difference is what the programs do and spare. Nobody reads
//! from the other taps of that host, which makes it faster, never slower, than one with guests. What writing alone
//! costs is told, too: another tap's frames are thrown away as soon as the host sees for whom they are not.

use std::fs;

use calico_ebpf_tests::guest::Vm;
use calico_ebpf_tests::host::{Host, UPLINK};
use calico_ebpf_tests::tap::Tap;

const SINK: &str = "tapsink";

/// The host and the attacker's tap on it.
pub(crate) struct Bare {
    host: Host,
    tap: Tap,
    victims: Vec<Tap>,
    sink: Tap,
}

impl Bare {
    pub(crate) fn new(attacker: &Vm, victims: [&Vm; 2]) -> Self {
        let host = Host::new();
        let plug = |vm: &Vm| plug(&host, vm);
        let (tap, taps) = (plug(attacker), victims.map(plug).into());
        host.forward_plainly_to(&[attacker, victims[0], victims[1]]);
        for vm in [attacker, victims[0], victims[1]] {
            // Nobody is there to answer who asks for it.
            host.namespace().ip(&format!(
                "neigh replace {} lladdr {} dev {} nud permanent",
                vm.v6(),
                vm.mac_text(),
                vm.interface()
            ));
        }
        let sink = Tap::create(host.namespace(), SINK);
        // With a MAC that is not the frames', and with neither ARP nor IPv6, every one of them is for somebody else.
        host.namespace()
            .set_sysctl(&format!("net/ipv6/conf/{SINK}/disable_ipv6"), "1");
        host.namespace()
            .ip(&format!("link set {SINK} address fe:00:00:00:00:01 arp off up"));
        Self {
            host,
            tap,
            victims: taps,
            sink,
        }
    }

    /// The tap whose frames are thrown away.
    pub(crate) fn sink(&self) -> &Tap {
        &self.sink
    }

    pub(crate) fn tap(&self) -> &Tap {
        &self.tap
    }

    /// Returns how many packets the host has forwarded so far: to the other taps, whose queues are full, and outside.
    pub(crate) fn forwarded(&self) -> u64 {
        let names = self.victims.iter().map(Tap::name).chain([UPLINK]);
        let names: Vec<_> = names.collect();
        self.host.namespace().run(|| {
            let read = |name: &str, counter: &str| {
                let file = format!("/sys/class/net/{name}/statistics/{counter}");
                let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
                text.trim().parse::<u64>().expect("a number")
            };
            let both = |name: &&str| read(name, "tx_packets") + read(name, "tx_dropped");
            names.iter().map(both).sum()
        })
    }
}

/// Makes a guest's tap on a host, without a guest.
pub(crate) fn plug(host: &Host, vm: &Vm) -> Tap {
    let name = vm.interface();
    let tap = Tap::create(host.namespace(), &name);
    let mac = vm.host_mac().map(|byte| format!("{byte:02x}")).join(":");
    host.namespace().ip(&format!("link set {name} address {mac} up"));
    tap
}
