//! The policy table: one array of lines, and the number of its active root.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use calico_ebpf_common::address;
use calico_ebpf_common::endpoint::{self, Endpoint, Slot, endpoint_at, slot_of_interface};
use calico_ebpf_common::line::{Line, Lines};
use calico_ebpf_common::maps::POLICY_LINES;
use calico_ebpf_common::root::Root;
use calico_ebpf_common::verdict::DropReason;

#[map]
static CEBPF_POLICY: Array<Line> = Array::with_max_entries(POLICY_LINES, BPF_F_MMAPABLE);

#[map]
static CEBPF_ACTIVE: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// One version of the policy table. A packet takes one and uses it to the end.
pub(crate) struct Tables {
    root: &'static Root,
}

impl Tables {
    /// Takes the active version.
    #[inline(always)]
    pub(crate) fn active() -> Result<Self, DropReason> {
        let active = CEBPF_ACTIVE.get_ptr(0).ok_or(DropReason::NoPolicyTable)?;
        // SAFETY: points to the map's only value; read once, because the agent switches it under us.
        let line = unsafe { core::ptr::read_volatile(active) } as u32;
        if line == 0 {
            return Err(DropReason::NoPolicyTable);
        }
        let root = CEBPF_POLICY.get(line).ok_or(DropReason::NoPolicyTable)?;
        Ok(Self { root: root.read_as() })
    }

    #[inline(always)]
    pub(crate) fn root(&self) -> &Root {
        self.root
    }

    /// Returns the slot and the endpoint of an interface.
    #[inline(always)]
    pub(crate) fn endpoint_of_interface(&self, ifindex: u32) -> Result<(Slot, &Endpoint), DropReason> {
        let slot = slot_of_interface(self, self.root, ifindex);
        let endpoint = endpoint_at(self, self.root, slot).ok_or(DropReason::UnknownInterface)?;
        Ok((slot, endpoint))
    }

    /// Returns the local endpoint at `slot`.
    #[inline(always)]
    pub(crate) fn endpoint(&self, slot: Slot) -> Option<&Endpoint> {
        endpoint_at(self, self.root, slot)
    }
}

/// Returns the class of an IPv4 address by prefix, or 0 with broken tables. A function of its own: it is off the
/// fast path, and its tree walk would fill the caller's stack.
#[inline(never)]
pub(crate) fn prefix_class4(tree: u32, address: u32) -> u32 {
    match address::prefix_class4(&Policy, tree, address) {
        Some(class) => u32::from(class),
        None => 0,
    }
}

/// As [`prefix_class4`], for IPv6.
#[inline(never)]
pub(crate) fn prefix_class6(tree: u32, high: u64, low: u64) -> u32 {
    match address::prefix_class6(&Policy, tree, [high, low]) {
        Some(class) => u32::from(class),
        None => 0,
    }
}

/// Returns the `SOURCE_*` flags of an IPv4 address in the `count` lines of sources at `first`.
#[inline(never)]
pub(crate) fn source4_flags(first: u32, count: u32, address: u32) -> u32 {
    endpoint::source4_flags(&Policy, first, count, address)
}

/// As [`source4_flags`], for IPv6.
#[inline(never)]
pub(crate) fn source6_flags(first: u32, count: u32, high: u64, low: u64) -> u32 {
    endpoint::source6_flags(&Policy, first, count, [high, low])
}

/// The whole policy table, for look-ups that are told where to begin.
struct Policy;

impl Lines for Policy {
    #[inline(always)]
    fn line(&self, index: u32) -> Option<&Line> {
        CEBPF_POLICY.get(index)
    }
}

impl Lines for Tables {
    #[inline(always)]
    fn line(&self, index: u32) -> Option<&Line> {
        CEBPF_POLICY.get(index)
    }
}
