//! Whose room the attack has filled.

use calico_ebpf_tests::agent::Launcher;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Flows of one endpoint, and how many it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Flows {
    pub(crate) confirmed: u64,
    pub(crate) confirmed_limit: u64,
    pub(crate) half_open: u64,
    pub(crate) half_open_limit: u64,
    /// How often there was no room for one.
    pub(crate) refused: u64,
}

impl Flows {
    /// Whether one of the two is full. A few flows may have ended since.
    pub(crate) fn is_full(&self) -> bool {
        let fills = |flows: u64, limit: u64| limit > 0 && flows >= limit - limit / 100;
        fills(self.half_open, self.half_open_limit) || fills(self.confirmed, self.confirmed_limit)
    }
}

/// What an endpoint has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Share {
    pub(crate) interface: String,
    /// `None` when the agent tells nothing of it.
    pub(crate) flows: Option<Flows>,
}

/// Asks the agent for the shares of all endpoints.
pub(crate) fn shares(launcher: &Launcher) -> Vec<Share> {
    let endpoints = launcher.query(&["endpoints"]);
    let endpoints = endpoints.as_array().expect("a list of endpoints");
    endpoints.iter().map(share).collect()
}

fn share(endpoint: &Value) -> Share {
    let interface = endpoint["interface"].as_str().unwrap_or_default().to_owned();
    let flows = endpoint.get("flows").filter(|flows| !flows.is_null());
    let flows = flows.map(|flows| {
        Flows::deserialize(flows).unwrap_or_else(|error| panic!("flows of {interface}: {error}: {flows}"))
    });
    Share { interface, flows }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shares_are_read_and_one_that_is_not_told_is_none() {
        let told = json!({"interface": "tap1", "flows":
            {"confirmed": 10, "confirmed_limit": 100, "half_open": 20, "half_open_limit": 200, "refused": 3}});
        let flows = share(&told).flows.expect("it is told");
        assert_eq!((flows.confirmed, flows.half_open, flows.refused), (10, 20, 3));
        assert_eq!(share(&json!({"interface": "tap1"})).flows, None);
    }

    #[test]
    fn a_quota_is_full_at_its_limit_and_one_that_is_not_set_never() {
        let flows = |confirmed, half_open| Flows {
            confirmed,
            confirmed_limit: 1000,
            half_open,
            half_open_limit: 0,
            refused: 0,
        };
        assert!(flows(1000, 0).is_full() && flows(991, 0).is_full());
        assert!(!flows(900, 5000).is_full());
    }
}
