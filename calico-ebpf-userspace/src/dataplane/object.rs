//! The kernel object inside the agent's binary.

/// The ELF file that `cargo xtask build-ebpf` made: all TC programs and their maps. Aligned for the ELF reader.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/calico-ebpf.o"));
