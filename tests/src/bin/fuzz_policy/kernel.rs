//! The programs in the kernel, asked with real packets under the same table.

use calico_ebpf_tests::packets::PAYLOAD;
use calico_ebpf_tests::policy_packets::{owner, packet_of, refused_before_policy};
use calico_ebpf_tests::programs::{Hook, Hooks};
use calico_ebpf_userspace::calc::effective::EffectiveState;
use calico_ebpf_userspace::compile::generate::{Case, Random};
use calico_ebpf_userspace::model::name::ResourceKey;

use crate::coverage::Coverage;
use crate::probe::Probe;

/// Packets after each change.
const PACKETS: usize = 8;
/// Packets that are sent before and after each change, for their flows.
const FLOWS: usize = 4;

/// Packets, and whether each was allowed.
pub(crate) type Flows = Vec<(Sent, bool)>;

/// A packet for a hook.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    hook: Hook,
    ifindex: u32,
    frame: Vec<u8>,
    probe: Probe,
}

impl Sent {
    fn random(case: &Case, random: &mut Random) -> Option<Self> {
        let key: &ResourceKey = case.endpoint(random)?;
        let other = if random.chance(40) {
            case.endpoint(random)
        } else {
            None
        };
        let hook = random.pick(&[Hook::FromWorkload, Hook::ToWorkload]);
        let (facts, source, target) = match hook {
            Hook::FromWorkload => {
                let facts = case.packet(random, Some(key), other)?;
                let target = owner(&case.state, &case.host, facts.destination);
                (facts, Some(key), target)
            }
            Hook::ToWorkload => (case.packet(random, other, Some(key))?, None, Some(key)),
        };
        let endpoint = &case.state.endpoints[key];
        let tap = case.host.interfaces[&endpoint.interface_name];
        let mac = endpoint.mac.map_or([0; 6], |mac| mac.0);
        let packet = packet_of(&facts, PAYLOAD);
        let frame = match hook {
            Hook::FromWorkload => packet.filled(mac, tap.mac.0),
            Hook::ToWorkload => packet.filled(tap.mac.0, mac),
        };
        Some(Self {
            hook,
            ifindex: tap.ifindex,
            frame,
            probe: Probe {
                facts,
                source: source.cloned(),
                target: target.cloned(),
                is_possible: true,
            },
        })
    }

    /// Sends the packet and compares what becomes of it with the reference.
    fn check(&self, hooks: &Hooks, state: &EffectiveState) -> Result<Option<bool>, String> {
        let refused = refused_before_policy(&self.probe.facts, self.hook == Hook::FromWorkload).is_some();
        let expected = self.probe.expected(state).allow;
        let passed = hooks.passes(self.hook, self.ifindex, &self.frame);
        if passed == (expected && !refused) {
            return Ok((!refused).then_some(expected));
        }
        let verdict = |passes: bool| if passes { "allows" } else { "denies" };
        Err(format!(
            "{:?}: reference {}, kernel {}",
            self.hook,
            verdict(expected),
            verdict(passed)
        ))
    }

    /// Returns whether the packets can have no flow in common.
    fn is_apart_from(&self, other: &Self) -> bool {
        let ends = |sent: &Self| {
            let facts = sent.probe.facts;
            let mut ends = [
                (facts.source, facts.source_port),
                (facts.destination, facts.destination_port),
            ];
            ends.sort_unstable();
            (ends, facts.protocol)
        };
        ends(self) != ends(other)
    }
}

/// Compares the programs with the reference, each packet without any flow.
pub(crate) fn check(
    hooks: &mut Hooks,
    case: &Case,
    random: &mut Random,
    coverage: &mut Coverage,
) -> Result<(), (String, Box<Probe>)> {
    for _ in 0..PACKETS {
        let Some(sent) = Sent::random(case, random) else {
            continue;
        };
        hooks.clear_flows();
        let found = sent.check(hooks, &case.state);
        coverage.kernel_packets += 1;
        coverage.hit(match found.map_err(|what| (what, Box::new(sent.probe)))? {
            None => "kernel: refused before policy",
            Some(true) => "kernel: a new flow is allowed",
            Some(false) => "kernel: a new flow is denied",
        });
    }
    hooks.clear_flows();
    Ok(())
}

/// Opens flows, to be looked at again after a change.
pub(crate) fn open_flows(
    hooks: &mut Hooks,
    case: &Case,
    random: &mut Random,
) -> Result<Flows, (String, Box<Probe>)> {
    hooks.clear_flows();
    let mut flows = Flows::new();
    for _ in 0..FLOWS * 2 {
        let Some(sent) = Sent::random(case, random) else {
            continue;
        };
        if flows.len() == FLOWS
            || sent.probe.facts.icmp.is_some()
            || !flows.iter().all(|(other, _)| sent.is_apart_from(other))
        {
            continue;
        }
        let found = sent.check(hooks, &case.state);
        if let Some(allowed) = found.map_err(|what| (what, Box::new(sent.probe.clone())))? {
            flows.push((sent, allowed));
        }
    }
    Ok(flows)
}

/// Sends the next packet of each flow: a change of policy must count for it at once.
pub(crate) fn check_flows(
    hooks: &Hooks,
    case: &Case,
    flows: Flows,
    coverage: &mut Coverage,
) -> Result<(), (String, Box<Probe>)> {
    for (sent, before) in flows {
        let target = owner(&case.state, &case.host, sent.probe.facts.destination);
        let same_owner = sent.hook == Hook::ToWorkload || target == sent.probe.target.as_ref();
        if !sent.probe.is_about(&case.state) || !same_owner || !owns_source(case, &sent) {
            coverage.hit("kernel: an end of a flow goes");
            continue;
        }
        let found = sent.check(hooks, &case.state);
        coverage.kernel_packets += 1;
        let now = found.map_err(|what| (format!("open flow: {what}"), Box::new(sent.probe)))?;
        coverage.hit(match (before, now == Some(true)) {
            (true, true) => "kernel: an open flow goes on",
            (true, false) => "kernel: an open flow ends",
            (false, true) => "kernel: a refused flow is allowed now",
            (false, false) => "kernel: a refused flow stays refused",
        });
    }
    Ok(())
}

/// Returns whether the sender may use its address still.
fn owns_source(case: &Case, sent: &Sent) -> bool {
    let key = match sent.hook {
        Hook::FromWorkload => &sent.probe.source,
        Hook::ToWorkload => &None,
    };
    key.as_ref().is_none_or(|key| {
        let networks = &case.state.endpoints[key].ip_networks;
        networks.iter().any(|net| net.addr() == sent.probe.facts.source)
    })
}
