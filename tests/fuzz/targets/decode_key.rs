#![no_main]

use calico_ebpf_userspace::datastore::etcd::properties;

libfuzzer_sys::fuzz_target!(|key: &[u8]| properties::check(key));
