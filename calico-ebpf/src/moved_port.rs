//! Source ports that were moved, because another flow has the tuple behind the translation: finding the flow of a
//! packet, or a free place for it.

use calico_ebpf_common::flow::{FLOW_ORIGIN_LOW, TRANSLATED};
use calico_ebpf_common::moved_port::{PLACES, is_movable, moved_port};

use crate::conntrack;
use crate::family::{Family, V4, V6};
use crate::packet::{Packet, PacketKind};

/// What was found out about a packet's places.
#[derive(Clone, Copy)]
pub(crate) struct Found(u32);

impl Found {
    /// Returns the place of the flow that the packet belongs to.
    #[inline(always)]
    pub(crate) fn taken(self) -> Option<u8> {
        (self.0 as u8).checked_sub(1)
    }

    /// Returns a place whose tuple no flow has.
    #[inline(always)]
    pub(crate) fn free(self) -> Option<u8> {
        ((self.0 >> 8) as u8).checked_sub(1)
    }
}

/// Looks at the places of a packet's source port, its destination being what it is behind the translation. `tag` is
/// that of the address that the packet was sent to.
#[inline(always)]
pub(crate) fn find<F: Family>(packet: &Packet<F>, tag: u16) -> Found {
    if is_movable(packet.protocol) {
        Found(F::moved_places(packet, tag))
    } else {
        Found(0)
    }
}

/// Returns one number of a packet's ports and protocol, and of a tag.
#[inline(always)]
pub(crate) fn pack<F: Family>(packet: &Packet<F>, tag: u16) -> u64 {
    u64::from(packet.source_port)
        | u64::from(packet.destination_port) << 16
        | u64::from(tag) << 32
        | u64::from(packet.protocol) << 48
}

/// Returns the place of the flow with the port moved that a packet belongs to in its low byte, a free place in the next;
/// each with one added, 0 for none. `rest` is what [`pack`] makes.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn moved_places4(source: u32, destination: u32, rest: u64) -> u32 {
    places::<V4>(source, destination, rest)
}

/// As [`moved_places4`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn moved_places6(
    source_high: u64,
    source_low: u64,
    high: u64,
    low: u64,
    rest: u64,
) -> u32 {
    places::<V6>([source_high, source_low], [high, low], rest)
}

#[inline(always)]
fn places<F: Family>(source: F::Address, destination: F::Address, rest: u64) -> u32 {
    let (port, destination_port) = (rest as u16, (rest >> 16) as u16);
    let to_itself = source == destination;
    // One key that is changed: the stack is small.
    let (mut key, is_lower) = F::flow_key(&Packet {
        source,
        destination,
        protocol: (rest >> 48) as u8,
        hop_limit: 0,
        tcp_flags: 0,
        source_port: port,
        destination_port,
        class_value: 0,
        transport_offset: 0,
        transport_bytes: 0,
        kind: PacketKind::Plain,
        translation: TRANSLATED,
    });
    let mut free = 0;
    for place in 0..PLACES {
        // Taken apart for each place: the stack is too small to keep the parts.
        let rest = core::hint::black_box(rest);
        let (port, destination_port) = (rest as u16, (rest >> 16) as u16);
        let tag = (rest >> 32) as u16;
        let at_place = moved_port(port, place);
        if at_place == 0 {
            continue;
        }
        let source_is_low = if to_itself {
            at_place <= destination_port
        } else {
            is_lower
        };
        if source_is_low {
            F::set_ports(&mut key, at_place, destination_port);
        } else {
            F::set_ports(&mut key, destination_port, at_place);
        }
        if let Some(entry) = conntrack::find::<F>(&key) {
            // SAFETY: points to a map value, which stays mapped while the program runs.
            let flow = unsafe { &*entry };
            let original = (flow.flags & FLOW_ORIGIN_LOW != 0) == source_is_low;
            if original && flow.nat == tag && flow.moved_place() == Some(place) {
                return u32::from(place) + 1;
            }
        } else if free == 0 {
            F::flip_translation(&mut key);
            if conntrack::find::<F>(&key).is_none() {
                free = u32::from(place) + 1;
            }
            F::flip_translation(&mut key);
        }
    }
    free << 8
}
