//! A host among others that changes step by step.

use std::sync::Arc;

use calico_ebpf_userspace::calc::effective::EffectiveState;
use calico_ebpf_userspace::compile::generate::{Case, MOST_ENDPOINTS, Random, case, host_interface};

use crate::cloud::Cloud;

/// Where a host's policy comes from.
enum Origin {
    /// Straight from a generator: dense in corner cases of the compiler.
    Dense,
    /// Objects of a datastore, through calculation.
    Objects(Box<Cloud>),
}

/// What is in force on a host, and everything around it.
pub(crate) struct World {
    origin: Origin,
    pub(crate) case: Case,
}

impl World {
    pub(crate) fn random(random: &mut Random) -> Self {
        let (origin, mut case) = if random.chance(50) {
            (Origin::Dense, case(random))
        } else {
            let (cloud, case) = Cloud::random(random);
            (Origin::Objects(Box::new(cloud)), case)
        };
        // Taps stay when their workloads go.
        for number in 1..=MOST_ENDPOINTS {
            let interfaces = &mut case.host.interfaces;
            interfaces.insert(format!("tap{number}"), host_interface(number));
        }
        Self { origin, case }
    }

    pub(crate) fn is_of_objects(&self) -> bool {
        matches!(self.origin, Origin::Objects(_))
    }

    /// Changes one thing and returns what.
    ///
    /// # Errors
    /// Incremental and plain calculation differ.
    pub(crate) fn change(&mut self, random: &mut Random) -> Result<&'static str, String> {
        match &mut self.origin {
            Origin::Dense => Ok(self.case.change(random)),
            Origin::Objects(cloud) => cloud.change(random, &mut self.case),
        }
    }

    /// Returns the state as the agent gets it.
    pub(crate) fn state(&self) -> Arc<EffectiveState> {
        Arc::new(self.case.state.clone())
    }
}
