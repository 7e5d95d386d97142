//! The time that packages carry: not that of the build, so that the same source gives the same bytes.

use std::env;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use crate::command;

/// Name of the variable that others know, too: <https://reproducible-builds.org/specs/source-date-epoch/>.
pub(crate) const VARIABLE: &str = "SOURCE_DATE_EPOCH";

/// Seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch(u64);

impl Epoch {
    /// Returns what [`VARIABLE`] says, else the time of the last commit.
    ///
    /// # Errors
    /// The variable is not a number, or it is not set and this is no git repository.
    pub(crate) fn find() -> Result<Self> {
        if let Ok(text) = env::var(VARIABLE) {
            let seconds = text.trim().parse();
            return seconds
                .map(Self)
                .with_context(|| format!("{VARIABLE}={text}: expected seconds since 1970"));
        }
        let mut git = command::command("git");
        let text = command::output(git.args(["log", "-1", "--format=%ct"]))
            .with_context(|| format!("no time of the source: set {VARIABLE} outside of a git repository"))?;
        text.trim().parse().map(Self).context("git log -1 --format=%ct")
    }

    /// Returns the number, for [`VARIABLE`].
    pub(crate) fn text(self) -> String {
        self.0.to_string()
    }

    /// Returns the moment.
    pub(crate) fn time(self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.0)
    }
}
