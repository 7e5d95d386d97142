#![no_main]

use calico_ebpf_userspace::config::properties;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| properties::check(&String::from_utf8_lossy(bytes)));
