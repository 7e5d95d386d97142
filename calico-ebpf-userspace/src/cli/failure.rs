//! How a command ends: exit status, and errors that say what to do.

use std::fmt;
use std::process::ExitCode;

use crate::config::ConfigError;
use crate::observe::ObserveError;

/// How a command ended that could do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Exit status 0.
    Good,
    /// Exit status 1: the work was done and its result is bad (`check`, `validate`, `status`).
    Bad,
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Good => Self::SUCCESS,
            Ending::Bad => Self::FAILURE,
        }
    }
}

/// Exit status when the configuration or the command line is wrong.
pub(super) const USAGE: u8 = 2;
/// Exit status when there is nothing to look at: no agent has run, or `cleanup` was done.
pub(super) const NOTHING_THERE: u8 = 3;
/// Exit status when the user may not do it.
pub(super) const NOT_PERMITTED: u8 = 4;

/// An error with its cure.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: anyhow::Error,
    /// What to do about it; empty when there is nothing to say.
    pub(super) cure: String,
    pub(super) status: u8,
}

impl Failure {
    /// Makes an error that ends with `status`, with what to do about it.
    pub(super) fn new(error: impl Into<anyhow::Error>, status: u8, cure: impl Into<String>) -> Self {
        Self {
            error: error.into(),
            cure: cure.into(),
            status,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#}", self.error)?;
        if !self.cure.is_empty() {
            write!(formatter, "\n{}", self.cure)?;
        }
        Ok(())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(error, 1, "")
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let cure = match &error {
            ConfigError::Unreadable { .. } => "Give the right file with --config, or leave the flag out.",
            ConfigError::Syntax { .. } => {
                "Lines are `Name = value`; comments start with `#`; sections do not matter."
            }
            ConfigError::BadValue { .. } => {
                "`calico-ebpf config default` lists every parameter with its values."
            }
            ConfigError::NoHostname { .. } => "",
        };
        Self::new(error, USAGE, cure)
    }
}

impl From<ObserveError> for Failure {
    fn from(error: ObserveError) -> Self {
        let run = "Start it with `calico-ebpf run`; if it runs with another";
        let (status, cure) = match &error {
            ObserveError::NoReport { .. } => (
                NOTHING_THERE,
                format!("No agent has run here. {run} RunDir, give the same with --set RunDir=DIR."),
            ),
            ObserveError::NoDataplane { .. } => (
                NOTHING_THERE,
                format!("No agent has run here. {run} BPFPinDir, give the same with --set BPFPinDir=DIR."),
            ),
            ObserveError::NotPermitted { .. } => (
                NOT_PERMITTED,
                "The dataplane's maps are root's: run the command as root.".to_owned(),
            ),
            ObserveError::UnreadableReport { source, .. }
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                (
                    NOT_PERMITTED,
                    "The report is root's: run the command as root.".to_owned(),
                )
            }
            ObserveError::ForeignReport { .. } => (
                1,
                "Use the command of the same version as the agent, or restart the agent.".to_owned(),
            ),
            ObserveError::UnreadableReport { .. } | ObserveError::Map { .. } => (1, String::new()),
        };
        Self::new(error, status, cure)
    }
}
