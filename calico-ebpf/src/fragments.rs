//! Fragments: the first one of a datagram is judged like a packet; the others go by the flow that it is of.
//!
//! A program cannot hold packets back, so a later fragment that comes before its first one is dropped, and so is one
//! that begins before the end of what was seen of its datagram (RFC 5722; RFC 1858 for IPv4): nothing that was judged is
//! written over when the receiver puts the datagram together.

use aya_ebpf::bindings::{BPF_ANY, BPF_F_NO_PREALLOC};
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use calico_ebpf_common::endpoint::Slot;
use calico_ebpf_common::fragment::{Datagram, DatagramKey};
use calico_ebpf_common::maps::DATAGRAM_ENTRIES;
use calico_ebpf_common::verdict::DropReason;

use crate::conntrack;
use crate::family::Family;
use crate::packet::Packet;
use crate::settings;

#[map]
static CEBPF_DATAGRAMS: HashMap<DatagramKey, Datagram> =
    HashMap::with_max_entries(DATAGRAM_ENTRIES, BPF_F_NO_PREALLOC);

/// Longest datagram in bytes.
const MAX_DATAGRAM: u32 = 65_535;

/// How long a datagram waits for its next fragment, in jiffies (3 to 30 s; Linux itself waits for 30 s).
const WAIT_JIFFIES: u64 = 3_000;

/// What the IP headers say about a fragment.
#[derive(Clone, Copy)]
pub(crate) struct Fragment {
    id: u32,
    /// First byte in the datagram, and the one behind the last.
    begin: u32,
    end: u32,
    more: bool,
}

impl Fragment {
    /// No fragment at all: a packet as it was sent.
    pub(crate) const WHOLE: Self = Self {
        id: 0,
        begin: 0,
        end: 0,
        more: false,
    };

    /// Makes a fragment of `bytes` bytes from `begin` on.
    #[inline(always)]
    pub(crate) fn new(id: u32, begin: u32, bytes: usize, more: bool) -> Result<Self, DropReason> {
        let end = begin + bytes as u32;
        if bytes == 0 || end > MAX_DATAGRAM || more && !bytes.is_multiple_of(8) {
            return Err(DropReason::Malformed);
        }
        Ok(Self { id, begin, end, more })
    }

    /// Returns identification, first byte, byte behind the last, and whether more follow.
    #[cfg(any(feature = "bench", feature = "on-host"))]
    #[inline(always)]
    pub(crate) fn numbers(&self) -> [u32; 4] {
        [self.id, self.begin, self.end, u32::from(self.more)]
    }

    #[inline(always)]
    pub(crate) fn is_first(&self) -> bool {
        self.begin == 0
    }

    /// Returns whether the packet is complete: no fragment, or the only one (RFC 6946).
    #[inline(always)]
    pub(crate) fn is_whole(&self) -> bool {
        self.begin == 0 && !self.more
    }
}

/// A fragment among those of its endpoint that go the same way.
pub(crate) struct Part {
    key: DatagramKey,
    /// The datagram as this fragment knows it.
    datagram: Datagram,
    begin: u32,
    more: bool,
}

impl Part {
    /// Returns the part that a fragment is, sent or received by the endpoint at `slot`.
    #[inline(always)]
    pub(crate) fn of<F: Family>(packet: &Packet<F>, fragment: Fragment, slot: Slot, direction: u8) -> Self {
        let datagram = Datagram {
            source: F::to_halves(packet.source),
            destination: F::to_halves(packet.destination),
            id: fragment.id,
            family: F::VERSION,
            protocol: if F::VERSION == 4 { packet.protocol } else { 0 },
            flow_protocol: packet.protocol,
            reserved: 0,
            source_port: packet.source_port,
            destination_port: packet.destination_port,
            end: fragment.end,
            until: conntrack::now() + WAIT_JIFFIES,
        };
        let key = DatagramKey {
            slot,
            direction,
            place: datagram.place(),
        };
        Self {
            key,
            datagram,
            begin: fragment.begin,
            more: fragment.more,
        }
    }

    /// Remembers by which flow the fragments after the first one go, if any come.
    #[inline(always)]
    pub(crate) fn remember(&self) -> Result<(), DropReason> {
        if !self.more || settings::dry_run() {
            return Ok(());
        }
        CEBPF_DATAGRAMS
            .insert(self.key, self.datagram, u64::from(BPF_ANY))
            .or(Err(DropReason::FragmentTableFull))
    }

    /// Returns a later fragment's packet with the flow's protocol and ports, as its datagram's first fragment had them.
    #[inline(always)]
    pub(crate) fn follow<F: Family>(&mut self, packet: &Packet<F>) -> Result<Packet<F>, DropReason> {
        let seen = CEBPF_DATAGRAMS
            .get_ptr(self.key)
            .ok_or(DropReason::FragmentWithoutFirst)?;
        // SAFETY: points to a map value. It may be used again for another datagram meanwhile: what is decided on this
        // copy is written back by key only.
        let seen = unsafe { *seen };
        if !seen.is_same(&self.datagram) || conntrack::now() >= seen.until {
            return Err(DropReason::FragmentWithoutFirst);
        }
        if self.begin < seen.end {
            // The rest of the datagram goes the same way: RFC 5722 section 3.
            self.forget();
            return Err(DropReason::FragmentOverlap);
        }
        let (source_port, destination_port) = (seen.source_port, seen.destination_port);
        if self.more {
            self.datagram.flow_protocol = seen.flow_protocol;
            self.datagram.source_port = source_port;
            self.datagram.destination_port = destination_port;
            self.remember()?;
        } else {
            self.forget();
        }
        Ok(Packet {
            protocol: seen.flow_protocol,
            source_port,
            destination_port,
            ..*packet
        })
    }

    #[inline(always)]
    fn forget(&self) {
        if !settings::dry_run() {
            let _ = CEBPF_DATAGRAMS.remove(self.key);
        }
    }
}
