//! Telling whoever watches about drops and `Log` rules, off the fast path only; and noting for a dry run what it found.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, RingBuf};
use calico_ebpf_common::endpoint::{Endpoint, SLOT_NONE};
use calico_ebpf_common::event::{
    Budget, EVENT_BYTES, EVENTS_A_SECOND, Event, FATE_JUDGED, FATE_KNOWN, HAS_ADDRESSES, HAS_TRANSPORT,
    REASON_NONE, WORD_EGRESS, WORD_FATE, WORD_INGRESS,
};
use calico_ebpf_common::maps::BUDGET_ENTRIES;
use calico_ebpf_common::policy::Cell;
use calico_ebpf_common::verdict::DropReason;

use crate::parse::ethernet::ETHERNET_BYTES;
use crate::parse::ipv4::IPV4_BYTES;
use crate::parse::ipv6::{self, IPV6_BYTES};
use crate::settings;
use crate::skb::Skb;
use crate::tables::Tables;

#[map]
static CEBPF_EVENTS: RingBuf = RingBuf::with_byte_size(EVENT_BYTES, 0);

#[map]
static CEBPF_WATCHED: Array<u64> = Array::with_max_entries(1, 0);

#[map]
static CEBPF_BUDGETS: Array<Budget> = Array::with_max_entries(BUDGET_ENTRIES, 0);

const NANOSECONDS: u64 = 1_000_000_000;

/// Tells a drop that policy did not decide; those of policy are told by [`judged`].
#[inline(always)]
pub(crate) fn dropped(skb: &Skb, reason: DropReason) {
    if settings::dry_run() || matches!(reason, DropReason::EgressPolicy | DropReason::IngressPolicy) {
        return;
    }
    tell_event(skb.raw(), reason as u32, 0, 0);
}

/// Tells what policy denied or a `Log` rule matched.
#[inline(always)]
pub(crate) fn judged(
    skb: &Skb,
    decided: Result<[u32; 2], DropReason>,
    cells: u64,
    egress: Option<&Endpoint>,
    ingress: Option<&Endpoint>,
) {
    if settings::dry_run() {
        skb.leave_in::<WORD_EGRESS>(cells as u32);
        skb.leave_in::<WORD_INGRESS>((cells >> 32) as u32);
        skb.leave_in::<WORD_FATE>(FATE_JUDGED);
        return;
    }
    let is_logged = Cell(cells as u32 | (cells >> 32) as u32).logs();
    let reason = match decided {
        Err(reason) => reason as u32,
        Ok(_) if is_logged => u32::from(REASON_NONE),
        Ok(_) => return,
    };
    let interface = |end: Option<&Endpoint>| end.map_or(0, |endpoint| endpoint.ifindex);
    let ends = u64::from(interface(ingress)) << 32 | u64::from(interface(egress));
    tell_event(skb.raw(), reason, cells, ends);
}

/// Notes for a dry run what became of the packet: its place among the counters.
#[inline(always)]
pub(crate) fn note_fate(skb: &Skb, counter: u32) {
    if settings::dry_run() {
        let judged = skb.left_in::<WORD_FATE>() & FATE_JUDGED;
        skb.leave_in::<WORD_FATE>(judged | FATE_KNOWN | counter);
    }
}

/// Writes one event, if somebody watches and the endpoint has told few. Returns 0.
///
/// Global, as the look-ups in `tables` are: the verifier proves it once to a program.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tell_event(raw: *mut __sk_buff, reason: u32, cells: u64, ends: u64) -> i32 {
    let Some(deadline) = CEBPF_WATCHED.get_ptr(0) else {
        return 0;
    };
    // SAFETY: points to the map's only value, which whoever watches writes meanwhile.
    let deadline = unsafe { core::ptr::read_volatile(deadline) };
    if deadline == 0 {
        return 0;
    }
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if now >= deadline {
        return 0;
    }
    let skb = Skb::new(raw);
    let slot = slot_of(&skb);
    let Some(budget) = CEBPF_BUDGETS.get_ptr_mut(slot) else {
        return 0;
    };
    if !takes(budget, (now / NANOSECONDS) as u32) {
        return 0;
    }
    let Some(mut entry) = CEBPF_EVENTS.reserve::<Event>(0) else {
        // SAFETY: points to the slot's value.
        add_one(unsafe { core::ptr::addr_of_mut!((*budget).lost) });
        return 0;
    };
    let event = Telling {
        event: entry.as_mut_ptr(),
    };
    event.clear();
    event.set_context(now, slot, reason, cells, ends);
    event.set_skb(&skb);
    event.set_headers(&skb);
    entry.submit(0);
    0
}

#[inline(always)]
fn slot_of(skb: &Skb) -> u32 {
    let Ok(tables) = Tables::active() else {
        return u32::from(SLOT_NONE);
    };
    match tables.endpoint_of_interface(skb.ifindex()) {
        Ok((slot, _)) => u32::from(slot),
        Err(_) => u32::from(SLOT_NONE),
    }
}

/// Returns whether one more event may be told in this second. Processors that tell at once may go over the limit by a few;
/// what is suppressed is counted exactly.
#[inline(always)]
fn takes(budget: *mut Budget, second: u32) -> bool {
    // SAFETY: points to a map value, which stays mapped while the program runs; other processors write it meanwhile.
    unsafe {
        let (of, used) = (
            core::ptr::addr_of_mut!((*budget).second),
            core::ptr::addr_of_mut!((*budget).used),
        );
        let told = if of.read_volatile() == second {
            used.read_volatile()
        } else {
            of.write_volatile(second);
            0
        };
        if told >= EVENTS_A_SECOND {
            add_one(core::ptr::addr_of_mut!((*budget).suppressed));
            return false;
        }
        used.write_volatile(told + 1);
    }
    true
}

/// Adds 1 to a number that other processors add to. The instruction itself: the compiler would take one that Linux has
/// since 5.12 only.
#[inline(always)]
fn add_one(number: *mut u32) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller hands over an aligned number of a map.
    unsafe {
        core::arch::asm!("lock *(u32 *)({0} + 0) += {1}", in(reg) number, in(reg) 1_u64, options(nostack));
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller hands over an aligned number that only this crate's programs write.
    unsafe {
        *number = (*number).wrapping_add(1);
    }
}

/// An event that is being written, straight into the ring buffer: the stack has no room for one.
#[derive(Clone, Copy)]
struct Telling {
    event: *mut Event,
}

/// Writes fields of the event that a [`Telling`] holds.
macro_rules! set {
    ($telling:ident, $($field:ident$([$index:literal])? = $value:expr;)*) => {$(
        // SAFETY: the memory is reserved for one event, of which no reference exists.
        unsafe { core::ptr::addr_of_mut!((*$telling.event).$field$([$index])?).write($value) };
    )*};
}

impl Telling {
    /// Sets every byte to 0. Volatile, because the compiler would call a loop.
    #[inline(always)]
    fn clear(self) {
        let words = self.event.cast::<u64>();
        for index in 0..size_of::<Event>() / 8 {
            // SAFETY: the event is that long, and aligned to 8.
            unsafe { words.add(index).write_volatile(0) };
        }
    }

    #[inline(always)]
    fn set_context(self, now: u64, slot: u32, reason: u32, cells: u64, ends: u64) {
        set! { self,
            at_ns = now;
            slot = slot as u16;
            reason = reason as u8;
            cells[0] = cells as u32;
            cells[1] = (cells >> 32) as u32;
            ends[0] = ends as u32;
            ends[1] = (ends >> 32) as u32;
        }
    }

    #[inline(always)]
    fn set_skb(self, skb: &Skb) {
        set! { self,
            ifindex = skb.ifindex();
            ingress_ifindex = skb.ingress_ifindex();
            bytes = skb.len();
        }
    }

    /// Tells of the packet what can be read, even of one that makes no sense.
    #[inline(always)]
    fn set_headers(self, skb: &Skb) {
        let Ok(ethernet) = skb.view::<ETHERNET_BYTES>(0) else {
            return;
        };
        let ethertype = ethernet.be16::<12>();
        set! { self,
            ethertype = ethertype;
            source_mac[0] = ethernet.u8::<6>();
            source_mac[1] = ethernet.u8::<7>();
            source_mac[2] = ethernet.u8::<8>();
            source_mac[3] = ethernet.u8::<9>();
            source_mac[4] = ethernet.u8::<10>();
            source_mac[5] = ethernet.u8::<11>();
        }
        match ethertype {
            0x0800 => self.set_ipv4(skb),
            0x86dd => self.set_ipv6(skb),
            0x0806 => self.set_arp(skb),
            _ => {}
        }
    }

    #[inline(always)]
    fn set_ipv4(self, skb: &Skb) {
        const OFFSET_MASK: u16 = 0x1fff;
        let Ok(header) = skb.view::<IPV4_BYTES>(ETHERNET_BYTES) else {
            return;
        };
        self.set_addresses(ipv4(header.ne32::<12>()), ipv4(header.ne32::<16>()));
        set! { self, protocol = header.u8::<9>(); }
        if header.be16::<6>() & OFFSET_MASK == 0 {
            self.set_transport(skb, ETHERNET_BYTES + usize::from(header.u8::<0>() & 0x0f) * 4);
        }
    }

    #[inline(always)]
    fn set_ipv6(self, skb: &Skb) {
        let Ok(header) = skb.view::<IPV6_BYTES>(ETHERNET_BYTES) else {
            return;
        };
        let network = |halves: [u64; 2]| [halves[0].to_be(), halves[1].to_be()];
        self.set_addresses(network(header.address6::<8>()), network(header.address6::<24>()));
        let mut protocol = header.u8::<6>();
        let mut offset = ETHERNET_BYTES + IPV6_BYTES;
        if ipv6::is_extension(protocol) {
            let Ok((behind, walked, _)) = ipv6::walk::<false>(skb, protocol, usize::from(header.be16::<4>()))
            else {
                set! { self, protocol = protocol; }
                return;
            };
            (protocol, offset) = (behind, offset + walked);
        }
        set! { self, protocol = protocol; }
        self.set_transport(skb, offset);
    }

    /// Tells sender and target (RFC 826).
    #[inline(always)]
    fn set_arp(self, skb: &Skb) {
        if let Ok(arp) = skb.view::<28>(ETHERNET_BYTES) {
            self.set_addresses(ipv4(arp.ne32::<14>()), ipv4(arp.ne32::<24>()));
        }
    }

    /// Tells addresses in network byte order.
    #[inline(always)]
    fn set_addresses(self, source: [u64; 2], destination: [u64; 2]) {
        set! { self,
            source = bytemuck::must_cast(source);
            destination = bytemuck::must_cast(destination);
            flags = HAS_ADDRESSES;
        }
    }

    #[inline(always)]
    fn set_transport(self, skb: &Skb, offset: usize) {
        if let Ok(transport) = skb.load::<u32>(offset) {
            set! { self,
                transport = transport.to_ne_bytes();
                flags = HAS_ADDRESSES | HAS_TRANSPORT;
            }
        }
    }
}

/// Returns the sixteen bytes that hold an IPv4 address, which is in network byte order.
#[inline(always)]
fn ipv4(address: u32) -> [u64; 2] {
    bytemuck::must_cast([address, 0, 0, 0])
}
