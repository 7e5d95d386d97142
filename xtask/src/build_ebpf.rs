//! `cargo xtask build-ebpf`: the kernel object.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use object::{Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};

use crate::kernel_toolchain::{self, Choice, TARGET};
use crate::progress::headline;
use crate::setup::{self, Need};
use crate::{command, stack, workspace};

/// Size of one eBPF instruction slot; a 64-bit constant load takes two.
const INSTRUCTION_BYTES: u64 = 8;

/// Builds the kernel object and prints its programs
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Builds the object with the programs that only benchmarks load, too
    #[arg(long)]
    bench: bool,

    /// The compiler of the kernel side
    #[arg(long, value_enum, default_value = "auto", env = "CALICO_EBPF_TOOLCHAIN")]
    toolchain: Choice,
}

/// Which programs are in the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// What the agent loads.
    Agent,
    /// The same and what benchmarks load.
    Bench,
}

/// One program of an object.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    section: String,
    name: String,
    instructions: u64,
}

/// Runs the subcommand.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let flavours: &[Flavour] = if arguments.bench {
        &[Flavour::Agent, Flavour::Bench]
    } else {
        &[Flavour::Agent]
    };
    for flavour in flavours {
        let path = build(*flavour, arguments.toolchain)?;
        print(&path)?;
    }
    Ok(())
}

/// Builds the object with the compiler that the environment chooses and returns its path.
///
/// # Errors
/// The compiler or linker is missing and cannot be installed, or the build fails.
pub(crate) fn build_default(flavour: Flavour) -> Result<PathBuf> {
    let choice = match std::env::var("CALICO_EBPF_TOOLCHAIN") {
        Ok(name) => clap::ValueEnum::from_str(&name, true)
            .map_err(|error| anyhow::anyhow!("CALICO_EBPF_TOOLCHAIN: {error}"))?,
        Err(_) => Choice::Auto,
    };
    build(flavour, choice)
}

fn build(flavour: Flavour, choice: Choice) -> Result<PathBuf> {
    setup::ensure(&[Need::KernelToolchain(choice)])?;
    let toolchain = kernel_toolchain::require(choice)?;
    let (features, name): (&[&str], &str) = match flavour {
        Flavour::Agent => (&[], "calico-ebpf.o"),
        Flavour::Bench => (&["--features", "bench"], "calico-ebpf-bench.o"),
    };
    headline(&format!("kernel object {name} ({})", toolchain.describe()));
    command::run(
        toolchain
            .cargo()?
            .args(["build", "--profile", "bpf", "--package", "calico-ebpf"])
            .args(toolchain.target_arguments())
            .args(features),
    )?;
    let directory = workspace::target_dir()?.join("bpf");
    let built = directory.join(TARGET).join("bpf/calico-ebpf-programs");
    stack::check(&fs::read(&built).with_context(|| built.display().to_string())?)?;
    let object = directory.join(name);
    copy_if_different(&built, &object)?;
    Ok(object)
}

/// Copies unless the bytes are the same: a newer time stamp alone would rebuild the agent.
fn copy_if_different(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| from.display().to_string())?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    let temporary = to.with_extension("o.new");
    fs::write(&temporary, new).with_context(|| temporary.display().to_string())?;
    fs::rename(&temporary, to).with_context(|| to.display().to_string())
}

fn print(path: &Path) -> Result<()> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let programs = programs(&bytes).with_context(|| path.display().to_string())?;
    let mut output = std::io::stdout().lock();
    writeln!(output, "{}", path.display())?;
    for Program {
        section,
        name,
        instructions,
    } in programs
    {
        writeln!(
            output,
            "  {section:<12} {name:<40} {instructions:>6} instructions"
        )?;
    }
    Ok(())
}

/// Returns the functions in the executable sections of an object, in the file's order. Functions in `.text` are called
/// by programs.
fn programs(elf: &[u8]) -> Result<Vec<Program>> {
    let file = object::File::parse(elf)?;
    let mut programs = Vec::new();
    for section in file
        .sections()
        .filter(|section| section.kind() == SectionKind::Text)
    {
        let functions = file.symbols().filter(|symbol| {
            symbol.kind() == SymbolKind::Text && symbol.section_index() == Some(section.index())
        });
        for symbol in functions {
            programs.push(Program {
                section: section.name()?.to_owned(),
                name: symbol.name()?.to_owned(),
                instructions: symbol.size() / INSTRUCTION_BYTES,
            });
        }
    }
    Ok(programs)
}
