//! What the table of a host is compiled from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use calico_ebpf_common::address::Class;

use super::cells::MAX_CELLS;
use crate::calc::effective::EffectiveState;
use crate::model::name::ResourceKey;
use crate::model::resource::MacAddress;

/// Facts about the host that calculation does not know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Taps that exist, by name.
    pub interfaces: BTreeMap<String, HostInterface>,
    /// Every address of the host itself, on any interface.
    pub host_addresses: BTreeSet<IpAddr>,
    /// Endpoints whose workload runs on another host still: their addresses lead to the host's stack.
    pub expected: BTreeSet<ResourceKey>,
}

/// A tap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostInterface {
    /// 0 while its programs are not attached: the endpoint then gets no packets.
    pub ifindex: u32,
    /// The tap's own MAC.
    pub mac: MacAddress,
    /// In bytes, without the Ethernet header.
    pub mtu: u32,
    /// `jiffies64` until which TCP in mid-stream is taken up without a flow.
    pub loose_until: u64,
}

/// What a version of the table is compiled from.
#[derive(Clone, Copy, Debug)]
pub struct TableInput<'a> {
    pub state: &'a EffectiveState,
    pub host: &'a HostFacts,
    /// Generation of each endpoint, never 0, never re-used.
    pub generations: &'a BTreeMap<ResourceKey, u32>,
    /// First generation of each endpoint with its present addresses.
    pub born: &'a BTreeMap<ResourceKey, u32>,
    /// Slot of each endpoint, 1 to [`calico_ebpf_common::endpoint::MAX_ENDPOINTS`].
    pub slots: &'a BTreeMap<ResourceKey, u16>,
    /// Version number, never 0.
    pub epoch: u32,
    /// Line number at which the version will stand in the policy map.
    pub base_line: u32,
    /// Lines there are room for.
    pub max_lines: u32,
    pub limits: Limits,
}

/// What cells are made for; the fall-back judges what goes beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Cells that one direction of a policy set may have; 0 for no cells at all.
    pub cells: u64,
    /// Classes of addresses that all cells of a host together may tell apart.
    pub address_classes: usize,
}

impl Limits {
    /// Nothing is judged by cells.
    pub const FALL_BACK: Self = Self {
        cells: 0,
        address_classes: 0,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cells: MAX_CELLS,
            address_classes: usize::from(Class::MAX),
        }
    }
}
