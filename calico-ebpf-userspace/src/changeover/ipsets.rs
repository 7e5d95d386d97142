//! Felix's sets of addresses.

use super::iptables::{complaint, is_installed, run};

const PROGRAM: &str = "ipset";

/// Returns the names of Felix's sets; `None` where `ipset` is not installed.
///
/// # Errors
/// When the program fails.
pub fn read() -> anyhow::Result<Option<Vec<String>>> {
    if !is_installed(PROGRAM) {
        return Ok(None);
    }
    let output = run(PROGRAM, &["list", "-name"], "")?;
    anyhow::ensure!(output.status.success(), "{PROGRAM} list: {}", complaint(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(Some(
        text.lines()
            .filter(|name| is_felix_set(name))
            .map(str::to_owned)
            .collect(),
    ))
}

/// Removes a set that no rule names any more.
///
/// # Errors
/// When the kernel refuses: somebody else's rule names it.
pub fn destroy(name: &str) -> anyhow::Result<()> {
    let output = run(PROGRAM, &["destroy", name], "")?;
    anyhow::ensure!(output.status.success(), "{}", complaint(&output));
    Ok(())
}

/// Felix's names are `cali40` or `cali60` and more, `cali4t` or `cali6t` for those that it is about to swap in, and
/// `felix-` in its first versions.
fn is_felix_set(name: &str) -> bool {
    let version = name.strip_prefix("cali4").or_else(|| name.strip_prefix("cali6"));
    version.is_some_and(|rest| rest.starts_with(['0', 't', '-'])) || name.starts_with("felix-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_felix_are_known_by_name() {
        for name in [
            "cali40s:5y5I3VdRZfDU01O",
            "cali60all-ipam-pools",
            "cali4t12",
            "felix-v4-abc",
        ] {
            assert!(is_felix_set(name), "{name}");
        }
        for name in ["calico", "cali4", "cali", "cali5-x", "calibration", "my-cali40"] {
            assert!(!is_felix_set(name), "{name}");
        }
    }
}
