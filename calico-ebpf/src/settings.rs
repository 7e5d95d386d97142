//! Read-only settings, set by the loader before the verifier runs; the verifier removes the branches they switch off.

use aya_ebpf::Global;
use calico_ebpf_common::maps::DEFAULT_MARK;

#[unsafe(no_mangle)]
static JUDGED_MARK: Global<u32> = Global::new(DEFAULT_MARK);
#[unsafe(no_mangle)]
static ENDPOINT_TO_HOST_ACCEPT: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static IPV6: Global<u32> = Global::new(1);
#[unsafe(no_mangle)]
static OPENSTACK: Global<u32> = Global::new(1);
#[unsafe(no_mangle)]
static ALLOW_VXLAN: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static ALLOW_IPIP: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static METADATA_ADDRESS: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static METADATA_PORT: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static KEEP_FLOWS: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static ANSWER_DENIED: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static DRY_RUN: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static DEBUG_LOG: Global<u32> = Global::new(0);

/// Returns the bit of `skb->mark` that says "judged".
#[inline(always)]
pub(crate) fn judged_mark() -> u32 {
    JUDGED_MARK.load()
}

/// Returns whether packets to the host that egress policy allows are let pass.
#[inline(always)]
pub(crate) fn endpoint_to_host_accept() -> bool {
    ENDPOINT_TO_HOST_ACCEPT.load() != 0
}

#[inline(always)]
pub(crate) fn ipv6() -> bool {
    IPV6.load() != 0
}

/// Returns whether the OpenStack always-allowed list applies.
#[inline(always)]
pub(crate) fn openstack() -> bool {
    OPENSTACK.load() != 0
}

#[inline(always)]
pub(crate) fn allow_vxlan() -> bool {
    ALLOW_VXLAN.load() != 0
}

#[inline(always)]
pub(crate) fn allow_ipip() -> bool {
    ALLOW_IPIP.load() != 0
}

/// Returns address and TCP port of the metadata service; port 0 is none.
#[inline(always)]
pub(crate) fn metadata() -> (u32, u16) {
    (METADATA_ADDRESS.load(), METADATA_PORT.load() as u16)
}

/// Returns whether a live flow goes on when policy stops allowing it.
#[inline(always)]
pub(crate) fn keep_flows() -> bool {
    KEEP_FLOWS.load() != 0
}

/// Returns whether what policy denies is answered.
#[inline(always)]
pub(crate) fn answer_denied() -> bool {
    ANSWER_DENIED.load() != 0
}

/// Returns whether the program only judges and writes nothing.
#[inline(always)]
pub(crate) fn dry_run() -> bool {
    DRY_RUN.load() != 0
}

#[inline(always)]
pub(crate) fn debug_log() -> bool {
    DEBUG_LOG.load() != 0
}
