//! Translated headers: addresses and ports written into the packet, checksums carried along (RFC 1624).
//!
//! Checksums change by the kernel's helpers, which know an skb whose checksum the hardware still has to finish, and
//! leave a UDP checksum of zero alone. Lengths stay, so segmentation offload stays what it was.

use aya_ebpf::bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::{bpf_l3_csum_replace, bpf_l4_csum_replace};
use calico_ebpf_common::port::protocol;
use calico_ebpf_common::verdict::DropReason;

use crate::family::{Family, V4, V6};
use crate::nat;
use crate::packet::Packet;
use crate::parse::ethernet::ETHERNET_BYTES;
use crate::settings;
use crate::skb::Skb;
use crate::tables;

/// Where transport checksums are.
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
const ICMP_CHECKSUM: usize = 2;
/// Where the ports are in TCP.
const SOURCE_PORT: usize = 0;
const DESTINATION_PORT: usize = 2;

/// A transport checksum, and how it is replaced.
#[derive(Clone, Copy)]
pub(crate) struct Checksum {
    offset: usize,
    flags: u64,
}

/// A family's headers as they are rewritten.
pub(crate) trait Rewrite: Family {
    /// Offsets of the addresses in the IP header.
    const SOURCE: usize;
    const DESTINATION: usize;

    /// Where workloads find the metadata service.
    const METADATA_ADDRESS: Self::Address;

    /// What [`translate`] calls.
    fn translate(skb: &Skb, transport: u32, destination: u32, source: u32, port: u32) -> i32;
    /// Returns the packet as the metadata service gets it.
    fn at_metadata(packet: &Packet<Self>) -> Packet<Self>;
    /// Returns the checksum of an ICMP message as one that covers an IP address in its body. IPv4's does not change:
    /// the checksum of the header around the address takes the change up.
    fn body_checksum(packet: &Packet<Self>) -> Option<Checksum>;
    /// Writes an address at `offset`, in the IP header that begins at `header`. `checksum` is one that covers it.
    fn replace(
        skb: &Skb,
        offset: usize,
        header: usize,
        new: Self::Address,
        checksum: Option<Checksum>,
    ) -> Result<(), DropReason>;
}

/// Gives the packet the internal address of one translation as destination and the external address of another as
/// source. Both are named by their lines; 0 leaves the address as it is.
#[inline(always)]
pub(crate) fn translate<F: Rewrite>(
    skb: &Skb,
    packet: &Packet<F>,
    destination: u32,
    source: u32,
) -> Result<(), DropReason> {
    translate_with(skb, packet, destination, source, NewPort::NONE)
}

/// A port that changes with the addresses.
#[derive(Clone, Copy)]
pub(crate) struct NewPort(u32);

impl NewPort {
    const NONE: Self = Self(0);
    const SOURCE: u32 = 1 << 16;
    const DESTINATION: u32 = 2 << 16;

    #[inline(always)]
    pub(crate) fn source(port: u16) -> Self {
        Self(Self::SOURCE | u32::from(port))
    }

    #[inline(always)]
    pub(crate) fn destination(port: u16) -> Self {
        Self(Self::DESTINATION | u32::from(port))
    }

    /// Returns it as a number.
    #[inline(always)]
    pub(crate) fn bits(self) -> u32 {
        self.0
    }

    /// Returns what has this [number](Self::bits).
    #[inline(always)]
    pub(crate) fn of_bits(bits: u32) -> Self {
        Self(bits)
    }
}

/// As [`translate`]; a port of TCP or UDP changes as well.
#[inline(always)]
pub(crate) fn translate_with<F: Rewrite>(
    skb: &Skb,
    packet: &Packet<F>,
    destination: u32,
    source: u32,
    port: NewPort,
) -> Result<(), DropReason> {
    let transport = (packet.transport_offset as u32) << 8 | u32::from(packet.protocol);
    match F::translate(skb, transport, destination, source, port.0) {
        0 => Ok(()),
        _ => Err(DropReason::Rewrite),
    }
}

/// As [`translate_with`], for IPv4: `transport` is the offset of the transport header above the protocol's number, `port` a
/// [`NewPort`]. Returns 0, or 1 when the packet could not be written. Global, so that callers keep their stack.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn translate4(
    raw: *mut __sk_buff,
    transport: u32,
    destination: u32,
    source: u32,
    port: u32,
) -> i32 {
    i32::from(translate_packet::<V4>(&Skb::new(raw), transport, destination, source, port).is_err())
}

/// As [`translate4`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn translate6(
    raw: *mut __sk_buff,
    transport: u32,
    destination: u32,
    source: u32,
    port: u32,
) -> i32 {
    i32::from(translate_packet::<V6>(&Skb::new(raw), transport, destination, source, port).is_err())
}

#[inline(always)]
fn translate_packet<F: Rewrite>(
    skb: &Skb,
    transport: u32,
    destination: u32,
    source: u32,
    port: u32,
) -> Result<(), DropReason> {
    // Keeps the offset's bound visible to the verifier; the linear headers are shorter.
    let offset = (transport >> 8) as usize & 0x7ff;
    let checksum = covering_checksum::<F>(offset, transport as u8);
    if let Some(nat) = tables::nat_at_line(destination) {
        let place = ETHERNET_BYTES + F::DESTINATION;
        F::replace(skb, place, ETHERNET_BYTES, F::from_halves(nat.internal), checksum)?;
    }
    if let Some(nat) = tables::nat_at_line(source) {
        let place = ETHERNET_BYTES + F::SOURCE;
        F::replace(skb, place, ETHERNET_BYTES, F::from_halves(nat.external), checksum)?;
    }
    let place = match port >> 16 << 16 {
        NewPort::SOURCE => SOURCE_PORT,
        NewPort::DESTINATION => DESTINATION_PORT,
        _ => return Ok(()),
    };
    let checksum = checksum.ok_or(DropReason::Rewrite)?;
    replace_port(skb, offset + place, checksum, port as u16)
}

/// Which of a packet's ports.
#[derive(Clone, Copy)]
pub(crate) enum Port {
    Source,
    Destination,
}

/// Writes a port of the packet that the ICMP error `error` quotes. The quoted checksum stays as it was sent.
#[inline(always)]
pub(crate) fn quoted_port<F: Family>(
    skb: &Skb,
    error: &Packet<F>,
    quoted: &Packet<F>,
    port: Port,
    new: u16,
) -> Result<(), DropReason> {
    let place = match port {
        Port::Source => SOURCE_PORT,
        Port::Destination => DESTINATION_PORT,
    };
    let checksum = Checksum {
        offset: error.transport_offset + ICMP_CHECKSUM,
        flags: 0,
    };
    // Keeps the offset's bound visible to the verifier.
    replace_port(skb, (quoted.transport_offset & 0x7ff) + place, checksum, new)
}

/// Gives a TCP packet to the metadata service the address and port where that is.
#[inline(always)]
pub(crate) fn to_metadata<F: Rewrite>(
    skb: &Skb,
    packet: &Packet<F>,
    translated: &Packet<F>,
) -> Result<(), DropReason> {
    let checksum = covering_checksum::<F>(packet.transport_offset, packet.protocol);
    let place = ETHERNET_BYTES + F::DESTINATION;
    F::replace(skb, place, ETHERNET_BYTES, translated.destination, checksum)?;
    let place = packet.transport_offset + DESTINATION_PORT;
    replace_port(
        skb,
        place,
        checksum.ok_or(DropReason::Rewrite)?,
        translated.destination_port,
    )
}

/// Gives a TCP packet from the metadata service the address and port where the workload knows it.
#[inline(always)]
pub(crate) fn from_metadata<F: Rewrite>(skb: &Skb, packet: &Packet<F>) -> Result<(), DropReason> {
    let checksum = covering_checksum::<F>(packet.transport_offset, packet.protocol);
    let place = ETHERNET_BYTES + F::SOURCE;
    F::replace(skb, place, ETHERNET_BYTES, F::METADATA_ADDRESS, checksum)?;
    let place = packet.transport_offset + SOURCE_PORT;
    replace_port(
        skb,
        place,
        checksum.ok_or(DropReason::Rewrite)?,
        nat::METADATA_PORT,
    )
}

/// Writes a port at `offset`. `checksum` is the transport's.
#[inline(always)]
fn replace_port(skb: &Skb, offset: usize, checksum: Checksum, new: u16) -> Result<(), DropReason> {
    let old = u64::from(skb.load::<u16>(offset)?);
    // The port is no part of the pseudo header.
    let checksum = Checksum {
        flags: checksum.flags & !u64::from(BPF_F_PSEUDO_HDR),
        ..checksum
    };
    replace_in(skb, checksum, old, u64::from(new.to_be()), 2)?;
    skb.store(offset, new.to_be())
}

/// Returns the transport checksum that covers the addresses by the pseudo header, if the protocol has one. SCTP's does
/// not, nor does IPv4's ICMP.
#[inline(always)]
pub(crate) fn covering_checksum<F: Family>(transport_offset: usize, number: u8) -> Option<Checksum> {
    let pseudo = u64::from(BPF_F_PSEUDO_HDR);
    let (offset, flags) = match number {
        protocol::TCP => (TCP_CHECKSUM, pseudo),
        protocol::UDP => (UDP_CHECKSUM, pseudo | u64::from(BPF_F_MARK_MANGLED_0)),
        protocol::UDPLITE | protocol::DCCP => (UDP_CHECKSUM, pseudo),
        protocol::ICMPV6 if F::ICMP_PROTOCOL == protocol::ICMPV6 => (ICMP_CHECKSUM, pseudo),
        _ => return None,
    };
    Some(Checksum {
        offset: transport_offset + offset,
        flags,
    })
}

/// Changes a transport checksum as if `size` bytes under it had become `new`.
#[inline(always)]
fn replace_in(skb: &Skb, checksum: Checksum, old: u64, new: u64, size: u64) -> Result<(), DropReason> {
    let flags = checksum.flags | size;
    // SAFETY: the context is valid; packet pointers are taken anew after this call.
    let answer = unsafe { bpf_l4_csum_replace(skb.raw(), checksum.offset as u32, old, new, flags) };
    if answer == 0 {
        Ok(())
    } else {
        Err(DropReason::Rewrite)
    }
}

impl Rewrite for V4 {
    const SOURCE: usize = 12;
    const DESTINATION: usize = 16;
    const METADATA_ADDRESS: u32 = nat::METADATA_ADDRESS;

    #[inline(always)]
    fn translate(skb: &Skb, transport: u32, destination: u32, source: u32, port: u32) -> i32 {
        translate4(skb.raw(), transport, destination, source, port)
    }

    #[inline(always)]
    fn at_metadata(packet: &Packet<Self>) -> Packet<Self> {
        let (address, port) = settings::metadata();
        Packet {
            destination_port: port,
            class_value: port,
            ..packet.translated_to(address)
        }
    }

    #[inline(always)]
    fn body_checksum(_packet: &Packet<Self>) -> Option<Checksum> {
        None
    }

    #[inline(always)]
    fn replace(
        skb: &Skb,
        offset: usize,
        header: usize,
        new: u32,
        checksum: Option<Checksum>,
    ) -> Result<(), DropReason> {
        const HEADER_CHECKSUM: usize = 10;
        let old = u64::from(skb.load::<u32>(offset)?);
        let new = u64::from(new.to_be());
        let place = (header + HEADER_CHECKSUM) as u32;
        // SAFETY: the context is valid; packet pointers are taken anew after this call.
        if unsafe { bpf_l3_csum_replace(skb.raw(), place, old, new, 4) } != 0 {
            return Err(DropReason::Rewrite);
        }
        if let Some(checksum) = checksum {
            replace_in(skb, checksum, old, new, 4)?;
        }
        skb.store(offset, new as u32)
    }
}

impl Rewrite for V6 {
    const SOURCE: usize = 8;
    const DESTINATION: usize = 24;
    const METADATA_ADDRESS: [u64; 2] = [0; 2];

    #[inline(always)]
    fn translate(skb: &Skb, transport: u32, destination: u32, source: u32, port: u32) -> i32 {
        translate6(skb.raw(), transport, destination, source, port)
    }

    #[inline(always)]
    fn at_metadata(packet: &Packet<Self>) -> Packet<Self> {
        *packet
    }

    #[inline(always)]
    fn body_checksum(packet: &Packet<Self>) -> Option<Checksum> {
        Some(Checksum {
            offset: packet.transport_offset + ICMP_CHECKSUM,
            flags: 0,
        })
    }

    #[inline(always)]
    fn replace(
        skb: &Skb,
        offset: usize,
        _header: usize,
        new: [u64; 2],
        checksum: Option<Checksum>,
    ) -> Result<(), DropReason> {
        for half in 0..2 {
            let old = skb.load::<u64>(offset + 8 * half)?;
            let new = new[half].to_be();
            if let Some(checksum) = checksum {
                replace_in(skb, checksum, u64::from(old as u32), u64::from(new as u32), 4)?;
                replace_in(skb, checksum, old >> 32, new >> 32, 4)?;
            }
            skb.store(offset + 8 * half, new)?;
        }
        Ok(())
    }
}
