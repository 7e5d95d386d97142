//! What there is to see from outside the agent: its report, and the pinned maps as the kernel has them now.
//!
//! Read by the command line and the metrics; the agent itself never reads through this module.

pub mod clock;
pub mod decisions;
pub mod event_view;
pub mod events;
pub mod explain;
pub mod flows;
pub mod made_packet;
pub mod pinned;
pub mod rule_names;
pub mod translations;

use std::io;
use std::path::{Path, PathBuf};

use crate::report::{AgentReport, REPORT_FILE};

/// Why something could not be seen.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// There is no report: no agent has run with this `RunDir`.
    #[error("no report at {}", path.display())]
    NoReport { path: PathBuf },
    #[error("cannot read the report {}", path.display())]
    UnreadableReport { path: PathBuf, source: io::Error },
    #[error("the report {} was written by another version of the agent", path.display())]
    ForeignReport {
        path: PathBuf,
        source: serde_json::Error,
    },
    /// There is no dataplane under this `BPFPinDir`.
    #[error("no dataplane at {}", path.display())]
    NoDataplane { path: PathBuf },
    /// Pinned maps are root's.
    #[error("no right to open {}", path.display())]
    NotPermitted { path: PathBuf },
    #[error("cannot read the map {}", path.display())]
    Map {
        path: PathBuf,
        source: aya::maps::MapError,
    },
}

/// Reads the report in `run_dir`.
///
/// # Errors
/// Fails when there is none, or none that this version understands.
pub fn read_report(run_dir: &Path) -> Result<AgentReport, ObserveError> {
    let path = run_dir.join(REPORT_FILE);
    match std::fs::read(&path) {
        Ok(text) => {
            serde_json::from_slice(&text).map_err(|source| ObserveError::ForeignReport { path, source })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ObserveError::NoReport { path }),
        Err(source) => Err(ObserveError::UnreadableReport { path, source }),
    }
}

/// Returns whether the process that wrote `report` is still there. Its number may be another's by now, so its name
/// counts, too: the binary's, or that of this process.
pub fn is_running(report: &AgentReport) -> bool {
    let name = |process: &str| std::fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    let found = name(&report.pid.to_string());
    !found.is_empty() && (found.starts_with("calico-ebpf") || found == name("self"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_report_and_a_foreign_one_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(
            read_report(directory.path()),
            Err(ObserveError::NoReport { .. })
        ));
        std::fs::write(directory.path().join(REPORT_FILE), "{}").unwrap();
        assert!(matches!(
            read_report(directory.path()),
            Err(ObserveError::ForeignReport { .. })
        ));
        let text = serde_json::to_string(&AgentReport::default()).unwrap();
        std::fs::write(directory.path().join(REPORT_FILE), text).unwrap();
        assert_eq!(read_report(directory.path()).unwrap(), AgentReport::default());
    }
}
