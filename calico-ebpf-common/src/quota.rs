//! How many flows an endpoint may have: nobody's fill the tables of others.

use bytemuck::{Pod, Zeroable};

use crate::endpoint::{SLOT_HOST, SLOT_NONE, Slot};
use crate::flow::{Flow, ORIGIN, RESPONDER};

/// Flows of one endpoint, by slot. The numbers follow what programs open and end; the agent corrects them by what a sweep
/// counts. They may be below 0, and processors that open flows at once may go over a limit by one each.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Quota {
    /// Half-open flows.
    pub half_open: i64,
    /// Confirmed flows.
    pub confirmed: i64,
    /// Flows that were not opened, or not moved to the confirmed ones, for want of quota.
    pub refused: u64,
}
crate::shared_type!(Quota, 24);

/// Start of the packet that `correct_quota` is run with. Numbers in the host's byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Correction {
    pub slot: u32,
    /// A [`Kind`].
    pub kind: u32,
    /// Flows to be added to the quota.
    pub count: i64,
}
crate::shared_type!(Correction, 16);

/// What one endpoint may have at most.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct FlowLimits {
    pub half_open: u32,
    pub confirmed: u32,
}
crate::shared_type!(FlowLimits, 8);

/// Returns how many half-open flows of an endpoint may be of others' making, of so many that it may have. The rest is for those
/// that it opens: who floods it with SYNs does not cut it off.
#[inline(always)]
pub fn half_open_by_others(limit: u32) -> u32 {
    limit - limit / 4
}

/// Returns whose quota a flow takes: its originator's if that is a workload here, else the responder's.
#[inline(always)]
pub fn payer(flow: &Flow) -> Slot {
    let originator = flow.slot[ORIGIN];
    if originator == SLOT_NONE || originator == SLOT_HOST {
        flow.slot[RESPONDER]
    } else {
        originator
    }
}

/// Which of an endpoint's flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// The handshake is not complete, or nothing was sent after the first packet.
    HalfOpen = 0,
    Confirmed = 1,
}

impl Kind {
    /// Both, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::HalfOpen, Self::Confirmed];
}

/// The look-up found a half-open flow.
pub const FOUND_HALF_OPEN: u32 = Kind::HalfOpen as u32;
/// It found a confirmed one.
pub const FOUND_CONFIRMED: u32 = Kind::Confirmed as u32;
/// It found none.
pub const FOUND_NONE: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_from_outside_takes_the_quota_of_whom_it_is_for() {
        let flow = |slot| Flow {
            slot,
            ..Flow::default()
        };
        assert_eq!(payer(&flow([3, 4])), 3);
        assert_eq!(payer(&flow([SLOT_NONE, 4])), 4);
        assert_eq!(payer(&flow([SLOT_HOST, 4])), 4);
        assert_eq!(payer(&flow([3, SLOT_NONE])), 3);
    }
}
