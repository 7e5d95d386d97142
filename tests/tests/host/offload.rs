//! Super-frames and checksums that are left to the other side go from guest to guest as they are.

use calico_ebpf_common::verdict::DropReason;
use calico_ebpf_tests::agent::{Agent, Launcher};
use calico_ebpf_tests::guest::Vm;
use calico_ebpf_tests::host::Host;
use calico_ebpf_tests::manifests::{
    Manifests, allow_all_egress, allow_tcp, allow_udp, network_policy, workload_endpoint,
};
use calico_ebpf_tests::offload::{Offload, Offloaded, forwarded};
use calico_ebpf_tests::packets::Path;
use calico_ebpf_tests::tap::{LARGEST, Tap, VNET_HEADER};
use calico_ebpf_tests::wait;

use crate::expect::LIMIT;

/// Bytes of a large payload.
const LARGE: usize = 60 << 10;
/// Bytes of one segment of it.
const SEGMENT: u16 = 1400;

/// Two ports whose guests are the test itself. The second one may be reached on tcp/9000 and udp/443.
struct Ports {
    pair: [(Vm, Tap); 2],
    launcher: Launcher,
    _agent: Agent,
    _host: Host,
}

impl Ports {
    fn new() -> Self {
        let host = Host::new();
        let manifests = Manifests::new(&host.directory().join("manifests"));
        let ports = [("a", 1), ("b", 2)].map(|(name, number)| {
            let vm = Vm::new(name, number);
            let tap = Tap::create(host.namespace(), &vm.interface());
            let mac = vm.host_mac().map(|byte| format!("{byte:02x}")).join(":");
            host.namespace()
                .ip(&format!("link set {} address {mac} up", tap.name()));
            manifests.put(&workload_endpoint(&vm));
            (vm, tap)
        });
        manifests.put(&allow_all_egress());
        let policy = network_policy("b", "name == 'b'")
            .ingress(allow_tcp(9000))
            .ingress(allow_udp(443));
        manifests.put(&policy);
        let launcher = Launcher::new(&host, &manifests);
        let agent = launcher.start(2);
        Self {
            pair: ports,
            launcher,
            _agent: agent,
            _host: host,
        }
    }

    /// From a to b at a port, in each family.
    fn paths(&self, port: u16) -> [Path; 2] {
        let [(a, _), (b, _)] = &self.pair;
        let (from, to) = (a.addresses(), b.addresses());
        [0, 1].map(|family| Path::new((from[family], 40_000), (to[family], port)))
    }

    /// Writes a packet to the tap of port `from`.
    fn write(&self, from: usize, sent: &Offloaded) {
        let (vm, tap) = &self.pair[from];
        tap.write(&sent.written(vm.mac(), vm.host_mac()))
            .expect("write a frame");
    }

    /// Sends a packet from one port to the other, and expects it there as one frame with all that was left to do.
    #[track_caller]
    fn expect_whole(&self, from: usize, sent: &Offloaded) {
        self.write(from, sent);
        let (vm, tap) = &self.pair[1 - from];
        let expected = forwarded(&sent.packet, vm.host_mac(), vm.mac());
        let mut buffer = vec![0; LARGEST];
        let found = wait::poll(LIMIT, || {
            // What the host's own stack has to say to its ports is not ours.
            let length = tap.read(&mut buffer).ok()?;
            let frame = &buffer[VNET_HEADER..length];
            let is_same = |from, to| frame.get(from..to) == expected.get(from..to);
            let is_ours = is_same(12, 14) && is_same(26, 30) && is_same(34, 38);
            is_ours.then(|| (Offload::read(&buffer), frame.to_vec()))
        });
        let (offload, frame) = found.expect("the packet arrives");
        assert_eq!(offload, sent.offload);
        let difference = frame.iter().zip(&expected).position(|(seen, sent)| seen != sent);
        assert_eq!(difference, None, "first byte that differs");
        assert_eq!(frame.len(), expected.len());
    }
}

fn large_payload() -> Vec<u8> {
    (0..=250).cycle().take(LARGE).collect()
}

#[test]
fn scenario_79_a_large_tcp_super_frame_passes_uncut_with_its_header() {
    let ports = Ports::new();
    for path in ports.paths(9000) {
        ports.expect_whole(0, &Offloaded::tcp(path, "S", &[], SEGMENT));
        ports.expect_whole(1, &Offloaded::tcp(path.back(), "SA", &[], SEGMENT));
        ports.expect_whole(0, &Offloaded::tcp(path, "A", &large_payload(), SEGMENT));
        ports.expect_whole(1, &Offloaded::tcp(path.back(), "A", &large_payload(), SEGMENT));
    }
}

#[test]
fn scenario_79_a_large_udp_super_frame_passes_uncut_with_its_header() {
    let ports = Ports::new();
    for path in ports.paths(443) {
        // The first packet of the flow is judged, the second finds the flow, the third answers.
        ports.expect_whole(0, &Offloaded::udp(path, &large_payload(), SEGMENT));
        ports.expect_whole(0, &Offloaded::udp(path, &large_payload(), SEGMENT));
        ports.expect_whole(1, &Offloaded::udp(path.back(), &large_payload(), SEGMENT));
    }
}

#[test]
fn scenario_79_a_checksum_that_is_left_to_the_other_side_stays_so() {
    let ports = Ports::new();
    for path in ports.paths(443) {
        ports.expect_whole(0, &Offloaded::udp(path, b"small", SEGMENT));
        ports.expect_whole(1, &Offloaded::udp(path.back(), b"answer", SEGMENT));
    }
}

#[test]
fn a_super_frame_that_policy_denies_is_dropped_as_a_whole() {
    let ports = Ports::new();
    for path in ports.paths(444) {
        ports.write(0, &Offloaded::udp(path, &large_payload(), SEGMENT));
    }
    wait::until("both are dropped and counted", LIMIT, || {
        ports.launcher.drops(DropReason::IngressPolicy) == 2
    });
    // What comes later would come behind them.
    for path in ports.paths(443) {
        ports.expect_whole(0, &Offloaded::udp(path, b"end", SEGMENT));
    }
}
