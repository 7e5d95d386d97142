//! The policy table: one array of lines, and the number of its active root.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use calico_ebpf_common::address::{self, AddressEntry};
use calico_ebpf_common::endpoint::{
    self, Endpoint, SLOT_HOST, SLOT_NONE, Slot, endpoint_at, slot_of_interface,
};
use calico_ebpf_common::fall_back;
use calico_ebpf_common::line::{Line, Lines};
use calico_ebpf_common::maps::POLICY_LINES;
use calico_ebpf_common::nat::{self, FIRST_NAT_SLOT, Nat, Wanted, nat_at};
use calico_ebpf_common::policy::{Cell, Question, verdict};
use calico_ebpf_common::root::Root;
use calico_ebpf_common::verdict::DropReason;

#[map]
static CEBPF_POLICY: Array<Line> = Array::with_max_entries(POLICY_LINES, BPF_F_MMAPABLE);

#[map]
static CEBPF_ACTIVE: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// One version of the policy table. A packet takes one and uses it to the end.
pub(crate) struct Tables {
    line: u32,
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
        Ok(Self {
            line,
            root: root.read_as(),
        })
    }

    #[inline(always)]
    pub(crate) fn root(&self) -> &Root {
        self.root
    }

    /// Returns the line of the version's root.
    #[inline(always)]
    pub(crate) fn root_line(&self) -> u32 {
        self.line
    }

    /// Returns the slot and the endpoint of an interface.
    #[inline(always)]
    pub(crate) fn endpoint_of_interface(&self, ifindex: u32) -> Result<(Slot, &Endpoint), DropReason> {
        let slot = slot_of_interface(self, self.root, ifindex);
        let endpoint = endpoint_at(self, self.root, slot).ok_or(DropReason::UnknownInterface)?;
        Ok((slot, endpoint))
    }

    /// Returns the translation that an address entry's slot stands for.
    #[inline(always)]
    pub(crate) fn nat(&self, slot: Slot) -> Option<&Nat> {
        nat_at(self, self.root, slot)
    }

    /// Returns the line of the translation that an address entry's slot stands for, if it stands for one.
    #[inline(always)]
    pub(crate) fn line_of_nat(&self, slot: Slot) -> u32 {
        let index = u32::from(slot.wrapping_sub(FIRST_NAT_SLOT));
        self.root.nats.wrapping_add(index)
    }

    /// Returns the local endpoint at `slot`.
    #[inline(always)]
    pub(crate) fn endpoint(&self, slot: Slot) -> Option<&Endpoint> {
        endpoint_at(self, self.root, slot)
    }
}

/// Returns what an IPv4 address is: class in the low 16 bits, slot above; 0 with broken tables. `root` is the line of the
/// version's root.
///
/// This and the functions below are global: the verifier proves each once by itself, so that their branches do not
/// multiply with those of their callers.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn address_entry4(root: u32, address: u32) -> u32 {
    let entry = root_at(root).and_then(|root| address::address_entry4(&Policy, root, address));
    pack_entry(entry)
}

/// As [`address_entry4`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn address_entry6(root: u32, high: u64, low: u64) -> u32 {
    let entry = root_at(root).and_then(|root| address::address_entry6(&Policy, root, [high, low]));
    pack_entry(entry)
}

/// Returns the entries of two IPv4 addresses, the first in the low 32 bits.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn address_entries4(root: u32, first: u32, second: u32) -> u64 {
    let Some(root) = root_at(root) else { return 0 };
    let first = pack_entry(address::address_entry4(&Policy, root, first));
    let second = pack_entry(address::address_entry4(&Policy, root, second));
    u64::from(second) << 32 | u64::from(first)
}

/// As [`address_entries4`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn address_entries6(
    root: u32,
    high: u64,
    low: u64,
    second_high: u64,
    second_low: u64,
) -> u64 {
    let Some(root) = root_at(root) else { return 0 };
    let first = pack_entry(address::address_entry6(&Policy, root, [high, low]));
    let second = pack_entry(address::address_entry6(&Policy, root, [second_high, second_low]));
    u64::from(second) << 32 | u64::from(first)
}

#[inline(always)]
fn root_at(line: u32) -> Option<&'static Root> {
    CEBPF_POLICY.get(line).map(Line::read_as)
}

#[inline(always)]
fn pack_entry(entry: Option<AddressEntry>) -> u32 {
    match entry {
        Some(entry) => u32::from(entry.slot) << 16 | u32::from(entry.class),
        None => 0,
    }
}

/// Returns the [`calico_ebpf_common::policy::Cell`]s of an egress set (low half of `sets`) and an ingress set (high half),
/// the egress cell in the low half. `addresses` is the class of the destination above that of the source, `ports` the
/// class of the source port above that of the destination port. Set 0 has cell 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn policy_verdicts(sets: u64, addresses: u32, ports: u32) -> u64 {
    let (source, destination) = (addresses as u16, (addresses >> 16) as u16);
    let (port_class, source_port_class) = (ports as u16, (ports >> 16) as u16);
    let egress = Question {
        local_class: source,
        remote_class: destination,
        port_class,
        source_port_class,
    };
    let ingress = Question {
        local_class: destination,
        remote_class: source,
        port_class,
        source_port_class,
    };
    let egress = verdict(&Policy, sets as u32, egress);
    let ingress = verdict(&Policy, (sets >> 32) as u32, ingress);
    u64::from(ingress.0) << 32 | u64::from(egress.0)
}

/// Returns the rows of two addresses in the fall-back set that `cell` leads to, see [`fall_back::address_rows4`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fall_back_rows4(cell: u32, remote: u32, local: u32) -> u64 {
    fall_back::address_rows4(&Policy, Cell(cell), remote, local)
}

/// As [`fall_back_rows4`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fall_back_rows6(
    cell: u32,
    remote_high: u64,
    remote_low: u64,
    local_high: u64,
    local_low: u64,
) -> u64 {
    fall_back::address_rows6(
        &Policy,
        Cell(cell),
        [remote_high, remote_low],
        [local_high, local_low],
    )
}

/// Returns the verdict of the fall-back set that `cell` leads to; a `cell` that is a verdict stays as it is.
/// `address_rows` are of [`fall_back_rows4`] or [`fall_back_rows6`], `ports` of [`fall_back::ports`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fall_back_verdict(cell: u32, address_rows: u64, ports: u64) -> u32 {
    if Cell(cell).fall_back_line().is_none() {
        return cell;
    }
    let port_rows = fall_back::port_rows(&Policy, Cell(cell), ports, |tree, key| fall_back_row4(tree, key));
    if address_rows == fall_back::NO_ROWS || port_rows == fall_back::NO_ROWS {
        return Cell::DENY.0;
    }
    fall_back::walk(|state| fall_back_step(cell, address_rows, port_rows, state)).0
}

/// Returns the row of a key in a tree like those of IPv4: two look-ups in one function need more stack than Linux 6.1
/// leaves.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fall_back_row4(tree: u32, key: u32) -> u64 {
    fall_back::row4(&Policy, tree, key)
}

/// One round of the loop in [`fall_back_verdict`]: the verifier follows a loop round by round, with all branches in it.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fall_back_step(cell: u32, address_rows: u64, port_rows: u64, state: u64) -> u64 {
    fall_back::step(&Policy, Cell(cell), address_rows, port_rows, state)
}

/// Slots of no flow that is judged: the host's own ends.
const NOT_STANDING: u32 = u32::MAX;

/// Returns `slots`, the source's above the destination's, if both ends of a flow are who they were in these generations; else
/// [`NOT_STANDING`]. `root` is the line of the version's root.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn standing(
    root: u32,
    slots: u32,
    source_generation: u32,
    destination_generation: u32,
) -> u32 {
    let Some(root) = root_at(root) else {
        return NOT_STANDING;
    };
    let is_still = |slot: Slot, generation: u32| match endpoint_at(&Policy, root, slot) {
        Some(endpoint) => endpoint.is_born_by(generation),
        None => slot == SLOT_NONE || slot == SLOT_HOST,
    };
    let source = is_still((slots >> 16) as Slot, source_generation);
    if source && is_still(slots as Slot, destination_generation) {
        slots
    } else {
        NOT_STANDING
    }
}

/// Returns the `SOURCE_*` flags of an IPv4 address in the `count` lines of sources at `first`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn source4_flags(first: u32, count: u32, address: u32) -> u32 {
    endpoint::source4_flags(&Policy, first, count, address)
}

/// As [`source4_flags`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn source6_flags(first: u32, count: u32, high: u64, low: u64) -> u32 {
    endpoint::source6_flags(&Policy, first, count, [high, low])
}

/// Returns the line of an external address of `high`, `low` among the `count` lines at `first`, or 0: the one with the
/// tag `wanted`, with tag 0 the lowest one.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn nat_line(first: u32, count: u32, high: u64, low: u64, wanted: u32) -> u32 {
    let wanted = match wanted as u16 {
        0 => Wanted::Lowest,
        tag => Wanted::Tagged(tag),
    };
    nat::nat_line(&Policy, first, count, [high, low], wanted).unwrap_or_default()
}

/// Returns the translation at a line that [`nat_line`] gave.
#[inline(always)]
pub(crate) fn nat_at_line(line: u32) -> Option<&'static Nat> {
    if line == 0 {
        return None;
    }
    CEBPF_POLICY.get(line).map(Line::read_as)
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
