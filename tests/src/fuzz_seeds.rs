//! What fuzzing starts from, and what it once found, keeps its properties (`cargo xtask fuzz`).

use std::fs;
use std::path::Path;

use calico_ebpf_userspace::{config, datastore, model};

/// Calls `check` with each seed of a target.
fn for_each_seed(target: &str, check: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(target);
    let mut count = 0;
    for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("a readable folder").path();
        println!("{}", path.display());
        check(&fs::read(&path).expect("a readable file"));
        count += 1;
    }
    assert!(count > 0, "no seeds in {}", folder.display());
}

fn as_text(check: impl Fn(&str)) -> impl Fn(&[u8]) {
    move |bytes| check(&String::from_utf8_lossy(bytes))
}

#[test]
fn every_seed_is_parsed_or_refused_as_a_selector() {
    for_each_seed("selector", as_text(model::selector::properties::check));
}

#[test]
fn every_seed_is_decoded_or_told_as_an_object() {
    for_each_seed("decode_object", model::decode::properties::check);
}

#[test]
fn every_seed_names_an_object_or_is_told_as_a_key() {
    for_each_seed("decode_key", datastore::etcd::properties::check);
}

#[test]
fn every_seed_is_read_or_told_as_a_manifest() {
    for_each_seed("manifest", as_text(datastore::file::properties::check));
}

#[test]
fn every_seed_is_read_or_refused_as_a_configuration_file() {
    for_each_seed("felix_cfg", as_text(config::properties::check));
}
