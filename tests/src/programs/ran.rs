//! What became of a packet.

use calico_ebpf_common::maps::{self, Counter};
use calico_ebpf_common::verdict::{DropReason, PassReason};
use calico_ebpf_userspace::dataplane::sk_buff::{self, SkBuff};

use super::LO;
use crate::packets::Packet;

const TC_ACT_UNSPEC: i32 = -1;
const TC_ACT_SHOT: i32 = 2;
pub(super) const TC_ACT_REDIRECT: i32 = 7;

/// A reason that a packet was counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counted {
    Drop(DropReason),
    Pass(PassReason),
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// The TC verdict.
    pub verdict: i32,
    /// The frame as it went in.
    pub sent: Vec<u8>,
    /// The frame as it came out.
    pub packet: Vec<u8>,
    pub mark: u32,
    /// The workload whose MAC a redirected frame has.
    pub redirected_to: Option<String>,
    /// Reasons under which this one packet was counted.
    pub counted: Vec<(Counted, Counter)>,
}

impl Ran {
    /// Fails unless the packet was dropped and counted once for this reason.
    #[track_caller]
    pub fn expect_drop(&self, reason: DropReason) -> &Self {
        self.expect(TC_ACT_SHOT, Counted::Drop(reason))
    }

    /// Fails unless the packet was handed on unchanged and counted once for this reason.
    #[track_caller]
    pub fn expect_pass(&self, reason: PassReason) -> &Self {
        self.expect(TC_ACT_UNSPEC, Counted::Pass(reason));
        assert_eq!(self.packet, self.sent, "a packet to the stack changed");
        assert_eq!(
            self.mark & maps::DEFAULT_MARK,
            0,
            "a packet to the stack is marked"
        );
        self
    }

    /// Fails unless the packet was handed on as `expected`, between the MACs that it came with, and counted once for this
    /// reason.
    #[track_caller]
    pub fn expect_pass_as(&self, reason: PassReason, expected: &Packet) -> &Self {
        self.expect(TC_ACT_UNSPEC, Counted::Pass(reason));
        let expected = [&self.sent[..12], &expected.bytes()[12..]].concat();
        assert_eq!(self.packet, expected, "another packet goes to the stack");
        assert_eq!(
            self.mark & maps::DEFAULT_MARK,
            0,
            "a packet to the stack is marked"
        );
        self
    }

    /// Fails unless the packet passed because of its mark, uncounted.
    #[track_caller]
    pub fn expect_pass_by_mark(&self) -> &Self {
        assert_eq!((self.verdict, &self.counted[..]), (TC_ACT_UNSPEC, &[][..]));
        self
    }

    /// Fails unless the packet was redirected to the workload, with the right MACs and the mark.
    #[track_caller]
    pub fn expect_redirect_to(&self, name: &str) -> &Self {
        self.expect_redirect(name, PassReason::LocalWorkload)
    }

    /// As [`Self::expect_redirect_to`], counted for another reason.
    #[track_caller]
    pub fn expect_redirect(&self, name: &str, reason: PassReason) -> &Self {
        self.expect(TC_ACT_REDIRECT, Counted::Pass(reason));
        assert_eq!(self.redirected_to.as_deref(), Some(name), "{:02x?}", self.packet);
        assert_eq!(self.mark & maps::DEFAULT_MARK, maps::DEFAULT_MARK);
        self
    }

    /// Returns whether the packet went on, anywhere.
    pub fn passed(&self) -> bool {
        self.verdict != TC_ACT_SHOT
    }

    #[track_caller]
    fn expect(&self, verdict: i32, reason: Counted) -> &Self {
        let counter = Counter {
            packets: 1,
            bytes: self.sent.len() as u64,
        };
        assert_eq!(
            (self.verdict, &self.counted[..]),
            (verdict, &[(reason, counter)][..]),
            "{:02x?}",
            self.sent
        );
        self
    }
}

#[derive(Clone, Copy)]
pub(super) struct Context {
    pub(super) mark: u32,
    pub(super) ingress: u32,
    /// Bytes in each segment that the packet is to be cut into; 0 for none.
    pub(super) segment: u32,
}

impl Default for Context {
    fn default() -> Self {
        Self {
            mark: 0,
            ingress: LO,
            segment: 0,
        }
    }
}

impl Context {
    pub(super) fn sk_buff(self) -> SkBuff {
        SkBuff::default()
            .with(sk_buff::MARK, self.mark)
            .with(sk_buff::INGRESS_IFINDEX, self.ingress)
            .with(sk_buff::IFINDEX, LO)
            .with(sk_buff::GSO_SIZE, self.segment)
    }
}
