//! `cargo xtask test vm`: the program ring on other kernels, each in a machine of its own.

mod initramfs;
mod kernel;
mod machine;

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::build_ebpf::{self, Flavour};
use crate::progress::headline;
use crate::setup::{self, Need};
use crate::{release, workspace};
use initramfs::Archive;
use machine::Machine;

/// Runs the program ring on other kernels, in QEMU
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Kernels of Debian's archive, by the beginning of their version
    #[arg(value_name = "KERNEL", default_values = ["6.1"])]
    kernels: Vec<String>,

    /// Only tests whose name contains this
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,

    /// Ends a machine after this time
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    time_limit: u64,

    /// QEMU's accelerator: `tcg` works everywhere, `kvm` where the processor is not a guest's
    #[arg(long, default_value = "tcg")]
    accelerator: String,
}

/// Runs the subcommand.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(&[Need::Protobuf, Need::Machine])?;
    let object = build_ebpf::build_default(Flavour::Agent)?;
    let bench_object = build_ebpf::build_default(Flavour::Bench)?;
    headline("program ring and init (release, static)");
    let init = release::binaries(&["vm_init"])?;
    let init = init.first().context("no init was built")?;
    let tests = release::test("program")?;
    let mut failed = Vec::new();
    for version in &arguments.kernels {
        let kernel = kernel::fetch(version)?;
        headline(&format!("{}: boot", kernel.name));
        let mut archive = Archive::new();
        archive.folders(&["dev", "proc", "sys", "tmp", "run", "modules"]);
        archive.program("init", &fs::read(init)?);
        archive.program("program", &fs::read(&tests)?);
        archive.file("calico-ebpf.o", &fs::read(&object)?);
        archive.file("calico-ebpf-bench.o", &fs::read(&bench_object)?);
        for (name, module) in kernel.modules()? {
            archive.file(&format!("modules/{name}"), &module);
        }
        let path = workspace::target_dir()?.join(format!("vm/{}.cpio", kernel.name));
        archive.write(&path)?;
        let machine = Machine {
            kernel: &kernel.image,
            initramfs: &path,
            accelerator: &arguments.accelerator,
            arguments: &arguments.filter,
            time_limit: Duration::from_secs(arguments.time_limit),
        };
        match machine.run() {
            Ok(()) => headline(&format!("{}: passed", kernel.name)),
            Err(error) => {
                headline(&format!("{}: {error:#}", kernel.name));
                failed.push(kernel.name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("the program ring failed on {}", failed.join(", "));
    }
    Ok(())
}
