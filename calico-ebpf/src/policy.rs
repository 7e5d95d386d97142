//! Judging a new flow: the source's egress policy and the target's ingress policy in one pass.

use calico_ebpf_common::address::AddressEntry;
use calico_ebpf_common::branchless::in_turn;
use calico_ebpf_common::endpoint::Endpoint;
use calico_ebpf_common::fall_back;
use calico_ebpf_common::policy::Cell;
use calico_ebpf_common::port::{port_class, protocol, source_port_class};
use calico_ebpf_common::verdict::DropReason;

use crate::counters;
use crate::event;
use crate::family::Family;
use crate::packet::Packet;
use crate::parse;
use crate::skb::Skb;
use crate::tables::{self, Tables};

/// Classes of a flow's first packet, shared by both directions' verdicts.
pub(crate) struct Classes {
    pub(crate) source: AddressEntry,
    pub(crate) destination: AddressEntry,
    port: u16,
    source_port: u16,
}

impl Classes {
    /// Looks the classes of a flow's first packet up: `packet`'s, or those of the packet that it answers.
    #[inline(always)]
    pub(crate) fn of<F: Family>(
        tables: &Tables,
        packet: &Packet<F>,
        reversed: bool,
    ) -> Result<Self, DropReason> {
        let (source, destination) = first_addresses(packet, reversed);
        let [source, destination] = F::address_entries(tables, source, destination)?;
        Self::of_entries(tables, packet, reversed, source, destination)
    }

    /// As [`Self::of`], with two calls that each need less stack.
    #[inline(always)]
    pub(crate) fn one_by_one<F: Family>(
        tables: &Tables,
        packet: &Packet<F>,
        reversed: bool,
    ) -> Result<Self, DropReason> {
        let (source, destination) = first_addresses(packet, reversed);
        let source = F::address_entry(tables, source)?;
        let destination = F::address_entry(tables, destination)?;
        Self::of_entries(tables, packet, reversed, source, destination)
    }

    #[inline(always)]
    fn of_entries<F: Family>(
        tables: &Tables,
        packet: &Packet<F>,
        reversed: bool,
        source: AddressEntry,
        destination: AddressEntry,
    ) -> Result<Self, DropReason> {
        let (source_port, value) = packet.first_ports(reversed);
        let port =
            port_class(tables, tables.root(), packet.protocol, value).ok_or(DropReason::NoPolicyTable)?;
        let source_port = source_port_class(tables, tables.root(), packet.protocol, source_port)
            .ok_or(DropReason::NoPolicyTable)?;
        Ok(Self {
            source,
            destination,
            port,
            source_port,
        })
    }

    /// Returns the numbers of the deciding rules of both ends, or why one of them refuses. An end that is no local
    /// endpoint has no say; egress is asked first. `kept` says that no rule has to allow it.
    #[inline(always)]
    pub(crate) fn judge<F: Family>(
        &self,
        skb: &Skb,
        packet: &Packet<F>,
        reversed: bool,
        egress: Option<&Endpoint>,
        ingress: Option<&Endpoint>,
        kept: bool,
    ) -> Result<[u32; 2], DropReason> {
        let egress_set = egress.map_or(0, |endpoint| endpoint.egress_set);
        let ingress_set = ingress.map_or(0, |endpoint| endpoint.ingress_set);
        let mut cells = tables::policy_verdicts(
            u64::from(ingress_set) << 32 | u64::from(egress_set),
            u32::from(self.destination.class) << 16 | u32::from(self.source.class),
            u32::from(self.source_port) << 16 | u32::from(self.port),
        );
        if cells & Cell::FALL_BACK_BITS != 0 {
            cells = asked_of_fall_back(skb, packet, reversed, cells)?;
        }
        let decided = decide(skb, cells, egress.is_some(), ingress.is_some(), kept);
        event::judged(skb, decided, cells, egress, ingress);
        decided
    }
}

/// Puts the verdicts of the other engine in the place of cells that only name it. What is needed between the calls is kept
/// in the packet's scratch space: the programs have no stack to spare.
#[inline(always)]
fn asked_of_fall_back<F: Family>(
    skb: &Skb,
    packet: &Packet<F>,
    reversed: bool,
    cells: u64,
) -> Result<u64, DropReason> {
    let (source_port, value) = packet.first_ports(reversed);
    skb.keep::<1>(cells as u32);
    skb.keep::<2>((cells >> 32) as u32);
    skb.keep::<3>(u32::from(source_port) << 16 | u32::from(value));
    skb.keep::<1>(verdict::<F, 1>(skb, packet, !reversed)?);
    let ingress = verdict::<F, 2>(skb, packet, reversed)?;
    Ok(u64::from(ingress) << 32 | u64::from(skb.kept::<1>()))
}

/// Returns the verdict that the cell in word `WORD` leads to. `to_remote` says that the packet's destination is the remote
/// side.
#[inline(always)]
fn verdict<F: Family, const WORD: usize>(
    skb: &Skb,
    packet: &Packet<F>,
    to_remote: bool,
) -> Result<u32, DropReason> {
    let cell = skb.kept::<WORD>();
    let destination = F::to_halves(packet.destination);
    let rows = if F::ICMP_PROTOCOL == protocol::ICMP {
        let source = F::to_halves(packet.source);
        let (remote, local) = if to_remote {
            (destination, source)
        } else {
            (source, destination)
        };
        tables::fall_back_rows4(cell, remote[1] as u32, local[1] as u32)
    } else {
        // Read again: the stack is too small to keep it, and translation leaves the source to the end.
        let source = parse::ipv6::source(skb)?;
        let (remote, local) = if to_remote {
            (destination, source)
        } else {
            (source, destination)
        };
        tables::fall_back_rows6(cell, remote[0], remote[1], local[0], local[1])
    };
    let ports = skb.kept::<3>();
    let ports = fall_back::ports(packet.protocol, ports as u16, (ports >> 16) as u16);
    Ok(tables::fall_back_verdict(skb.kept::<WORD>(), rows, ports))
}

/// Returns source and destination of a flow's first packet.
#[inline(always)]
fn first_addresses<F: Family>(packet: &Packet<F>, reversed: bool) -> (F::Address, F::Address) {
    if reversed {
        (packet.destination, packet.source)
    } else {
        (packet.source, packet.destination)
    }
}

/// Asks the cells of the ends that are local endpoints.
#[inline(always)]
fn decide(
    skb: &Skb,
    cells: u64,
    asks_egress: bool,
    asks_ingress: bool,
    kept: bool,
) -> Result<[u32; 2], DropReason> {
    let mut rules = [0; 2];
    if asks_egress {
        rules[0] = rule_of(allowed(skb, Cell(cells as u32), DropReason::EgressPolicy, kept))?;
    }
    if asks_ingress {
        rules[1] = rule_of(allowed(
            skb,
            Cell((cells >> 32) as u32),
            DropReason::IngressPolicy,
            kept,
        ))?;
    }
    Ok(rules)
}

/// Reads the answer of [`allowed`].
#[inline(always)]
fn rule_of(answer: u64) -> Result<u32, DropReason> {
    match (answer >> 32) as u32 {
        0 => Ok(answer as u32),
        reason if reason == DropReason::EgressPolicy as u32 => Err(DropReason::EgressPolicy),
        _ => Err(DropReason::IngressPolicy),
    }
}

/// Counts the deciding rule and returns its number, or, in the high half, the reason of its denial. What is kept although a
/// rule denies it passes by none. A number and not a `Result`: the compiler would copy what a `Result` leaves undefined, which
/// the verifier refuses.
#[inline(always)]
fn allowed(skb: &Skb, cell: Cell, denied: DropReason, kept: bool) -> u64 {
    if kept && !cell.allows() {
        return 0;
    }
    counters::count_rule(skb, cell.rule());
    in_turn(if cell.allows() {
        u64::from(cell.rule())
    } else {
        u64::from(denied as u32) << 32
    })
}
