//! The floating address of a recorded cloud: whom the groups of its port let in is led there and answered from there,
//! nobody else.

use std::net::IpAddr;

use calico_ebpf_tests::packets::Path;
use calico_ebpf_userspace::compile::reference::Direction;

use super::aim::Aim;
use super::cloud::Cloud;
use super::judge::Judge;
use super::ledger::Ledger;
use super::volley::{Shot, ends_of, fire, token};

const TCP: u8 = 6;
/// Where the protocol is in an IPv4 frame, and where the ports are behind a header without options.
const PROTOCOL: usize = 23;
const PORTS: usize = 34;

/// Probes every floating address of a host's ports by every rule of their groups about what comes in.
pub(super) fn probe(cloud: &Cloud, ledger: &mut Ledger) {
    let judge = Judge::new(&cloud.objects_without(&[]), cloud.hostname());
    let mut shots = Vec::new();
    for (port, local) in cloud
        .ports()
        .iter()
        .enumerate()
        .filter(|(_, local)| local.is_recorded)
    {
        for [internal, external] in local.recorded.floating() {
            let groups = local.recorded.groups();
            let rules = cloud
                .rules()
                .iter()
                .filter(|rule| rule.direction == Direction::Ingress && groups.contains(&rule.group));
            for rule in rules {
                let aim = Aim {
                    cloud,
                    judge: &judge,
                    rule,
                    port,
                    floating: Some(external),
                };
                if aim.own_address() != Some(internal) {
                    continue;
                }
                let mut probes = aim.probes(None);
                ledger.complain(probes.refused);
                let mut answers = Vec::new();
                for shot in &mut probes.right {
                    let [source, _] = ends_of(shot.packet.bytes()).expect("an IP packet");
                    shot.heard = Some([source, internal]);
                    answers.push(answer(cloud, shot, internal, external));
                }
                ledger.count_floating(probes.right.len() + answers.len(), probes.wrong.len());
                shots.extend(probes.right.into_iter().chain(answers).chain(probes.wrong));
            }
        }
    }
    ledger.complain(fire(cloud, &shots));
}

/// Returns the answer to a probe, which comes from the floating address.
fn answer(cloud: &Cloud, question: &Shot, internal: IpAddr, external: IpAddr) -> Shot {
    let number = cloud.next_number();
    let bytes = question.packet.bytes();
    let [source, _] = ends_of(bytes).expect("an IP packet");
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let packet = match bytes[PROTOCOL] {
        TCP => Path::new((internal, port(PORTS + 2)), (source, port(PORTS))).tcp_with("SA", &token(number)),
        other => Path::new((internal, 0), (source, 0)).protocol(other, &token(number)),
    };
    Shot {
        number,
        from: question.to,
        to: question.from,
        packet,
        opener: Some(question.packet.clone()),
        arrives: true,
        heard: Some([external, source]),
        what: format!("answer to {}", question.what),
    }
}
