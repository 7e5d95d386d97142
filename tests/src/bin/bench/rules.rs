//! The policy that is measured: two endpoints with one policy of `count` rules, the last of which allows the traffic.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use calico_ebpf_userspace::calc::effective::{
    DirectionPolicy, EffectiveEndpoint, EffectiveEntity, EffectivePolicy, EffectivePolicyRules,
    EffectivePort, EffectiveRule, EffectiveState, EffectiveTier, SetId,
};
use calico_ebpf_userspace::model::name::{Kind, ResourceKey};
use calico_ebpf_userspace::model::resource::MacAddress;
use calico_ebpf_userspace::model::rule::{Action, Protocol};
use ipnet::IpNet;

/// MAC addresses of sender and receiver.
pub(crate) const MACS: [[u8; 6]; 2] = [[0x02, 0, 0, 0, 0, 0x0a], [0x02, 0, 0, 0, 0, 0x0b]];
/// Port that the last rule allows.
pub(crate) const PORT: u16 = 443;
/// Sets that the rules cycle over, and members of each.
const SETS: usize = 10;
const MEMBERS: u32 = 1000;

/// Returns the address of sender (0) or receiver (1).
pub(crate) fn address(v6: bool, index: u8) -> IpAddr {
    if v6 {
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(index) + 0x0a))
    } else {
        IpAddr::V4(Ipv4Addr::new(10, 65, 0, index + 10))
    }
}

/// Returns the key of sender (0) or receiver (1).
pub(crate) fn key(index: usize) -> ResourceKey {
    ResourceKey {
        kind: Kind::WorkloadEndpoint,
        namespace: "openstack".to_owned(),
        name: format!("endpoint-{index}"),
    }
}

/// Returns the state of a host with both endpoints on the interfaces `names`.
pub(crate) fn state(count: usize, names: [&str; 2]) -> EffectiveState {
    let sets = (0..SETS)
        .map(|set| (set_id(set), Arc::new(members(set))))
        .collect();
    let direction = |remote_is_source| DirectionPolicy {
        tiers: vec![EffectiveTier {
            name: "default".into(),
            policies: vec![EffectivePolicyRules {
                key: ResourceKey {
                    kind: Kind::GlobalNetworkPolicy,
                    namespace: String::new(),
                    name: "measured".to_owned(),
                },
                rules: (0..count)
                    .map(|index| rule(index, count, remote_is_source))
                    .collect(),
            }],
            default_pass: false,
        }],
        profiles: Vec::new(),
    };
    let policy = Arc::new(EffectivePolicy {
        egress: direction(false),
        ingress: direction(true),
    });
    let endpoints = (0..2_u8)
        .map(|index| {
            let endpoint = EffectiveEndpoint {
                interface_name: names[usize::from(index)].to_owned(),
                mac: Some(MacAddress(MACS[usize::from(index)])),
                ip_networks: vec![
                    IpNet::from(address(false, index)),
                    IpNet::from(address(true, index)),
                ],
                allowed_ips: Vec::new(),
                allow_spoofed_source_prefixes: Vec::new(),
                ip_nats: Vec::new(),
                policy: Arc::clone(&policy),
                labels: Arc::default(),
            };
            (key(usize::from(index)), Arc::new(endpoint))
        })
        .collect();
    EffectiveState {
        endpoints,
        sets,
        ..EffectiveState::default()
    }
}

fn set_id(index: usize) -> SetId {
    SetId(format!("set-{index}").into())
}

fn members(set: usize) -> BTreeSet<IpNet> {
    let first = 0x0b00_0000 + u32::try_from(set).unwrap_or(0) * 0x2_0000;
    (0..MEMBERS)
        .map(|member| IpNet::from(IpAddr::V4(Ipv4Addr::from(first + member * 3))))
        .collect()
}

/// Even rules name a prefix, odd ones a set; each allows a port of its own. The last one allows [`PORT`] from anywhere.
fn rule(index: usize, count: usize, remote_is_source: bool) -> EffectiveRule {
    let mut remote = EffectiveEntity::default();
    let mut ports = EffectiveEntity::default();
    let port = if index + 1 == count {
        PORT
    } else {
        if index.is_multiple_of(2) {
            let net = Ipv4Addr::new(
                192,
                168,
                u8::try_from(index >> 8 & 255).unwrap_or(0),
                u8::try_from(index & 255).unwrap_or(0),
            );
            remote.nets = Some(vec![IpNet::from(IpAddr::V4(net))]);
        } else {
            remote.sets = vec![set_id(index % SETS)];
        }
        1000 + u16::try_from(index).unwrap_or(0)
    };
    ports.ports = Some(vec![EffectivePort::Range(port, port)]);
    let (source, destination) = if remote_is_source {
        (remote, ports)
    } else {
        (
            EffectiveEntity::default(),
            EffectiveEntity {
                ports: ports.ports,
                ..remote
            },
        )
    };
    EffectiveRule {
        action: Action::Allow,
        ip_version: None,
        protocol: Some(Protocol(17)),
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source,
        destination,
        index: u32::try_from(index).unwrap_or(0),
    }
}
