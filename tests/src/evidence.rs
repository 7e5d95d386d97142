//! What a test really sent: `cargo xtask test` holds it against what the scenarios in a test's name ask for.
//!
//! `CALICO_EBPF_EVIDENCE` names a folder. For each kind of packet that the test in this process injects, a file
//! `<ring>/<test>.<kind>` appears there. Without the variable nothing is written.

use std::env;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

use etherparse::{EtherType, ether_type};

/// What is recorded of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// IPv4, its ARP and its reverse ARP.
    Ipv4,
    Ipv6,
    /// Frames of neither family.
    Other,
}

impl Kind {
    /// By the type in the Ethernet header, behind VLAN tags if there are any.
    fn of(frame: &[u8]) -> Self {
        const REVERSE_ARP: EtherType = EtherType(0x8035);
        let mut offset = 12;
        loop {
            let bytes = frame.get(offset..offset + 2);
            let bytes = bytes.map(|bytes| EtherType(u16::from_be_bytes([bytes[0], bytes[1]])));
            match bytes {
                Some(ether_type::IPV4 | ether_type::ARP | REVERSE_ARP) => return Self::Ipv4,
                Some(ether_type::IPV6) => return Self::Ipv6,
                Some(
                    ether_type::VLAN_TAGGED_FRAME
                    | ether_type::PROVIDER_BRIDGING
                    | ether_type::VLAN_DOUBLE_TAGGED_FRAME,
                ) => offset += 4,
                _ => return Self::Other,
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Other => "other",
        }
    }
}

/// Records a frame that the test made.
pub(crate) fn frame(frame: &[u8]) {
    record(Kind::of(frame));
}

/// Records a frame that a guest's stack sends; what stacks say by themselves is no evidence.
pub(crate) fn frame_of_a_stack(frame: &[u8]) {
    if !is_chatter(frame) {
        record(Kind::of(frame));
    }
}

/// Records a packet that a stack is told to send.
pub(crate) fn packet_to(address: IpAddr) {
    record(match address {
        IpAddr::V4(_) => Kind::Ipv4,
        IpAddr::V6(_) => Kind::Ipv6,
    });
}

/// ARP, IGMP, ICMP errors, neighbour discovery, and MLD, which comes behind hop-by-hop options (RFC 3810 section 5).
fn is_chatter(frame: &[u8]) -> bool {
    const ICMP: u8 = 1;
    const IGMP: u8 = 2;
    const HOP_BY_HOP: u8 = 0;
    const ICMPV6: u8 = 58;
    match frame.get(12..14) {
        Some([0x08, 0x00]) => match frame.get(23) {
            // Stacks send without options.
            Some(&ICMP) => matches!(frame.get(34), Some(3 | 4 | 5 | 11 | 12)),
            protocol => protocol == Some(&IGMP),
        },
        Some([0x86, 0xdd]) => match frame.get(20) {
            Some(&ICMPV6) => matches!(frame.get(54), Some(..128 | 130..=137 | 143)),
            next => next == Some(&HOP_BY_HOP),
        },
        _ => true,
    }
}

/// Kinds that need no further record, one bit to each.
static DONE: AtomicU8 = AtomicU8::new(0);

fn record(kind: Kind) {
    let bit = 1 << kind as u8;
    // Also on the way of guests' packets: one load once the first one is recorded.
    if DONE.load(Ordering::Relaxed) & bit != 0 || DONE.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
        return;
    }
    let Some(folder) = env::var_os("CALICO_EBPF_EVIDENCE") else {
        return;
    };
    let file = file(Path::new(&folder), &env::args().collect::<Vec<_>>(), kind);
    let parent = file.parent().expect("it is in a folder");
    fs::create_dir_all(parent)
        .and_then(|()| fs::write(&file, ""))
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

/// Returns where the record of a test is that was started with these arguments.
///
/// # Panics
///
/// When they do not name one test: then nobody knows whose packets are recorded.
fn file(folder: &Path, arguments: &[String], kind: Kind) -> PathBuf {
    let test = arguments
        .iter()
        .position(|argument| argument == "--exact")
        .and_then(|place| arguments.get(place + 1))
        .expect("CALICO_EBPF_EVIDENCE is set, so each test has a process of its own: `cargo xtask test`");
    let program = Path::new(&arguments[0]).file_name().expect("a program");
    let program = program.to_string_lossy();
    // Behind the last dash is cargo's hash.
    let ring = program.rsplit_once('-').map_or(&*program, |(ring, _)| ring);
    folder.join(ring).join(format!("{test}.{}", kind.name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames;
    use crate::guest::Vm;
    use crate::packets::{neighbor, path, udp};

    #[test]
    fn frames_are_of_the_family_of_their_ethertype() {
        let (v4, v6) = (udp("10.0.0.1:1 -> 10.0.0.2:2"), udp("[fd00::1]:1 -> [fd00::2]:2"));
        let vm = Vm::new("a", 1);
        for (frame, kind) in [
            (v4.bytes().to_vec(), Kind::Ipv4),
            (v6.bytes().to_vec(), Kind::Ipv6),
            (frames::gratuitous_arp(&vm), Kind::Ipv4),
            (frames::reverse_arp(&vm), Kind::Ipv4),
            (v4.clone().with(12, &[0x88, 0xcc]).bytes().to_vec(), Kind::Other),
            (
                v6.clone()
                    .inserted(12, &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 1])
                    .bytes()
                    .to_vec(),
                Kind::Ipv6,
            ),
            (v6.bytes()[..13].to_vec(), Kind::Other),
        ] {
            assert_eq!(Kind::of(&frame), kind, "{frame:02x?}");
        }
    }

    #[test]
    fn what_stacks_say_by_themselves_is_no_evidence() {
        let vm = Vm::new("a", 1);
        let all = "ff02::2".parse().expect("an address");
        let solicitation = neighbor(133, frames::link_local(&vm), all, all, &[]);
        assert!(is_chatter(solicitation.bytes()));
        assert!(is_chatter(&frames::neighbor_solicitation(&vm, vm.gateway_v6())));
        assert!(is_chatter(&frames::gratuitous_arp(&vm)));
        for (text, error) in [
            ("10.0.0.1:1 -> 10.0.0.2:2", [3, 3]),
            ("[fd00::1]:1 -> [fd00::2]:2", [1, 4]),
        ] {
            let there = path(text);
            assert!(is_chatter(
                there.back().error_about(&there.udp(), error, 60).bytes()
            ));
            assert!(!is_chatter(there.udp().bytes()));
            assert!(!is_chatter(there.echo_request(1).bytes()));
            assert!(!is_chatter(there.echo_reply(1).bytes()));
        }
        assert!(!is_chatter(&frames::dhcp_discover(&vm)));
    }

    #[test]
    fn a_record_is_named_by_ring_test_and_family() {
        let arguments = [
            "/x/program-0123456789abcdef",
            "--exact",
            "parsing::it",
            "--nocapture",
        ];
        let arguments = arguments.map(str::to_owned);
        let file = file(Path::new("/e"), &arguments, Kind::Ipv6);
        assert_eq!(file, Path::new("/e/program/parsing::it.ipv6"));
    }
}
