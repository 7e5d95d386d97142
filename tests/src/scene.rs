//! A host with guests and their manifests: where most tests of the host ring begin.

use calico_ebpf_userspace::report::AgentReport;

use crate::agent::{Agent, Launcher};
use crate::guest::Guest;
use crate::host::Host;
use crate::manifests::{Manifests, workload_endpoint};

/// Guests, the host under them and the directory of its manifests.
#[derive(Debug)]
pub struct Scene {
    guests: Vec<Guest>,
    manifests: Manifests,
    host: Host,
}

impl Scene {
    /// Starts a guest for each name, numbered from 1, and writes their endpoints. There is no policy yet.
    pub fn new(names: &[&str]) -> Self {
        let host = Host::new();
        let manifests = Manifests::new(&host.directory().join("manifests"));
        let guests: Vec<_> = (1..)
            .zip(names)
            .map(|(number, name)| Guest::start(&host, name, number))
            .collect();
        for guest in &guests {
            manifests.put(&workload_endpoint(guest.vm()));
        }
        Self {
            guests,
            manifests,
            host,
        }
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    pub fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    pub fn guests(&self) -> &[Guest] {
        &self.guests
    }

    /// Returns the guest of a name.
    pub fn guest(&self, name: &str) -> &Guest {
        self.guests
            .iter()
            .find(|guest| guest.vm().name() == name)
            .expect("the scene has this guest")
    }

    /// Takes a guest's tap away.
    pub fn unplug(&mut self, name: &str) {
        self.guest_mut(name).unplug();
    }

    /// Gives a guest a tap (again).
    pub fn plug(&mut self, name: &str) {
        let guest = self.guests.iter_mut().find(|guest| guest.vm().name() == name);
        guest.expect("the scene has this guest").plug(&self.host);
    }

    fn guest_mut(&mut self, name: &str) -> &mut Guest {
        self.guests
            .iter_mut()
            .find(|guest| guest.vm().name() == name)
            .expect("the scene has this guest")
    }

    /// Returns how the host's agent is started.
    pub fn launcher(&self) -> Launcher {
        Launcher::new(&self.host, &self.manifests)
    }

    /// Starts the agent and waits until every guest's endpoint is up.
    pub fn start_agent(&self) -> Agent {
        self.launcher().start(self.guests.len())
    }
}

/// Returns whether the endpoint of an interface is in a state.
pub fn is_in_state(report: &AgentReport, interface: &str, state: &str) -> bool {
    report
        .endpoints
        .iter()
        .any(|endpoint| endpoint.interface == interface && endpoint.state == state)
}
