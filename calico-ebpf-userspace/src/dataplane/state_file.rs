//! What the agent must remember across its own restarts: `RunDir/state.json`, written before the change it speaks of.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::assignments::Born;

/// File name in `RunDir`.
pub const STATE_FILE: &str = "state.json";

/// Everything that cleanup and the next run need to know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// Highest generation ever given to an endpoint.
    pub generation: u32,
    /// Version number of the last policy table.
    pub epoch: u32,
    /// Slot by endpoint key: flows name slots.
    pub slots: BTreeMap<String, u16>,
    /// By endpoint key: flows of an earlier generation are not the endpoint's.
    pub born: BTreeMap<String, Born>,
    /// Directory on which the agent mounted a bpffs.
    pub mounted_bpffs: Option<PathBuf>,
    /// Directories that the agent made, parents first.
    pub made_directories: Vec<PathBuf>,
    /// Taps, by interface number and name, to which the agent added a clsact qdisc.
    pub clsact: BTreeSet<(u32, String)>,
    pub sysctls: SysctlState,
    /// The agent has made the kernel expedite grace periods, and not switched back yet.
    pub rcu_expedited: bool,
}

/// Values before the agent changed them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SysctlState {
    /// Path below `/proc/sys` to value, for settings of the whole host.
    pub host: BTreeMap<String, String>,
    /// The same for settings of one interface.
    pub interfaces: BTreeMap<u32, InterfaceSysctls>,
    /// What a new interface that is no workload's gets: the defaults as the host would have them without us.
    pub new_interface: BTreeMap<String, String>,
    /// Interfaces that have their settings, by number and name.
    pub known_interfaces: BTreeSet<(u32, String)>,
}

/// Former settings of one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceSysctls {
    pub name: String,
    pub values: BTreeMap<String, String>,
}

/// The state and where it is kept.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    written: Option<State>,
    pub state: State,
}

impl StateFile {
    /// Reads the state of the last run; starts empty when there is none or it cannot be parsed.
    ///
    /// # Errors
    /// When the file exists and cannot be read.
    pub fn read(run_dir: &Path) -> io::Result<Self> {
        let path = run_dir.join(STATE_FILE);
        let state = match fs::read(&path) {
            Ok(text) => serde_json::from_slice::<State>(&text).map_or_else(
                |error| {
                    tracing::error!(file = %path.display(), %error, "state of the last run is unreadable, starting anew");
                    None
                },
                Some,
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self {
            path,
            written: state.clone(),
            state: state.unwrap_or_default(),
        })
    }

    /// Writes the state if it has changed: to a new file, then by rename.
    ///
    /// # Errors
    /// When `RunDir` cannot be written.
    pub fn save(&mut self) -> io::Result<()> {
        if self.written.as_ref() == Some(&self.state) {
            return Ok(());
        }
        let text = serde_json::to_vec_pretty(&self.state).map_err(io::Error::other)?;
        write_by_rename(&self.path, &text)?;
        self.written = Some(self.state.clone());
        Ok(())
    }
}

/// Replaces a file so that a reader sees the old or the new text, never half of it.
///
/// # Errors
/// When the directory cannot be written.
pub fn write_by_rename(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let mut file = fs::File::create(&name)?;
    file.write_all(text)?;
    drop(file);
    fs::rename(&name, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_survives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = StateFile::read(directory.path()).unwrap();
        file.state.generation = 7;
        file.state.clsact.insert((3, "tap1".to_owned()));
        file.save().unwrap();
        assert_eq!(StateFile::read(directory.path()).unwrap().state, file.state);
    }

    #[test]
    fn broken_state_file_counts_as_none() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(STATE_FILE), "{").unwrap();
        assert_eq!(StateFile::read(directory.path()).unwrap().state, State::default());
    }

    #[test]
    fn unchanged_state_is_not_written_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = StateFile::read(directory.path()).unwrap();
        file.state.epoch = 1;
        file.save().unwrap();
        fs::remove_file(directory.path().join(STATE_FILE)).unwrap();
        file.save().unwrap();
        assert!(!directory.path().join(STATE_FILE).exists());
    }
}
