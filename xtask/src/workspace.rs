//! Where things are.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Returns the workspace's root folder.
pub(crate) fn root() -> &'static Path {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_folder.parent().unwrap_or(crate_folder)
}

/// Returns the target directory: `CARGO_TARGET_DIR` (relative to the current directory, as for cargo), else `target`
/// in the root.
pub(crate) fn target_dir() -> Result<PathBuf> {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(path) if !path.is_empty() => std::path::absolute(path).context("CARGO_TARGET_DIR"),
        _ => Ok(root().join("target")),
    }
}

/// Returns the folder of this user's cached tools and downloads: `$XDG_CACHE_HOME/calico-ebpf`, else
/// `~/.cache/calico-ebpf`.
pub(crate) fn cache_dir() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME") {
        Some(path) if !path.is_empty() => PathBuf::from(path),
        _ => PathBuf::from(env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(base.join("calico-ebpf"))
}

/// Returns the installation root of a cached tool; its programs are in `bin` below.
pub(crate) fn tool_root(tool: &str, version: &str) -> Result<PathBuf> {
    Ok(cache_dir()?.join("tools").join(format!("{tool}-{version}")))
}
