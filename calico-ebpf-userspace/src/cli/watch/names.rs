//! Names for what events tell by number.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::cli::failure::Failure;
use crate::observe::decisions::Policies;
use crate::observe::read_report;
use crate::report::REPORT_FILE;

/// What the report says of endpoints and rules, read again when it changes.
pub(super) struct Names {
    run_dir: PathBuf,
    pub(super) policies: Policies,
    /// When the report was written that was read.
    written: Option<SystemTime>,
}

impl Names {
    pub(super) fn read(run_dir: PathBuf) -> Result<Self, Failure> {
        let report = read_report(&run_dir)?;
        let mut names = Self {
            run_dir,
            policies: Policies::of(report),
            written: None,
        };
        names.written = names.modified();
        Ok(names)
    }

    /// Reads the report again if there is another. An unreadable one changes nothing: the next turn tries again.
    pub(super) fn refresh(&mut self) {
        let modified = self.modified();
        if modified != self.written
            && let Ok(report) = read_report(&self.run_dir)
        {
            self.policies = Policies::of(report);
            self.written = modified;
        }
    }

    fn modified(&self) -> Option<SystemTime> {
        let metadata = fs::metadata(self.run_dir.join(REPORT_FILE)).ok()?;
        metadata.modified().ok()
    }

    pub(super) fn knows(&self, interface: &str) -> bool {
        let mut endpoints = self.policies.report().endpoints.iter();
        endpoints.any(|endpoint| endpoint.interface == interface)
    }

    pub(super) fn number_of(&self, interface: &str) -> Option<u32> {
        let mut endpoints = self.policies.report().endpoints.iter();
        let endpoint = endpoints.find(|endpoint| endpoint.interface == interface)?;
        Some(endpoint.ifindex)
    }

    /// Returns the slots of all endpoints with their interfaces, and that of taps without an endpoint.
    pub(super) fn slots(&self) -> BTreeMap<u16, String> {
        let endpoints = self.policies.report().endpoints.iter();
        let mut slots: BTreeMap<u16, String> = endpoints
            .filter(|endpoint| endpoint.slot != 0)
            .map(|endpoint| (endpoint.slot, endpoint.interface.clone()))
            .collect();
        slots.insert(0, "taps without an endpoint".to_owned());
        slots
    }
}
