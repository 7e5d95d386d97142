//! The parser in the kernel: the programs that tell what they understood, and the product's program in a dry run.

use std::path::PathBuf;

use aya::maps::Array;
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use calico_ebpf_common::maps::{self, settings};
use calico_ebpf_common::parsed::{Parsed, reader};

use crate::manifests::allow_everything;
use crate::programs::{Counted, Dataplane};

/// The programs by reader.
const PROGRAMS: [&str; reader::COUNT as usize] = [
    "bench_parse_whole",
    "bench_parse_with_ports",
    "bench_parse_fragment",
    "bench_parse_quoted",
    "bench_parse_arp",
];
const MAP: &str = "BENCH_PARSED";
/// Room for maps that these programs do not use.
const UNUSED: u32 = 64;

/// Returns where the object with the programs for tests is.
fn object_path() -> PathBuf {
    let beside = || crate::programs::object_path().with_file_name("calico-ebpf-bench.o");
    std::env::var_os("CALICO_EBPF_BENCH_OBJECT").map_or_else(beside, PathBuf::from)
}

/// Programs that tell what they understood.
#[derive(Debug)]
pub(super) struct Tellers {
    object: Ebpf,
}

impl Tellers {
    pub(super) fn load() -> Self {
        let path = object_path();
        let bytes = std::fs::read(&path).unwrap_or_else(|error| {
            panic!(
                "{}: {error} (`cargo xtask build-ebpf --bench` makes it)",
                path.display()
            )
        });
        let mut loader = EbpfLoader::new();
        for name in [maps::POLICY, maps::FLOWS4, maps::FLOWS6] {
            loader.map_max_entries(name, UNUSED);
        }
        let mut object = loader
            .load(&bytes)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for name in PROGRAMS {
            let program = object
                .program_mut(name)
                .unwrap_or_else(|| panic!("no program {name}"));
            let program: &mut SchedClassifier = program.try_into().expect("a classifier");
            program
                .load()
                .unwrap_or_else(|error| panic!("the kernel refuses {name}: {error}"));
        }
        Self { object }
    }

    /// Runs a reader over a frame.
    pub(super) fn read(&self, frame: &[u8], way: u32) -> Parsed {
        let name = PROGRAMS[way as usize];
        let program: &SchedClassifier = self
            .object
            .program(name)
            .expect("loaded")
            .try_into()
            .expect("a classifier");
        program
            .test_run(TestRunOptions {
                data_in: Some(frame),
                ..TestRunOptions::new()
            })
            .unwrap_or_else(|error| panic!("cannot run {name} over {frame:02x?}: {error}"));
        self.told(way)
    }

    /// Returns what a reader has understood of the last frame; zeros when there was none since [`Self::forget`].
    pub(super) fn told(&self, way: u32) -> Parsed {
        let map = self.object.map(MAP).expect("a map");
        let map = Array::<_, Parsed>::try_from(map).expect("an array");
        map.get(&way, 0).expect("an entry")
    }

    /// Forgets what was told.
    pub(super) fn forget(&mut self) {
        let map = self.object.map_mut(MAP).expect("a map");
        let mut map = Array::<_, Parsed>::try_from(map).expect("an array");
        for way in 0..reader::COUNT {
            map.set(way, Parsed::default(), 0).expect("an entry");
        }
    }

    /// Attaches all of them to what comes in by an interface of the calling thread's namespace.
    pub(super) fn attach(&mut self, interface: &str) {
        for name in PROGRAMS {
            let program = self.object.program_mut(name).expect("loaded");
            crate::programs::attach(program.try_into().expect("a classifier"), interface);
        }
    }
}

/// Makes the product's programs, for a workload that may say everything to everybody.
pub(super) fn product(dry_run: bool) -> Dataplane {
    let mut dataplane = Dataplane::with_settings(&[(settings::DRY_RUN, dry_run.into())]);
    dataplane.workload("a", &["10.0.0.1/32", "fd00::1/128"]);
    dataplane.workload("b", &["10.0.0.2/32", "fd00::2/128"]);
    dataplane.put_all(&[allow_everything()]);
    dataplane
}

/// What the attached program does with a frame of the workload, in a dry run.
pub(super) fn fate(dataplane: &Dataplane, frame: &[u8]) -> Option<Counted> {
    dataplane.fate(maps::PROGRAM_FROM_WORKLOAD, frame)
}
