#![no_main]

use calico_ebpf_userspace::model::decode::properties;

libfuzzer_sys::fuzz_target!(|json: &[u8]| properties::check(json));
