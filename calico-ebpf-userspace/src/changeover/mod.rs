//! Change-over on a live node: from Felix's iptables rules to our programs, and back.
//!
//! Both ways there is a time in which both enforce, so that no packet passes which either would drop.

pub mod adopt;
pub mod conntrack;
pub mod coverage;
pub mod flows;
pub mod ipsets;
pub mod iptables;
pub mod ours;
pub mod process;
pub mod reason;
pub mod release;
pub mod ruleset;
