//! The kernel object: loaded, settings and program array filled in.

use std::path::PathBuf;

use aya::maps::{Map, MapData, ProgramArray};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};
use calico_ebpf_common::maps;

use super::loaded::Variant;

/// Returns where the kernel object is.
pub fn object_path() -> PathBuf {
    if let Some(path) = std::env::var_os("CALICO_EBPF_OBJECT") {
        return path.into();
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")),
        PathBuf::from,
    );
    target.join("bpf/calico-ebpf.o")
}

pub(super) fn load_object(variant: &Variant) -> Ebpf {
    let path = object_path();
    let bytes = std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error} (`cargo xtask build-ebpf` makes it)", path.display()));
    let mut loader = EbpfLoader::new();
    for (name, value) in &variant.settings {
        loader.override_global(name, value, true);
    }
    for (name, size) in [
        (maps::POLICY, variant.lines),
        (maps::FLOWS4, variant.flows),
        (maps::FLOWS6, variant.flows),
        (maps::HALF_OPEN4, variant.flows),
        (maps::HALF_OPEN6, variant.flows),
    ] {
        loader.map_max_entries(name, size);
    }
    loader
        .load(&bytes)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(super) fn fill_unsettled(object: &mut Ebpf) {
    let loaded = maps::UNSETTLED_PROGRAMS.map(|name| {
        let program: &SchedClassifier = object
            .program(name)
            .expect("in the object")
            .try_into()
            .expect("a classifier");
        program
            .fd()
            .expect("loaded")
            .try_clone()
            .expect("another descriptor")
    });
    let array = object.map_mut(maps::UNSETTLED).expect("a map");
    let mut array = ProgramArray::try_from(array).expect("a program array");
    for (entry, program) in (0..).zip(&loaded) {
        array.set(entry, program, 0).expect("enter a program");
    }
}

pub(super) fn map_data<'a>(object: &'a Ebpf, name: &str) -> &'a MapData {
    match object.map(name) {
        Some(Map::Array(data)) => data,
        other => panic!("{name} is no array: {other:?}"),
    }
}
