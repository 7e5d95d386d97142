//! VMs that are on their way to the host of a recorded cloud (contract 1.4).

use std::net::IpAddr;
use std::time::Duration;

use calico_ebpf_tests::recording::Recording;
use calico_ebpf_tests::snapshot::json;
use calico_ebpf_tests::wait;
use serde_json::Value;

use super::cloud::{Cloud, Local};

/// Metric of routes to a VM that has just arrived.
const ELEVATED: u64 = 512;
/// How long a route may take.
const LIMIT: Duration = Duration::from_secs(10);

impl Cloud {
    /// Has the VMs arrive that are on their way. They are up already, which is what lets the copy of their memory begin,
    /// but no route leads to them before they say that they run here. Returns how many there are.
    pub(super) fn receive(&self, recording: &Recording) -> usize {
        let expected: Vec<&Value> = recording
            .pairs()
            .iter()
            .filter(|(key, _)| key.contains("/livemigrations/"))
            .map(|(_, value)| &value["spec"]["target"]["workloadEndpoint"])
            .filter(|target| target["hostname"] == self.hostname())
            .collect();
        for target in &expected {
            let local = self
                .ports()
                .iter()
                .find(|local| local.recorded.0["spec"]["endpoint"] == target["endpointID"])
                .expect("the port that the migration names");
            assert_eq!(
                self.metrics(local),
                [] as [u64; 0],
                "a route before the VM runs here"
            );
            for address in local.recorded.addresses() {
                if let IpAddr::V4(address) = address {
                    local.port.announce(address);
                }
            }
            let came = wait::poll(LIMIT, || {
                let metrics = self.metrics(local);
                (!metrics.is_empty() && metrics.iter().all(|metric| *metric == ELEVATED)).then_some(())
            });
            assert!(came.is_some(), "{:?} after the announcement", self.metrics(local));
        }
        expected.len()
    }

    /// Returns the metrics of all routes on a port's tap but the kernel's own.
    fn metrics(&self, local: &Local) -> Vec<u64> {
        let routes = ["-4", "-6"].map(|family| {
            let arguments = ["-j", family, "route", "show", "dev", local.port.interface()];
            json(self.host().namespace(), "ip", &arguments)
        });
        let routes = routes.iter().filter_map(Value::as_array).flatten();
        routes
            .filter(|route| route["protocol"] != "kernel")
            .map(|route| route["metric"].as_u64().unwrap_or_default())
            .collect()
    }
}
