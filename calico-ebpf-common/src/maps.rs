//! Names and sizes of the maps, and the values that belong to no family.

use bytemuck::{Pod, Zeroable};

/// Layout version: part of the pin path. Changes with any key, value or flag of an adopted map.
pub const LAYOUT_VERSION: u32 = 1;

/// The policy table: array of [`crate::line::Line`], mapped into the agent.
pub const POLICY: &str = "CEBPF_POLICY";
/// Array of one `u64`: line number of the active [`crate::root::Root`]; 0 is none.
pub const ACTIVE: &str = "CEBPF_ACTIVE";
/// Conntrack, [`crate::flow::FlowKey4`] to [`crate::flow::Flow`].
pub const FLOWS4: &str = "CEBPF_FLOWS4";
/// Conntrack, [`crate::flow::FlowKey6`] to [`crate::flow::Flow`].
pub const FLOWS6: &str = "CEBPF_FLOWS6";
/// Flows that were not answered yet, as [`FLOWS4`]: a table of their own, so that a flood of them takes no room from others.
pub const HALF_OPEN4: &str = "CEBPF_HALFOPEN4";
/// As [`HALF_OPEN4`], of IPv6.
pub const HALF_OPEN6: &str = "CEBPF_HALFOPEN6";
/// Array by slot of [`crate::quota::Quota`].
pub const QUOTAS: &str = "CEBPF_QUOTAS";
/// Entries of [`QUOTAS`].
pub const QUOTA_ENTRIES: u32 = crate::endpoint::MAX_ENDPOINTS + 1;
/// Array of one [`crate::quota::FlowLimits`].
pub const LIMITS: &str = "CEBPF_LIMITS";
/// Per-CPU array of [`Counter`] by [`crate::verdict::DropReason`] and [`crate::verdict::PassReason`].
pub const COUNTERS: &str = "CEBPF_COUNTERS";
/// Per-CPU array of [`Counter`] by rule counter number.
pub const RULES: &str = "CEBPF_RULES";

/// Program array: what the attached programs leave to, by [`UNSETTLED_PROGRAMS`]. It must stay pinned: the kernel empties
/// a program array when its last reference from user space goes.
pub const UNSETTLED: &str = "CEBPF_UNSETTLED";
/// Entries of [`UNSETTLED`].
pub const UNSETTLED_ENTRIES: u32 = 24;
/// The programs of [`UNSETTLED`] in order of their entries.
pub const UNSETTLED_PROGRAMS: [&str; UNSETTLED_ENTRIES as usize] = [
    "from_workload4",
    "from_workload6",
    "to_workload4",
    "to_workload6",
    "from_workload_neighbor",
    "from_workload_arp",
    "from_workload_nat4",
    "from_workload_nat6",
    "to_workload_nat4",
    "to_workload_nat6",
    "from_workload_nat_error4",
    "from_workload_nat_error6",
    "to_workload_nat_error4",
    "to_workload_nat_error6",
    "from_workload_clash4",
    "from_workload_clash6",
    "to_workload_clash4",
    "to_workload_clash6",
    "from_workload_fragment4",
    "from_workload_fragment6",
    "to_workload_fragment4",
    "to_workload_fragment6",
    "answer4",
    "answer6",
];

/// Array by slot of one `u64`: `jiffies64` when the workload last told the link that it is here (gratuitous ARP, RARP,
/// unsolicited neighbour advertisement); 0 is never.
pub const ANNOUNCED: &str = "CEBPF_ANNOUNCED";
/// Entries of [`ANNOUNCED`].
pub const ANNOUNCED_ENTRIES: u32 = crate::endpoint::MAX_ENDPOINTS + 1;

/// Hash of [`crate::fragment::DatagramKey`] to [`crate::fragment::Datagram`], not allocated beforehand.
pub const DATAGRAMS: &str = "CEBPF_DATAGRAMS";
/// Entries of [`DATAGRAMS`]: 1,024 endpoints that use all their places at once.
pub const DATAGRAM_ENTRIES: u32 = 65_536;
/// Ring buffer of [`crate::event::Event`], for one reader at a time.
pub const EVENTS: &str = "CEBPF_EVENTS";
/// Array of one `u64`: `CLOCK_MONOTONIC` in nanoseconds until which somebody reads [`EVENTS`]; 0 is nobody.
pub const WATCHED: &str = "CEBPF_WATCHED";
/// Array by slot of [`crate::event::Budget`]; slot 0 is for taps without an endpoint.
pub const BUDGETS: &str = "CEBPF_BUDGETS";
/// Entries of [`BUDGETS`].
pub const BUDGET_ENTRIES: u32 = crate::endpoint::MAX_ENDPOINTS + 1;
/// Array by slot of one `u64`: see [`crate::answer`].
pub const ANSWERS: &str = "CEBPF_ANSWERS";
/// Array by family of two `u64`: the host's address that ICMP errors about denied packets come from, high half first; 0 is
/// none.
pub const ANSWER_SOURCES: &str = "CEBPF_ANSWER_SOURCES";
/// Array by slot of [`crate::tombstone::Tombstone`].
pub const TOMBSTONES: &str = "CEBPF_TOMBSTONES";

/// Entries of [`COUNTERS`].
pub const COUNTER_ENTRIES: u32 = 128;
/// First entry of the pass counters in [`COUNTERS`].
pub const PASS_COUNTERS: u32 = 64;
/// Entries of [`RULES`]: rules that can be counted apart. Entry 0 is "no rule decided".
pub const RULE_ENTRIES: u32 = 65_536;
/// Default number of lines of [`POLICY`]: 32 MiB, two versions of 16 MiB.
pub const POLICY_LINES: u32 = 524_288;
/// Default entries of each map of flows that were not answered yet (`BPFMapSizeHalfOpen`).
pub const HALF_OPEN_ENTRIES: u32 = 131_072;
/// Default entries of each conntrack map (`BPFMapSizeConntrack`).
pub const FLOW_ENTRIES: u32 = 512_000;

/// Names of the programs in the object.
pub const PROGRAM_FROM_WORKLOAD: &str = "from_workload";
pub const PROGRAM_TO_WORKLOAD: &str = "to_workload";
/// Deletes flows that are still expired; run by the agent with BPF_PROG_TEST_RUN.
pub const PROGRAM_EXPIRE_FLOWS: &str = "expire_flows";
/// Program that corrects a [`crate::quota::Quota`].
pub const PROGRAM_CORRECT_QUOTA: &str = "correct_quota";
/// Writes `jiffies64` and the monotonic clock into its packet; run by the agent with BPF_PROG_TEST_RUN.
pub const PROGRAM_READ_CLOCK: &str = "read_clock";

/// Packets and bytes, one per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Counter {
    pub packets: u64,
    pub bytes: u64,
}
crate::shared_type!(Counter, 16);

/// Read-only settings of the programs: globals that the loader sets before the verifier runs.
/// Each is a `u32` in the host's byte order.
pub mod settings {
    /// Bit of `skb->mark` that says "judged".
    pub const MARK: &str = "JUDGED_MARK";
    /// What becomes of packets to the host that egress policy allows: 0 drop, 1 pass.
    pub const ENDPOINT_TO_HOST_ACCEPT: &str = "ENDPOINT_TO_HOST_ACCEPT";
    /// 1 while IPv6 is supported.
    pub const IPV6: &str = "IPV6";
    /// 1 for the OpenStack always-allowed list (DHCP, DNS to the host).
    pub const OPENSTACK: &str = "OPENSTACK";
    /// 1: VXLAN (UDP 4789) from workloads is judged like any other packet.
    pub const ALLOW_VXLAN: &str = "ALLOW_VXLAN";
    /// 1: IPIP (protocol 4) from workloads is judged like any other packet.
    pub const ALLOW_IPIP: &str = "ALLOW_IPIP";
    /// The metadata service's IPv4 address as a number.
    pub const METADATA_ADDRESS: &str = "METADATA_ADDRESS";
    /// TCP port of the metadata service; 0 without one.
    pub const METADATA_PORT: &str = "METADATA_PORT";
    /// 1: a live flow goes on when policy stops allowing it.
    pub const KEEP_FLOWS: &str = "KEEP_FLOWS";
    /// 1: what policy denies is answered.
    pub const ANSWER_DENIED: &str = "ANSWER_DENIED";
    /// 1: judge, but write no flow, counter or event (`explain`, benchmarks).
    pub const DRY_RUN: &str = "DRY_RUN";
    /// 1: log decisions through aya-log.
    pub const DEBUG_LOG: &str = "DEBUG_LOG";
}
/// Default of [`settings::MARK`]: outside Felix's default mask 0xffff0000.
pub const DEFAULT_MARK: u32 = 0x0000_8000;
