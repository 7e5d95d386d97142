//! Packets for policy: what the reference evaluator is asked, as frames, and what programs say before policy is.

use std::net::IpAddr;

use calico_ebpf_common::verdict::DropReason;
use calico_ebpf_userspace::calc::effective::{EffectiveState, PacketFacts};
use calico_ebpf_userspace::compile::input::HostFacts;
use calico_ebpf_userspace::model::name::ResourceKey;

use crate::packets::{Packet, Path};

/// Returns what the programs say without asking policy.
pub fn refused_before_policy(facts: &PacketFacts, from_workload: bool) -> Option<&'static [DropReason]> {
    if from_workload && !is_routable(facts.destination) {
        return Some(&[
            DropReason::Martian,
            DropReason::Multicast,
            DropReason::IcmpUnrelated,
        ]);
    }
    let icmp = if facts.source.is_ipv4() { 1 } else { 58 };
    let (kind, _) = facts.icmp.filter(|_| facts.protocol == icmp)?;
    match (facts.source.is_ipv4(), kind) {
        (_, 3) => Some(&[DropReason::IcmpUnrelated]),
        (true, 0) | (false, 129) => Some(&[DropReason::NoFlow]),
        _ => None,
    }
}

/// Returns whether a workload may send there at all.
pub fn is_routable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            !matches!(first, 0 | 127 | 224..) && [first, second] != [169, 254]
        }
        IpAddr::V6(address) => {
            let segments = address.segments();
            let embeds_v4 = segments[..5] == [0; 5] && matches!(segments[5], 0 | 0xffff);
            !embeds_v4 && segments[0] >> 8 != 0xff && segments[0] & 0xffc0 != 0xfe80
        }
    }
}

/// Returns the packet as a frame; `tail` ends it, for protocols that carry anything.
pub fn packet_of(facts: &PacketFacts, tail: &[u8]) -> Packet {
    let path = Path::new(
        (facts.source, facts.source_port),
        (facts.destination, facts.destination_port),
    );
    let ports = [
        facts.source_port.to_be_bytes(),
        facts.destination_port.to_be_bytes(),
    ]
    .concat();
    match (facts.protocol, facts.icmp) {
        (6, _) => path.tcp_with("S", tail),
        (17, _) => path.udp_with(tail),
        (number @ (33 | 132 | 136), _) => path.protocol(number, &[&ports[..], &[0; 12], tail].concat()),
        (number, Some((kind, code))) => path.protocol(
            number,
            &[&[kind, code, 0, 0, 0, 7, 0, 1, 0, 0, 0, 0], tail].concat(),
        ),
        (number, None) => path.protocol(number, &[&[0; 16], tail].concat()),
    }
}

/// Returns the local endpoint that owns an address, unless it is the host's.
pub fn owner<'a>(state: &'a EffectiveState, host: &HostFacts, address: IpAddr) -> Option<&'a ResourceKey> {
    if host.host_addresses.contains(&address) {
        return None;
    }
    let owns = |key: &&ResourceKey| {
        state.endpoints[*key]
            .ip_networks
            .iter()
            .any(|net| net.addr() == address)
    };
    state.endpoints.keys().find(owns)
}
