//! Puts the kernel object beside the agent's source, so that the agent is one file that needs nothing beside it.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CALICO_EBPF_OBJECT");
    let object = match env::var_os("CALICO_EBPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => built_object(&out_dir)?,
    };
    println!("cargo::rerun-if-changed={}", object.display());
    fs::copy(&object, out_dir.join("calico-ebpf.o"))
        .map_err(|error| format!("{}: {error}: run `cargo xtask build-ebpf`", object.display()))?;
    Ok(())
}

/// Returns the object that `cargo xtask build-ebpf` left in the target directory, which is the nearest ancestor of
/// `OUT_DIR` that has it.
fn built_object(out_dir: &Path) -> Result<PathBuf, String> {
    out_dir
        .ancestors()
        .map(|directory| directory.join("bpf/calico-ebpf.o"))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| {
            format!(
                "no bpf/calico-ebpf.o above {}: run `cargo xtask build-ebpf`",
                out_dir.display()
            )
        })
}
