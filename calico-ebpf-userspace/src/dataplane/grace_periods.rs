//! Shorter waits while many taps get their programs at once.
//!
//! The kernel waits for an RCU grace period whenever a program comes to a tcx hook (`tcx_entry_sync`), under rtnl: 14 ms
//! each on an idle host with 250 ticks a second, 5.7 s for 200 taps. Meanwhile `/sys/kernel/rcu_expedited` makes these
//! waits tens of microseconds long, at the price of interrupts to all processors.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::state_file::StateFile;

/// File of the switch.
const SWITCH: &str = "/sys/kernel/rcu_expedited";
/// From so many taps on, the interrupts are worth it.
pub(super) const MANY_TAPS: usize = 8;

/// Grace periods are expedited while this lives.
#[derive(Debug)]
#[must_use = "grace periods are expedited while this lives"]
pub(super) struct Expedited {
    /// `None` when it is not ours to switch back.
    switch: Option<PathBuf>,
}

impl Expedited {
    /// Expedites grace periods, unless somebody else has already. Where the kernel does not let it be switched, all
    /// stays as it is: waits are longer, and nothing else.
    pub(super) fn begin(state: &mut StateFile) -> Self {
        Self::begin_at(Path::new(SWITCH), state)
    }

    fn begin_at(switch: &Path, state: &mut StateFile) -> Self {
        match switch_on(switch, state) {
            Ok(is_ours) => Self {
                switch: is_ours.then(|| switch.to_owned()),
            },
            Err(error) => {
                tracing::debug!(switch = %switch.display(), %error, "grace periods cannot be expedited");
                Self { switch: None }
            }
        }
    }

    /// Switches back.
    pub(super) fn end(self, state: &mut StateFile) {
        drop(self);
        state.state.rcu_expedited = false;
        if let Err(error) = state.save() {
            tracing::error!(%error, "cannot write the state file");
        }
    }
}

impl Drop for Expedited {
    fn drop(&mut self) {
        if let Some(switch) = &self.switch
            && let Err(error) = fs::write(switch, "0")
        {
            tracing::warn!(switch = %switch.display(), %error, "grace periods stay expedited");
        }
    }
}

/// Switches back what a run left that was killed in between.
pub(super) fn restore(state: &mut StateFile) {
    restore_at(Path::new(SWITCH), state);
}

fn restore_at(switch: &Path, state: &mut StateFile) {
    if state.state.rcu_expedited {
        Expedited {
            switch: Some(switch.to_owned()),
        }
        .end(state);
    }
}

/// Returns whether the switch was off and is on now. Remembered first: a run that is killed leaves it on.
fn switch_on(switch: &Path, state: &mut StateFile) -> io::Result<bool> {
    if fs::read_to_string(switch)?.trim() != "0" {
        return Ok(false);
    }
    state.state.rcu_expedited = true;
    state.save()?;
    fs::write(switch, "1")?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene(value: &str) -> (tempfile::TempDir, PathBuf, StateFile) {
        let directory = tempfile::tempdir().unwrap();
        let switch = directory.path().join("rcu_expedited");
        fs::write(&switch, value).unwrap();
        let state = StateFile::read(directory.path()).unwrap();
        (directory, switch, state)
    }

    fn value(switch: &Path) -> String {
        fs::read_to_string(switch).unwrap().trim().to_owned()
    }

    #[test]
    fn the_switch_is_on_in_between_and_off_afterwards() {
        let (_directory, switch, mut state) = scene("0\n");
        let expedited = Expedited::begin_at(&switch, &mut state);
        assert_eq!(value(&switch), "1");
        expedited.end(&mut state);
        assert_eq!((value(&switch).as_str(), state.state.rcu_expedited), ("0", false));
    }

    #[test]
    fn what_somebody_else_switched_on_stays_on() {
        let (_directory, switch, mut state) = scene("1\n");
        Expedited::begin_at(&switch, &mut state).end(&mut state);
        assert_eq!(value(&switch), "1");
    }

    #[test]
    fn a_run_that_was_killed_is_put_right_by_the_next() {
        let (directory, switch, mut state) = scene("0\n");
        std::mem::forget(Expedited::begin_at(&switch, &mut state));
        let mut next = StateFile::read(directory.path()).unwrap();
        restore_at(&switch, &mut next);
        assert_eq!(value(&switch), "0");
        assert!(!StateFile::read(directory.path()).unwrap().state.rcu_expedited);
    }

    #[test]
    fn a_kernel_without_the_switch_is_left_alone() {
        let (directory, _switch, mut state) = scene("0\n");
        let absent = directory.path().join("absent");
        Expedited::begin_at(&absent, &mut state).end(&mut state);
        assert!(!absent.exists());
    }
}
