//! Answers to what policy denies (`IptablesFilterDenyAction` is `REJECT`), and to TCP to a workload that is gone: the packet
//! becomes its own answer and goes back to where it came from. TCP is answered by a reset, all else by an ICMP error.

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC};
use aya_ebpf::helpers::{
    bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh, bpf_skb_adjust_room, bpf_skb_change_tail,
};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use calico_ebpf_common::answer::{ANSWER_SOURCE4, ANSWER_SOURCE6};
use calico_ebpf_common::port::protocol;
use calico_ebpf_common::verdict::{DropReason, PassReason};

use crate::answer;
use crate::counters;
use crate::family::{Family, Scope, V4, V6};
use crate::forward::Action;
use crate::packet::{Packet, PacketKind};
use crate::parse::ethernet::{self, ETHERNET_BYTES};
use crate::parse::ipv4::IPV4_BYTES;
use crate::parse::ipv6::IPV6_BYTES;
use crate::parse::transport::{TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};
use crate::settings;
use crate::skb::Skb;
use crate::tables::Tables;

/// Answers an IPv4 packet that was denied and counted.
#[classifier]
pub(crate) fn answer4(context: TcContext) -> i32 {
    answer_denied::<V4>(&context)
}

/// As [`answer4`], for IPv6.
#[classifier]
pub(crate) fn answer6(context: TcContext) -> i32 {
    answer_denied::<V6>(&context)
}

/// A family's headers as they are written.
trait Answer: Family {
    const HEADER_BYTES: usize;
    /// Type and code of "administratively prohibited".
    const PROHIBITED: u16;
    /// Most bytes of the denied packet that the error quotes: RFC 1812 4.3.2.3, RFC 4443 2.4 (c).
    const MOST_QUOTED: usize;
    /// Where the host's address is among the sources.
    const SOURCE_INDEX: u32;

    /// Writes the header of a packet of `bytes` behind it.
    fn write_header(
        skb: &Skb,
        source: Self::Address,
        destination: Self::Address,
        number: u8,
        bytes: usize,
    ) -> Result<(), DropReason>;
}

const TCP_BYTES: usize = 20;
const UDP_CHECKSUM: usize = 6;
const TCP_CHECKSUM: usize = 16;
const ICMP_BYTES: usize = 8;
const HOP_LIMIT: u8 = 64;

#[inline(always)]
fn answer_denied<F: Answer>(context: &TcContext) -> i32 {
    let skb = Skb::new(context.skb.skb);
    // The packet was counted as dropped: that there is no answer changes nothing.
    try_answer::<F>(&skb).unwrap_or(TC_ACT_SHOT)
}

#[inline(always)]
fn try_answer<F: Answer>(skb: &Skb) -> Result<Action, DropReason> {
    let back_by = skb.left();
    let (slot, _) = Tables::active()?.endpoint_of_interface(skb.ifindex())?;
    let packet = F::parse(skb)?.forget_way(skb);
    let source = ethernet::source(skb)?;
    let destination = skb.view::<ETHERNET_BYTES>(0)?.mac::<0>();
    if source.is_group() || destination.is_group() || !may_be_answered(&packet) {
        return Err(DropReason::Multicast);
    }
    let answers = answer::take_turn(slot);
    if !answers {
        return Err(DropReason::Rewrite);
    }
    if packet.protocol == protocol::TCP {
        reset(skb, &packet)?;
    } else {
        prohibit(skb, &packet)?;
    }
    skb.store_mac(0, source)?;
    skb.store_mac(6, destination)?;
    skb.set_mark(skb.mark() | settings::judged_mark());
    counters::count_pass(skb, PassReason::Answered);
    if back_by == 0 {
        // SAFETY: no pointers; flags 0 is egress.
        return Ok(unsafe { bpf_redirect(skb.ifindex(), 0) } as Action);
    }
    // SAFETY: without parameters the kernel looks the next hop up.
    Ok(unsafe { bpf_redirect_neigh(back_by, core::ptr::null_mut(), 0, 0) } as Action)
}

/// Returns whether the packet may have an answer (RFC 1122 3.2.2, RFC 4443 2.4 (e), RFC 9293 3.10.7.1): not to groups or from
/// nobody, not to an ICMP error or answer, not to a reset. Fragments come here no more than errors. Options and extension
/// headers would have to be cut out: such packets have none.
#[inline(always)]
fn may_be_answered<F: Answer>(packet: &Packet<F>) -> bool {
    let is_plain = packet.transport_offset == ETHERNET_BYTES + F::HEADER_BYTES;
    let is_answerable = match packet.protocol {
        protocol::TCP => packet.tcp_flags & TCP_RST == 0,
        number if number == F::ICMP_PROTOCOL => packet.kind == PacketKind::IcmpQuery,
        _ => true,
    };
    is_plain && is_answerable && is_unicast::<F>(packet.source) && is_unicast::<F>(packet.destination)
}

#[inline(always)]
fn is_unicast<F: Family>(address: F::Address) -> bool {
    matches!(F::scope(address), Scope::Routable | Scope::Link)
}

/// Makes the TCP packet a reset of its connection.
#[inline(always)]
fn reset<F: Answer>(skb: &Skb, packet: &Packet<F>) -> Result<(), DropReason> {
    let at = ETHERNET_BYTES + F::HEADER_BYTES;
    let tcp = skb.view::<TCP_BYTES>(at)?;
    let (sequence, acknowledged) = (tcp.be32::<4>(), tcp.be32::<8>());
    let header_bytes = usize::from(tcp.u8::<12>() >> 4) * 4;
    let (sequence, acknowledged, flags) = if packet.tcp_flags & TCP_ACK != 0 {
        (acknowledged, 0, TCP_RST)
    } else {
        let controls =
            u32::from(packet.tcp_flags & TCP_SYN != 0) + u32::from(packet.tcp_flags & TCP_FIN != 0);
        let length = (packet.transport_bytes - header_bytes) as u32 + controls;
        (0, sequence.wrapping_add(length), TCP_RST | TCP_ACK)
    };
    resize(skb, at + TCP_BYTES)?;
    F::write_header(skb, packet.destination, packet.source, protocol::TCP, TCP_BYTES)?;
    let ports = u32::from(packet.destination_port) << 16 | u32::from(packet.source_port);
    let offset_and_flags = 5 << 12 | u16::from(flags);
    let pseudo = Sum::of_pseudo_header::<F>(packet.source, packet.destination, protocol::TCP, TCP_BYTES);
    let sum = pseudo
        .and(ports)
        .and(sequence)
        .and(acknowledged)
        .and(u32::from(offset_and_flags));
    skb.store(at, ports.to_be())?;
    skb.store(at + 4, sequence.to_be())?;
    skb.store(at + 8, acknowledged.to_be())?;
    skb.store(at + 12, offset_and_flags.to_be())?;
    skb.store(at + 14, 0_u16)?;
    skb.store(at + 16, 0_u32)?;
    let checksum = if is_unfinished(skb, at + TCP_CHECKSUM)? {
        pseudo.folded()
    } else {
        !sum.folded()
    };
    skb.store(at + TCP_CHECKSUM, checksum.to_be())
}

/// Makes the packet an ICMP error about itself.
#[inline(always)]
fn prohibit<F: Answer>(skb: &Skb, packet: &Packet<F>) -> Result<(), DropReason> {
    let source = answer::source(F::SOURCE_INDEX).ok_or(DropReason::Rewrite)?;
    let source = F::from_halves(source);
    let whole = F::HEADER_BYTES + packet.transport_bytes;
    let quoted = if whole < F::MOST_QUOTED {
        whole
    } else {
        F::MOST_QUOTED
    };
    let checksum_at = ETHERNET_BYTES + F::HEADER_BYTES + UDP_CHECKSUM;
    let unfinished = packet.protocol == protocol::UDP && is_unfinished(skb, checksum_at)?;
    let left: u16 = if unfinished { skb.load(checksum_at)? } else { 0 };
    resize(skb, ETHERNET_BYTES + quoted)?;
    let grown = (F::HEADER_BYTES + ICMP_BYTES) as u32;
    // SAFETY: the context is valid; packet pointers are taken anew after this call.
    if unsafe { bpf_skb_adjust_room(skb.raw(), grown.cast_signed(), BPF_ADJ_ROOM_MAC, 0) } != 0 {
        return Err(DropReason::Rewrite);
    }
    let bytes = ICMP_BYTES + quoted;
    F::write_header(skb, source, packet.source, F::ICMP_PROTOCOL, bytes)?;
    let at = ETHERNET_BYTES + F::HEADER_BYTES;
    // A quoted checksum that is still to be finished makes the sum of all it covers the complement of what it is now.
    let (summed, rest) = if unfinished {
        (F::HEADER_BYTES, u32::from(!u16::from_be(left)))
    } else {
        (quoted, 0)
    };
    let body = sum_of_bytes(skb.raw(), (at + ICMP_BYTES) as u32, summed as u32);
    let mut sum = Sum::of(u32::from(F::PROHIBITED)).and(body).and(rest);
    if F::ICMP_PROTOCOL == protocol::ICMPV6 {
        let pseudo = Sum::of_pseudo_header::<F>(source, packet.source, protocol::ICMPV6, bytes);
        sum = sum.and(u32::from(pseudo.folded()));
    }
    skb.store(at, F::PROHIBITED.to_be())?;
    skb.store(at + 2, (!sum.folded()).to_be())?;
    skb.store(at + 4, 0_u32)
}

/// Cuts the frame to `bytes`, or fills it up. It becomes linear, ours alone, and no super-frame any more.
#[inline(always)]
fn resize(skb: &Skb, bytes: usize) -> Result<(), DropReason> {
    // SAFETY: the context is valid; packet pointers are taken anew after this call.
    if unsafe { bpf_skb_change_tail(skb.raw(), bytes as u32, 0) } == 0 {
        Ok(())
    } else {
        Err(DropReason::Rewrite)
    }
}

/// Returns whether the transport checksum at `offset` is finished only when the packet is sent: until then it is that of
/// the pseudo header. The skb does not say so, but only a finished one follows what is under it.
#[inline(always)]
fn is_unfinished(skb: &Skb, offset: usize) -> Result<bool, DropReason> {
    let before: u16 = skb.load(offset)?;
    // SAFETY: the context is valid; packet pointers are taken anew after this call.
    if unsafe { bpf_l4_csum_replace(skb.raw(), offset as u32, 0, 1, 2) } != 0 {
        return Err(DropReason::Rewrite);
    }
    let after: u16 = skb.load(offset)?;
    skb.store(offset, before)?;
    Ok(before == after)
}

/// Returns the folded sum of the 16-bit words of `count` bytes at `offset`, for [`Sum`]. Global, so that the verifier follows
/// its loop once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sum_of_bytes(raw: *mut __sk_buff, offset: u32, count: u32) -> u32 {
    const MOST: usize = V6::MOST_QUOTED;
    let skb = Skb::new(raw);
    let offset = (offset & 0x7f) as usize;
    let mut sum = Sum::of(0);
    let mut index = 0;
    while index < MOST {
        if index + 1 >= count as usize {
            break;
        }
        let Ok(word) = skb.load::<u16>(offset + index) else {
            break;
        };
        sum = sum.and(u32::from(u16::from_be(word)));
        index += 2;
    }
    if count & 1 != 0 {
        // With the byte before it: of one byte alone the verifier would not know that it is there.
        let last = (count as usize).wrapping_sub(2) & 0x7ff;
        if let Ok(word) = skb.load::<u16>(offset + last) {
            sum = sum.and(u32::from(u16::from_be(word) & 0xff) << 8);
        }
    }
    u32::from(sum.folded())
}

/// A sum of 16-bit words as Internet checksums have it (RFC 1071).
#[derive(Clone, Copy)]
struct Sum(u64);

impl Sum {
    #[inline(always)]
    fn of(words: u32) -> Self {
        Self(0).and(words)
    }

    /// Adds two words.
    #[inline(always)]
    fn and(self, words: u32) -> Self {
        Self(self.0 + u64::from(words >> 16) + u64::from(words & 0xffff))
    }

    #[inline(always)]
    fn of_pseudo_header<F: Family>(
        source: F::Address,
        destination: F::Address,
        number: u8,
        bytes: usize,
    ) -> Self {
        let mut sum = Self::of(bytes as u32).and(u32::from(number));
        for half in [F::to_halves(source), F::to_halves(destination)].as_flattened() {
            sum = sum.and((*half >> 32) as u32).and(*half as u32);
        }
        sum
    }

    #[inline(always)]
    fn folded(self) -> u16 {
        let sum = (self.0 >> 32) + (self.0 & 0xffff_ffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        ((sum >> 16) + (sum & 0xffff)) as u16
    }
}

impl Answer for V4 {
    const HEADER_BYTES: usize = IPV4_BYTES;
    const PROHIBITED: u16 = 0x030d;
    const MOST_QUOTED: usize = 576 - IPV4_BYTES - ICMP_BYTES;
    const SOURCE_INDEX: u32 = ANSWER_SOURCE4;

    #[inline(always)]
    fn write_header(
        skb: &Skb,
        source: u32,
        destination: u32,
        number: u8,
        bytes: usize,
    ) -> Result<(), DropReason> {
        const DONT_FRAGMENT: u32 = 0x4000;
        let first = 0x4500_0000 | (IPV4_BYTES + bytes) as u32;
        let limits = u32::from(HOP_LIMIT) << 24 | u32::from(number) << 16;
        let sum = Sum::of(first)
            .and(DONT_FRAGMENT)
            .and(limits)
            .and(source)
            .and(destination);
        skb.store(ETHERNET_BYTES, first.to_be())?;
        skb.store(ETHERNET_BYTES + 4, DONT_FRAGMENT.to_be())?;
        skb.store(ETHERNET_BYTES + 8, (limits | u32::from(!sum.folded())).to_be())?;
        skb.store(ETHERNET_BYTES + 12, source.to_be())?;
        skb.store(ETHERNET_BYTES + 16, destination.to_be())
    }
}

impl Answer for V6 {
    const HEADER_BYTES: usize = IPV6_BYTES;
    const PROHIBITED: u16 = 0x0101;
    const MOST_QUOTED: usize = 1280 - IPV6_BYTES - ICMP_BYTES;
    const SOURCE_INDEX: u32 = ANSWER_SOURCE6;

    #[inline(always)]
    fn write_header(
        skb: &Skb,
        source: [u64; 2],
        destination: [u64; 2],
        number: u8,
        bytes: usize,
    ) -> Result<(), DropReason> {
        let limits = (bytes as u32) << 16 | u32::from(number) << 8 | u32::from(HOP_LIMIT);
        skb.store(ETHERNET_BYTES, 0x6000_0000_u32.to_be())?;
        skb.store(ETHERNET_BYTES + 4, limits.to_be())?;
        skb.store(ETHERNET_BYTES + 8, source[0].to_be())?;
        skb.store(ETHERNET_BYTES + 16, source[1].to_be())?;
        skb.store(ETHERNET_BYTES + 24, destination[0].to_be())?;
        skb.store(ETHERNET_BYTES + 32, destination[1].to_be())
    }
}
