//! What becomes of a packet, and who decides: asked of the programs, put in words.

use calico_ebpf_common::flow::{Flow, ORIGIN, RESPONDER};
use calico_ebpf_common::policy::Cell;
use calico_ebpf_common::verdict::{DropReason, PassReason};
use serde::Serialize;

use super::clock::Clock;
use super::decisions::{Decision, Direction, Policies};
use super::event_view::PacketView;
use super::flows::{FlowKey, FlowView};
use super::made_packet::{MadePacket, TcpPacket, destination_of};
use super::pinned::PinnedMaps;
use super::rule_names::RuleNames;
use super::translations::Translations;
use crate::dataplane::dry_run::{Answer, DryRun, Fate, Hook, KnownFlows};
use crate::dataplane::pins::Pins;
use crate::report::EndpointReport;

/// What the answer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AnsweredBy {
    /// The policies of the ends.
    Policy,
    /// A live flow that was judged before.
    LiveFlow,
    /// A check around policy, which the reason names: a spoofed source, a header, a destination.
    Check,
    /// What passes whatever policy says: DHCP, what the host sends, the metadata service.
    AlwaysAllowed,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub allowed: bool,
    /// Name of the drop reason, or of where it goes.
    pub reason: &'static str,
    pub answered_by: AnsweredBy,
    pub packet: PacketView,
    /// The hooks that were asked, in order.
    pub hooks: Vec<HookView>,
    /// What the policies of both ends decided, the originator's egress first; of a live flow, when it was judged.
    pub decisions: Vec<Decision>,
    /// The live flow that the packet belongs to.
    pub flow: Option<FlowView>,
    /// The tap that it goes to, if it goes to a workload here.
    pub to_interface: Option<String>,
    /// Address and port that the destination is translated to.
    pub translated_to: Option<(std::net::IpAddr, u16)>,
}

/// One hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HookView {
    pub interface: String,
    /// `from-workload` or `to-workload`.
    pub hook: &'static str,
}

/// Who sends the packet.
#[derive(Clone, Copy, Debug)]
pub enum Sender<'a> {
    /// A workload of this host, by its tap.
    Workload(&'a EndpointReport),
    /// The host itself.
    Host,
    /// Somebody else.
    Outside,
}

/// The number that stands for any interface but the tap: the programs ask only whether there is one.
const SOME_INTERFACE: u32 = 1;

/// What is asked about.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    pub sender: Sender<'a>,
    pub packet: MadePacket,
    /// The workload that the destination belongs to, if it is of this host.
    pub receiver: Option<&'a EndpointReport>,
    /// Whether live flows count.
    pub flows: KnownFlows,
}

/// Asks the programs.
///
/// # Errors
/// When they cannot be loaded or run, or the maps cannot be read.
pub fn explain(
    question: &Question<'_>,
    policies: &Policies,
    pins: &Pins,
    maps: &PinnedMaps,
) -> anyhow::Result<Explanation> {
    let mut packet = question.packet.clone();
    let flow = match question.flows {
        KnownFlows::Live => live_flow(&packet, question.receiver, maps)?,
        KnownFlows::None => None,
    };
    if flow.is_some_and(|(_, flow)| !flow.is_closed()) {
        packet.tcp = TcpPacket::InMidStream;
    }
    let frame = packet.frame()?;
    let programs = DryRun::load(pins, question.flows)?;
    let mut asked = Vec::new();
    let mut answer = match (question.sender, question.receiver) {
        (Sender::Workload(sender), _) => {
            asked.push(hook_view(sender, "from-workload"));
            programs.ask(Hook::FromWorkload, sender.ifindex, &frame)?
        }
        (Sender::Host | Sender::Outside, Some(receiver)) => {
            asked.push(hook_view(receiver, "to-workload"));
            let ingress_ifindex = match question.sender {
                Sender::Host => 0,
                Sender::Outside | Sender::Workload(_) => SOME_INTERFACE,
            };
            programs.ask(Hook::ToWorkload { ingress_ifindex }, receiver.ifindex, &frame)?
        }
        (Sender::Host | Sender::Outside, None) => anyhow::bail!("no end of the packet is on this host"),
    };
    let is_reply = flow.is_some_and(|(key, flow)| key.sides(&flow)[0] != packet.sides()[0]);
    let mut decisions = decisions_of(&answer, question, policies, is_reply);
    let mut was_judged = answer.cells.is_some();
    // What the host's stack routes to another tap after all (an address pair that is a prefix) is judged there.
    if let (Sender::Workload(sender), Some(receiver)) = (question.sender, question.receiver)
        && answer.fate == Fate::Passed(PassReason::Remote)
        && receiver.ifindex != sender.ifindex
    {
        asked.push(hook_view(receiver, "to-workload"));
        let hook = Hook::ToWorkload {
            ingress_ifindex: sender.ifindex,
        };
        answer = programs.ask(hook, receiver.ifindex, &answer.frame)?;
        if let Some(cells) = answer.cells {
            was_judged = true;
            decisions.push(policies.decision(Direction::Ingress, receiver.ifindex, cells[1]));
        }
    }
    let flow = flow.filter(|_| !was_judged || is_reply);
    let answered_by = answered_by(answer.fate, was_judged, flow.is_some());
    if let Some((_, flow)) = &flow
        && answered_by == AnsweredBy::LiveFlow
    {
        decisions = decisions_of_flow(flow, policies);
    }
    Ok(Explanation {
        allowed: matches!(answer.fate, Fate::Passed(_)),
        reason: match answer.fate {
            Fate::Dropped(reason) => reason.name(),
            Fate::Passed(reason) => reason.name(),
        },
        answered_by,
        packet: packet.view(),
        hooks: asked,
        decisions,
        flow: flow.map(|(key, flow)| flow_view(&key, &flow, policies)),
        to_interface: target(&answer, question, policies),
        translated_to: destination_of(&answer.frame).filter(|(address, _)| *address != packet.destination),
    })
}

fn hook_view(endpoint: &EndpointReport, hook: &'static str) -> HookView {
    HookView {
        interface: endpoint.interface.clone(),
        hook,
    }
}

/// Returns the live flow that the packet belongs to, plain or translated.
fn live_flow(
    packet: &MadePacket,
    receiver: Option<&EndpointReport>,
    maps: &PinnedMaps,
) -> anyhow::Result<Option<(FlowKey, Flow)>> {
    let floating = receiver.and_then(|endpoint| {
        let mut floating = endpoint.floating.iter();
        floating.find(|nat| nat.external == packet.destination)
    });
    let behind = floating.map_or(packet.destination, |nat| nat.internal);
    for key in [packet.flow_key(None)?, packet.flow_key(Some(behind))?] {
        if let Some(flow) = maps.flow(&key)? {
            return Ok(Some((key, flow)));
        }
    }
    Ok(None)
}

/// Returns what the first hook's policies decided.
fn decisions_of(
    answer: &Answer,
    question: &Question<'_>,
    policies: &Policies,
    is_reply: bool,
) -> Vec<Decision> {
    let Some([egress, ingress]) = answer.cells else {
        return Vec::new();
    };
    let sender = match question.sender {
        Sender::Workload(sender) => Some(sender),
        Sender::Host | Sender::Outside => None,
    };
    // By its whole address only: a prefix leads through the host's stack.
    let receiver = question.receiver.filter(|receiver| match question.sender {
        Sender::Workload(_) => policies.has_whole_address(receiver, question.packet.destination),
        Sender::Host | Sender::Outside => true,
    });
    let (originator, responder) = if is_reply {
        (receiver, sender)
    } else {
        (sender, receiver)
    };
    let decide = |direction, end: Option<&EndpointReport>, cell: Cell| {
        end.map(|endpoint| policies.decision(direction, endpoint.ifindex, cell))
    };
    let egress = decide(Direction::Egress, originator, egress);
    let ingress = decide(Direction::Ingress, responder, ingress)
        .filter(|_| answer.fate != Fate::Dropped(DropReason::EgressPolicy));
    egress.into_iter().chain(ingress).collect()
}

/// Returns what let a live flow pass when it was judged.
fn decisions_of_flow(flow: &Flow, policies: &Policies) -> Vec<Decision> {
    let ends = [(Direction::Egress, ORIGIN), (Direction::Ingress, RESPONDER)];
    let ends = ends.into_iter().filter_map(|(direction, end)| {
        let endpoint = policies.at_slot(flow.slot[end])?;
        Some(policies.decision(
            direction,
            endpoint.ifindex,
            Cell::new(true, false, flow.rule[end]),
        ))
    });
    ends.collect()
}

fn answered_by(fate: Fate, was_judged: bool, has_flow: bool) -> AnsweredBy {
    match fate {
        Fate::Dropped(DropReason::EgressPolicy | DropReason::IngressPolicy) => AnsweredBy::Policy,
        Fate::Dropped(_) => AnsweredBy::Check,
        Fate::Passed(_) if was_judged => AnsweredBy::Policy,
        Fate::Passed(_) if has_flow => AnsweredBy::LiveFlow,
        Fate::Passed(_) => AnsweredBy::AlwaysAllowed,
    }
}

/// Returns the tap that the packet goes to.
fn target(answer: &Answer, question: &Question<'_>, policies: &Policies) -> Option<String> {
    let Fate::Passed(reason) = answer.fate else {
        return None;
    };
    match reason {
        PassReason::LocalWorkload | PassReason::Untracked => {
            let mac: Vec<String> = answer
                .frame
                .iter()
                .take(6)
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let mac = mac.join(":");
            let mut endpoints = policies.report().endpoints.iter();
            let found = endpoints.find(|endpoint| endpoint.mac.as_deref() == Some(&mac));
            found.map(|endpoint| endpoint.interface.clone())
        }
        PassReason::FromRemote | PassReason::FromHost => {
            question.receiver.map(|endpoint| endpoint.interface.clone())
        }
        PassReason::Remote
        | PassReason::Host
        | PassReason::Neighbor
        | PassReason::Dhcp
        | PassReason::TtlExceeded
        | PassReason::PacketTooBig
        | PassReason::Metadata
        | PassReason::Answered => None,
    }
}

fn flow_view(key: &FlowKey, flow: &Flow, policies: &Policies) -> FlowView {
    let report = policies.report();
    FlowView::new(
        key,
        flow,
        Clock::read(),
        &RuleNames::of(report),
        &Translations::of(report),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_answered_follows_from_the_fate_and_from_who_was_asked() {
        let passed = Fate::Passed(PassReason::LocalWorkload);
        assert_eq!(answered_by(passed, true, false), AnsweredBy::Policy);
        assert_eq!(answered_by(passed, false, true), AnsweredBy::LiveFlow);
        assert_eq!(answered_by(passed, false, false), AnsweredBy::AlwaysAllowed);
        let spoofed = Fate::Dropped(DropReason::SourceAddress);
        assert_eq!(answered_by(spoofed, false, false), AnsweredBy::Check);
        let denied = Fate::Dropped(DropReason::EgressPolicy);
        assert_eq!(answered_by(denied, true, true), AnsweredBy::Policy);
    }
}
