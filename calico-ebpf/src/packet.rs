//! A parsed packet.

use calico_ebpf_common::flow::TRANSLATED;
use calico_ebpf_common::moved_port::moved_port;

use crate::family::Family;
use crate::skb::Skb;

/// How conntrack and policy treat a packet beyond its tuple.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum PacketKind {
    /// TCP, UDP and everything that is tracked by its addresses and ports.
    Plain,
    /// ICMP query: opens a flow.
    IcmpQuery,
    /// Answer to an ICMP query: only as the reply of a flow.
    IcmpReply,
    /// ICMP error: only when it quotes a live flow.
    IcmpError,
    /// Neighbour discovery and MLD: to the host only.
    Neighbor,
}

/// A packet's facts. Addresses and ports are in the host's byte order.
#[derive(Clone, Copy)]
pub(crate) struct Packet<F: Family> {
    pub(crate) source: F::Address,
    pub(crate) destination: F::Address,
    pub(crate) protocol: u8,
    /// TTL or hop limit as received.
    pub(crate) hop_limit: u8,
    pub(crate) tcp_flags: u8,
    /// Port, or what stands for it in the flow's key (ICMP: see `calico_ebpf_common::flow::ICMP_PORT`).
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    /// What the port class is looked up by: destination port, or ICMP `type << 8 | code` of the flow's first packet.
    pub(crate) class_value: u16,
    /// Offset of the transport header in the frame.
    pub(crate) transport_offset: usize,
    /// Bytes of the packet from the transport header on, as the IP header states.
    pub(crate) transport_bytes: usize,
    pub(crate) kind: PacketKind,
    /// What the flow's key says of the tuple: `calico_ebpf_common::flow::TRANSLATED` or `NOT_TRANSLATED`.
    pub(crate) translation: u8,
}

impl<F: Family> Packet<F> {
    /// Returns the same packet, of which the verifier does not know by which way through the parser it came: with each
    /// way it would follow all that comes after. Linux 6.1 gives up on that.
    #[inline(always)]
    pub(crate) fn forget_way(self, skb: &Skb) -> Self {
        let bytes = [self.protocol, self.hop_limit, self.tcp_flags, self.kind as u8];
        let [protocol, hop_limit, tcp_flags, kind] = skb.forget::<1>(u32::from_ne_bytes(bytes)).to_ne_bytes();
        let ports = skb.forget::<2>(u32::from(self.source_port) << 16 | u32::from(self.destination_port));
        let rest = skb.forget::<3>(u32::from(self.class_value) << 16 | self.transport_offset as u32);
        Self {
            protocol,
            hop_limit,
            tcp_flags,
            source_port: (ports >> 16) as u16,
            destination_port: ports as u16,
            class_value: (rest >> 16) as u16,
            // Keeps the bound visible, as in `rewrite`.
            transport_offset: (rest & 0x7ff) as usize,
            // SAFETY: what is read is what was written, a value of the same type.
            kind: unsafe { core::mem::transmute::<u8, PacketKind>(kind) },
            ..self
        }
    }

    /// Returns the packet with the tuple that it has behind the translation of its destination.
    #[inline(always)]
    pub(crate) fn translated_to(&self, destination: F::Address) -> Self {
        Self {
            destination,
            translation: TRANSLATED,
            ..*self
        }
    }

    /// Returns the packet's tuple the other way round.
    #[inline(always)]
    pub(crate) fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..*self
        }
    }

    /// Returns the packet with its source port at a place (see [`calico_ebpf_common::moved_port`]).
    #[inline(always)]
    pub(crate) fn moved_to(&self, place: u8) -> Self {
        Self {
            source_port: moved_port(self.source_port, place),
            ..*self
        }
    }

    /// Returns the source port of the flow's first packet, and what its port class is looked up by. `reversed` says
    /// that this packet is one of its replies.
    #[inline(always)]
    pub(crate) fn first_ports(&self, reversed: bool) -> (u16, u16) {
        match self.kind {
            PacketKind::Plain if reversed => (self.destination_port, self.source_port),
            PacketKind::Plain => (self.source_port, self.class_value),
            PacketKind::IcmpQuery | PacketKind::IcmpReply | PacketKind::IcmpError | PacketKind::Neighbor => {
                (0, self.class_value)
            }
        }
    }
}
