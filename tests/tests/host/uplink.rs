//! Between guests and the network behind the uplinks.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::process;

use calico_ebpf_tests::guest::{Guest, Vm};
use calico_ebpf_tests::host::{OUTSIDE_V4, OUTSIDE_V6, UPLINK, host_address_like};
use calico_ebpf_tests::manifests::{allow_everything, workload_endpoint};
use calico_ebpf_tests::probe::{Question, Seen};
use calico_ebpf_tests::scene::{Scene, is_in_state};
use calico_ebpf_tests::wait;
use calico_ebpf_tests::wire::Wire;

use crate::expect::{LIMIT, expect_both};

/// The kernel refuses no more in a row (`net.ipv4.route.error_burst`).
const QUESTIONS: &str = "4";

#[test]
fn scenario_83_an_unknown_destination_from_the_uplink_is_the_stacks_each_time_and_is_not_remembered() {
    let scene = Scene::new(&["a"]);
    scene.manifests().put(&allow_everything());
    let vm = Vm::new("late", 89);
    let host = scene.host().namespace();
    // What BIRD leads here and no endpoint has is the stack's to refuse. The guests' gateway is not among it.
    host.ip("route add unreachable 10.65.0.96/27\nroute add unreachable fd00:65::60/123");
    host.set_sysctls(&[("net/ipv4/icmp_ratelimit", "0"), ("net/ipv6/icmp/ratelimit", "0")]);
    let mut agent = scene.start_agent();
    let dropped = scene.launcher().counters();
    let outside = scene.host().outside();
    for address in vm.addresses() {
        let target = address.to_string();
        let printed = outside.output("ping", &["-n", "-c", QUESTIONS, "-i", "0.01", "-W", "1", &target]);
        let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
        let refused = format!("From {} ", host_address_like(address));
        let refusals = printed
            .lines()
            .filter(|line| line.starts_with(&refused) && line.to_lowercase().contains("unreachable"));
        assert_eq!(refusals.count().to_string(), QUESTIONS, "{printed}");
    }
    assert_eq!(scene.launcher().counters(), dropped, "no program drops them");
    scene.manifests().put(&workload_endpoint(&vm));
    let mut late = Guest::boot(vm);
    late.plug(scene.host());
    let interface = late.vm().interface();
    agent.wait_for("the endpoint is up", |report| {
        is_in_state(report, &interface, "up")
    });
    expect_both(outside, &late, Question::Ping, Seen::Open);
}

/// A second way from the host to the outside machine, as long as the first.
fn add_second_uplink(scene: &Scene) {
    let (host, outside) = (scene.host().namespace(), scene.host().outside());
    let path = format!("/proc/{}/fd/{}", process::id(), outside.as_raw_fd());
    host.ip(&format!(
        "link add uplink1 type veth peer name eth1 netns {path}
         link set uplink1 up
         addr add 198.51.100.1/24 dev uplink1
         addr add 2001:db8:1::1/64 dev uplink1 nodad"
    ));
    outside.ip("link set eth1 up
         addr add 198.51.100.2/24 dev eth1
         addr add 2001:db8:1::2/64 dev eth1 nodad");
    for (family, first, second) in [
        ("-4", OUTSIDE_V4.to_string(), "198.51.100.2"),
        ("-6", OUTSIDE_V6.to_string(), "2001:db8:1::2"),
    ] {
        host.stdout("ip", &[family, "route", "del", "default"]);
        host.stdout(
            "ip",
            &[
                family, "route", "add", "default", "nexthop", "via", &first, "dev", UPLINK, "nexthop", "via",
                second, "dev", "uplink1",
            ],
        );
    }
}

/// Returns destination and number of the datagram that a frame is a fragment of.
fn datagram_of(frame: &[u8]) -> Option<(IpAddr, u32)> {
    match frame.get(12..14)? {
        [0x08, 0x00] => {
            let fragment = u16::from_be_bytes(frame.get(20..22)?.try_into().ok()?);
            let id = u16::from_be_bytes(frame.get(18..20)?.try_into().ok()?);
            let target: [u8; 4] = frame.get(30..34)?.try_into().ok()?;
            (fragment & 0x3fff != 0).then_some((target.into(), id.into()))
        }
        [0x86, 0xdd] => {
            let id = u32::from_be_bytes(frame.get(58..62)?.try_into().ok()?);
            let target: [u8; 16] = frame.get(38..54)?.try_into().ok()?;
            (frame.get(20) == Some(&44)).then_some((target.into(), id))
        }
        _ => None,
    }
}

/// Datagrams to each family, each to an address of its own.
const DATAGRAMS: u16 = 32;
/// Bytes of one, which are three fragments.
const BYTES: usize = 3000;

#[test]
fn scenario_76_the_fragments_of_a_datagram_all_leave_by_one_of_two_equal_routes() {
    let scene = Scene::new(&["a"]);
    scene.manifests().put(&allow_everything());
    add_second_uplink(&scene);
    let _agent = scene.start_agent();
    let (host, outside) = (scene.host().namespace(), scene.host().outside());
    let wires = ["eth0", "eth1"].map(|interface| Wire::tap(outside, interface));
    let a = scene.guest("a").namespace();
    let sockets: [UdpSocket; 2] = a.run(|| {
        let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        any.map(|any| UdpSocket::bind((any, 0)).expect("bind"))
    });
    // By addresses; by ports, too, which only the first fragment has.
    for policy in ["0", "1"] {
        host.set_sysctls(&[
            ("net/ipv4/fib_multipath_hash_policy", policy),
            ("net/ipv6/fib_multipath_hash_policy", policy),
        ]);
        for number in 0..DATAGRAMS {
            let [low, high] = number.to_le_bytes();
            let targets: [IpAddr; 2] = [
                Ipv4Addr::new(203, 0, 113, low).into(),
                Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, high.into(), low.into()).into(),
            ];
            for (socket, target) in sockets.iter().zip(targets) {
                let target = SocketAddr::new(target, 5000 + number);
                socket.send_to(&[0x55; BYTES], target).expect("send");
            }
        }
        // Destination and number of each datagram: fragments seen on either wire.
        let mut seen: BTreeMap<(IpAddr, u32), [usize; 2]> = BTreeMap::new();
        wait::until("every fragment leaves", LIMIT, || {
            for (index, wire) in wires.iter().enumerate() {
                for datagram in wire.drain().iter().filter_map(|frame| datagram_of(frame)) {
                    seen.entry(datagram).or_default()[index] += 1;
                }
            }
            seen.values().flatten().sum::<usize>() == usize::from(DATAGRAMS) * 2 * 3
        });
        for ipv4 in [true, false] {
            let family = seen.iter().filter(|((target, _), _)| target.is_ipv4() == ipv4);
            let ways: Vec<_> = family.map(|(_, ways)| *ways).collect();
            assert_eq!(ways.len(), usize::from(DATAGRAMS), "policy {policy}: {seen:?}");
            assert!(
                ways.iter().all(|ways| [[3, 0], [0, 3]].contains(ways)),
                "policy {policy}: {seen:?}"
            );
            assert!(
                ways.contains(&[3, 0]) && ways.contains(&[0, 3]),
                "policy {policy}, both routes are used: {seen:?}"
            );
        }
    }
}
