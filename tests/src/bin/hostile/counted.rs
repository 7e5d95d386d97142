//! What the host did with packets, by its own counters.

use std::collections::BTreeMap;

use calico_ebpf_tests::agent::Launcher;
use serde::Serialize;
use serde_json::Value;

/// Packets by reason; reasons without any are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Counted {
    pub(crate) passed: BTreeMap<String, u64>,
    pub(crate) dropped: BTreeMap<String, u64>,
}

impl Counted {
    /// Asks the agent.
    pub(crate) fn read(launcher: &Launcher) -> Self {
        let counters = launcher.query(&["counters"]);
        let list = |name: &str| {
            let entry = |entry: &Value| {
                let packets = entry["packets"].as_u64().expect("a number");
                (entry["reason"].as_str().expect("a reason").to_owned(), packets)
            };
            let entries = counters[name].as_array().expect("a list of reasons");
            entries.iter().map(entry).collect()
        };
        Self {
            passed: list("passed"),
            dropped: list("dropped"),
        }
    }

    /// Returns what came after `before`.
    pub(crate) fn since(self, before: &Self) -> Self {
        let difference = |now: BTreeMap<String, u64>, before: &BTreeMap<String, u64>| {
            let entries = now.into_iter().map(|(reason, packets)| {
                let earlier = before.get(&reason).copied().unwrap_or_default();
                (reason, packets - earlier)
            });
            entries.filter(|(_, packets)| *packets > 0).collect()
        };
        Self {
            passed: difference(self.passed, &before.passed),
            dropped: difference(self.dropped, &before.dropped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_came_since_is_left() {
        let counted = |passed: u64, dropped: u64| Counted {
            passed: BTreeMap::from([("remote".to_owned(), passed), ("host".to_owned(), 5)]),
            dropped: BTreeMap::from([("vlan".to_owned(), dropped)]),
        };
        let since = counted(10, 3).since(&counted(4, 3));
        assert_eq!(since.passed, BTreeMap::from([("remote".to_owned(), 6)]));
        assert!(since.dropped.is_empty());
    }
}
