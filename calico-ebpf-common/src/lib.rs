//! Types and table layouts shared by the eBPF programs and the agent.
//!
//! Everything here is plain data with a fixed layout (`repr(C)`, no padding) or a pure look-up over such data,
//! so that the same code decides in the kernel and in the agent's tests.
//!
//! The policy of a host is one array of 64-byte [lines](line::Line). A [`root::Root`] line names where each table
//! of one version begins; a packet reads the number of the active root once and uses that version to the end.
//! A version is never changed once it is active: the agent writes the next one beside it and switches the number.
#![no_std]
#![expect(
    clippy::cast_possible_truncation,
    reason = "numbers of the table are packed and unpacked by halves"
)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod address;
pub mod answer;
pub mod bench;
pub mod branchless;
pub mod endpoint;
pub mod event;
pub mod expire;
pub mod fall_back;
pub mod flow;
pub mod fragment;
pub mod line;
pub mod maps;
pub mod moved_port;
pub mod nat;
pub mod parsed;
pub mod policy;
pub mod port;
pub mod quota;
pub mod root;
pub mod tombstone;
pub mod verdict;
pub mod window;

/// Lets aya and the table writer treat `$t` as bytes on the agent's side.
#[macro_export]
macro_rules! shared_type {
    ($t:ty, $size:expr) => {
        const _: () = assert!(size_of::<$t>() == $size);

        #[cfg(feature = "user")]
        // SAFETY: `bytemuck::Pod` proves the type has no padding and no invalid bit patterns.
        unsafe impl aya::Pod for $t {}
    };
}
