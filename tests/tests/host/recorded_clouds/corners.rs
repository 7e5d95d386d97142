//! Ports of the recorded clouds that are not like the others.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

use calico_ebpf_tests::frames::BROADCAST;
use calico_ebpf_tests::manifests::HOSTNAME;
use calico_ebpf_tests::packets::Path;
use calico_ebpf_tests::recording::{CARACAL, Recording, TRAIN};
use calico_ebpf_tests::traffic::Server;
use calico_ebpf_tests::wait;

use super::cloud::{Cloud, End};
use super::flavour::Flavour;
use super::volley::{Shot, fire};

/// How long a message to the host may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Somebody behind the uplink.
const STRANGER: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);
const STRANGER_V6: &str = "2001:db8:beef:1::1";
/// The address of a virtual router that address pairs are made for (RFC 9568).
const VRRP_MAC: [u8; 6] = [0, 0, 0x5e, 0, 1, 1];

fn stranger_like(address: IpAddr) -> IpAddr {
    if address.is_ipv4() {
        STRANGER.into()
    } else {
        STRANGER_V6.parse().expect("an address")
    }
}

#[track_caller]
fn expect_all(cloud: &Cloud, shots: &[Shot]) {
    let wrong = fire(cloud, shots);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_port_without_groups_gets_and_sends_nothing_but_dhcp() {
    for file in [TRAIN, CARACAL] {
        let cloud = Cloud::start(&Recording::load(file), HOSTNAME);
        let socket = cloud
            .host()
            .namespace()
            .run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 67)));
        let server = Server::udp_on(socket.expect("bind"));
        let mut shots = Vec::new();
        let mut asking = 0;
        for (index, local) in cloud.ports().iter().enumerate() {
            if !local.recorded.groups().is_empty() {
                continue;
            }
            let port = End::Port(index);
            for address in local.recorded.addresses() {
                let stranger = stranger_like(address);
                let ping = if address.is_ipv4() {
                    Flavour::Icmp(1, 8, 0)
                } else {
                    Flavour::Icmp(58, 128, 0)
                };
                for flavour in [
                    Flavour::Ports(6, 80),
                    Flavour::Ports(17, 53),
                    Flavour::Plain(47),
                    ping,
                ] {
                    shots.push(Shot::new(
                        &cloud,
                        [End::Outside, port],
                        flavour,
                        [stranger, address],
                        false,
                    ));
                    shots.push(Shot::new(
                        &cloud,
                        [port, End::Outside],
                        flavour,
                        [address, stranger],
                        false,
                    ));
                }
            }
            let discover = [&[1, 1, 6, 0][..], &[0; 24], &local.port.mac(), &[0; 206]].concat();
            let path = Path::new(
                (Ipv4Addr::UNSPECIFIED.into(), 68),
                (Ipv4Addr::BROADCAST.into(), 67),
            );
            cloud.send(port, &path.udp_with(&discover).to_mac(BROADCAST));
            asking += 1;
        }
        assert!(asking >= 3, "two ports of {file} and one that was added");
        expect_all(&cloud, &shots);
        wait::until("DHCP reaches the host", LIMIT, || server.asked() == asking);
        cloud.stop();
    }
}

#[test]
fn an_address_pair_may_be_used_and_its_prefix_too() {
    for file in [TRAIN, CARACAL] {
        let cloud = Cloud::start(&Recording::load(file), HOSTNAME);
        let with_pairs = cloud
            .ports()
            .iter()
            .position(|local| local.recorded.nets().len() > local.recorded.addresses().len());
        let index = with_pairs.expect("a port with address pairs");
        let port = End::Port(index);
        let mut shots = Vec::new();
        // 10.99.0.0/28 is a pair; nothing beside it is.
        for (address, is_own) in [
            ("10.65.0.200", true),
            ("10.65.0.201", true),
            ("10.99.0.0", true),
            ("10.99.0.5", true),
            ("10.99.0.15", true),
            ("fd5f::1", true),
            ("10.65.0.202", false),
            ("10.99.0.16", false),
            ("10.98.255.255", false),
            ("fd5f::2", false),
        ] {
            let address: IpAddr = address.parse().expect("an address");
            let stranger = stranger_like(address);
            let web = Flavour::Ports(6, 80);
            for mac in [cloud.ports()[index].port.mac(), VRRP_MAC] {
                let mut shot = Shot::new(&cloud, [port, End::Outside], web, [address, stranger], is_own);
                shot.packet = shot.packet.from_mac(mac);
                shots.push(shot);
            }
            if is_own {
                shots.push(Shot::new(
                    &cloud,
                    [End::Outside, port],
                    web,
                    [stranger, address],
                    true,
                ));
                let other = Flavour::Ports(6, 81);
                shots.push(Shot::new(
                    &cloud,
                    [End::Outside, port],
                    other,
                    [stranger, address],
                    false,
                ));
            }
        }
        expect_all(&cloud, &shots);
        cloud.stop();
    }
}

#[test]
fn a_vm_in_flight_is_led_to_when_it_says_that_it_runs_here() {
    let cloud = Cloud::start(&Recording::load(CARACAL), HOSTNAME);
    assert_eq!(cloud.arrivals(), 1);
}
