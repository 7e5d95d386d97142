//! What the agent knows about each tap beyond what netlink tells.

use std::collections::BTreeMap;

use super::interfaces::Interfaces;
use super::links::Finding;
use super::sysctls::Gate;

/// One tap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tap {
    pub name: String,
    /// Whether both programs are on it.
    pub attached: bool,
    /// `jiffies64` until which TCP in mid-stream is taken up; 0 for a tap that an earlier run knew.
    pub loose_until: u64,
    /// The settings that were last written in full.
    pub gate: Option<Gate>,
}

/// All taps by interface number. A tap that comes back under its old name has a new number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taps {
    by_ifindex: BTreeMap<u32, Tap>,
}

impl Taps {
    /// Forgets taps that are gone or renamed.
    pub fn retain(&mut self, interfaces: &Interfaces) {
        self.by_ifindex.retain(|ifindex, tap| {
            interfaces
                .get(ifindex)
                .is_some_and(|interface| interface.name == tap.name)
        });
    }

    /// Notes what was found when the programs of a tap were looked at. A tap that had none, and was not known, has
    /// just appeared: until `loose_until` its TCP flows from elsewhere are taken up.
    pub fn note_attached(&mut self, ifindex: u32, name: &str, finding: Finding, loose_until: u64) {
        let loose_until = if finding == Finding::Attached {
            loose_until
        } else {
            0
        };
        let tap = self.entry(ifindex, name, loose_until);
        tap.attached = true;
    }

    /// Notes that a tap has not both programs.
    pub fn note_detached(&mut self, ifindex: u32, name: &str) {
        self.entry(ifindex, name, 0).attached = false;
    }

    /// Returns the tap with this number.
    pub fn get(&self, ifindex: u32) -> Option<&Tap> {
        self.by_ifindex.get(&ifindex)
    }

    /// Notes which settings a tap has; `None` when they could not be written in full.
    pub fn note_gate(&mut self, ifindex: u32, gate: Option<Gate>) {
        if let Some(tap) = self.by_ifindex.get_mut(&ifindex) {
            tap.gate = gate;
        }
    }

    fn entry(&mut self, ifindex: u32, name: &str, loose_until: u64) -> &mut Tap {
        let new = Tap {
            name: name.to_owned(),
            attached: false,
            loose_until,
            gate: None,
        };
        self.by_ifindex.entry(ifindex).or_insert(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::interfaces::Interface;

    #[test]
    fn tap_of_an_earlier_run_takes_up_no_foreign_flows() {
        let mut taps = Taps::default();
        taps.note_attached(5, "tap1", Finding::InPlace, 1000);
        assert_eq!(taps.get(5).unwrap().loose_until, 0);
    }

    #[test]
    fn new_tap_takes_up_flows_once() {
        let mut taps = Taps::default();
        taps.note_attached(5, "tap1", Finding::Attached, 1000);
        taps.note_attached(5, "tap1", Finding::Attached, 9000);
        assert_eq!(taps.get(5).unwrap().loose_until, 1000);
    }

    #[test]
    fn tap_that_comes_back_under_its_name_is_another_tap() {
        let mut taps = Taps::default();
        taps.note_attached(5, "tap1", Finding::Attached, 1000);
        let back = Interface {
            ifindex: 6,
            name: "tap1".to_owned(),
            mac: None,
            mtu: 1500,
            up: true,
        };
        taps.retain(&Interfaces::from([(6, back)]));
        assert_eq!(taps.get(5), None);
    }
}
