//! A tcx program of somebody else on a tap: it counts packets and gives one verdict.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use bytemuck::{Pod, Zeroable};

use crate::netns::Netns;

/// Verdicts of a tcx program.
pub const NEXT: i32 = -1;
pub const PASS: i32 = 0;

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;

/// The program at the head of an interface's ingress, as long as this value lives.
#[derive(Debug)]
pub struct ForeignProgram {
    counts: OwnedFd,
    _program: OwnedFd,
    _link: OwnedFd,
}

impl ForeignProgram {
    /// Attaches the program before all others.
    ///
    /// # Errors
    ///
    /// What the kernel says; `EINVAL` before 6.6, which has no tcx.
    pub fn attach(host: &Netns, interface: &str, verdict: i32) -> io::Result<Self> {
        let counts = bpf(
            BPF_MAP_CREATE,
            &CreateMap {
                kind: 2,
                key_size: 4,
                value_size: 8,
                max_entries: 1,
            },
        )?;
        let program = load(&counts, verdict)?;
        let link = host.run(|| {
            let ifindex = nix::net::if_::if_nametoindex(interface)?;
            bpf(
                BPF_LINK_CREATE,
                &CreateLink {
                    program: number(&program),
                    ifindex,
                    attach_type: 46,
                    flags: 1 << 3,
                    relative: 0,
                    reserved: 0,
                    revision: 0,
                },
            )
        })?;
        Ok(Self {
            counts,
            _program: program,
            _link: link,
        })
    }

    /// Number of packets that the program saw.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn packets(&self) -> io::Result<u64> {
        let (key, mut value) = (0_u32, 0_u64);
        let request = LookUp {
            map: number(&self.counts),
            reserved: 0,
            key: (&raw const key).addr() as u64,
            value: (&raw mut value).addr() as u64,
            flags: 0,
        };
        bpf_call(BPF_MAP_LOOKUP_ELEM, &request)?;
        Ok(value)
    }
}

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

fn load(counts: &OwnedFd, verdict: i32) -> io::Result<OwnedFd> {
    let instruction = |code, target: u8, source: u8, offset, immediate| Instruction {
        code,
        registers: target | source << 4,
        offset,
        immediate,
    };
    let program = [
        instruction(0x62, 10, 0, -4, 0),                // *(u32 *)(r10 - 4) = 0
        instruction(0xbf, 2, 10, 0, 0),                 // r2 = r10
        instruction(0x07, 2, 0, 0, -4),                 // r2 += -4
        instruction(0x18, 1, 1, 0, counts.as_raw_fd()), // r1 = map
        instruction(0x00, 0, 0, 0, 0),                  // second half of the 64-bit load
        instruction(0x85, 0, 0, 0, 1),                  // r0 = bpf_map_lookup_elem(r1, r2)
        instruction(0x15, 0, 0, 2, 0),                  // if r0 == 0 goto the verdict
        instruction(0xb7, 1, 0, 0, 1),                  // r1 = 1
        instruction(0xdb, 0, 1, 0, 0),                  // lock *(u64 *)(r0 + 0) += r1
        instruction(0xb7, 0, 0, 0, verdict),            // r0 = verdict
        instruction(0x95, 0, 0, 0, 0),                  // exit
    ];
    let request = LoadProgram {
        kind: 3,
        count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr().addr() as u64,
        license: c"GPL".as_ptr().addr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"foreign\0\0\0\0\0\0\0\0\0",
    };
    bpf(BPF_PROG_LOAD, &request)
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct CreateMap {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct LoadProgram {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct CreateLink {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    reserved: u32,
    revision: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct LookUp {
    map: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn number(descriptor: &OwnedFd) -> u32 {
    descriptor.as_raw_fd().cast_unsigned()
}

/// Makes a call that returns a new descriptor.
fn bpf<T: Pod>(command: libc::c_int, request: &T) -> io::Result<OwnedFd> {
    let descriptor = bpf_call(command, request)?;
    // SAFETY: the kernel just opened the descriptor for this call and it has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn bpf_call<T: Pod>(command: libc::c_int, request: &T) -> io::Result<libc::c_int> {
    // SAFETY: bpf(2) reads `size_of::<T>()` bytes of the request, which has no padding; pointers in it are to
    // values of the callers that outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, request, size_of::<T>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        libc::c_int::try_from(result).map_err(io::Error::other)
    }
}
