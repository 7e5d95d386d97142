//! The bpf(2) calls with which `check` tries features: maps and programs that are made and closed again.
//!
//! Beside `bpf_syscall`, the only file of the agent with raw calls to the kernel's BPF side.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

use aya_obj::generated::{
    BPF_F_MMAPABLE, bpf_attach_type, bpf_attr, bpf_cmd, bpf_map_type, bpf_prog_info, bpf_prog_type,
};

/// One instruction: code, registers (destination in the low half), offset, immediate.
pub(super) type Instruction = (u8, u8, i16, i32);

/// Creates a map of 4-byte keys and 8-byte values with 512 entries: a page of values.
///
/// # Errors
/// What `BPF_MAP_CREATE` says.
pub(super) fn create_map(kind: bpf_map_type, is_mapped: bool) -> io::Result<OwnedFd> {
    let mut attr = empty();
    // SAFETY: the members of the union are plain numbers.
    let map = unsafe { &mut attr.__bindgen_anon_1 };
    map.map_type = kind as u32;
    map.key_size = 4;
    map.value_size = 8;
    map.max_entries = 512;
    map.map_flags = if is_mapped { BPF_F_MMAPABLE } else { 0 };
    // SAFETY: no pointers are passed.
    let descriptor = unsafe { bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr) }?;
    // SAFETY: the kernel made this descriptor for us just now, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Creates a ring buffer of one page, as large as pages of other machines are.
///
/// # Errors
/// What `BPF_MAP_CREATE` says.
pub(super) fn create_ring_buffer() -> io::Result<OwnedFd> {
    const BYTES: u32 = 65_536;
    let mut attr = empty();
    // SAFETY: the members of the union are plain numbers.
    let map = unsafe { &mut attr.__bindgen_anon_1 };
    map.map_type = bpf_map_type::BPF_MAP_TYPE_RINGBUF as u32;
    map.max_entries = BYTES;
    // SAFETY: no pointers are passed.
    let descriptor = unsafe { bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr) }?;
    // SAFETY: the kernel made this descriptor for us just now, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Maps the first page of a map into memory and lets it go again.
///
/// # Errors
/// What mmap(2) says.
pub(super) fn map_into_memory(map: &OwnedFd) -> io::Result<()> {
    const PAGE: usize = 4096;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
    let memory = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            PAGE,
            protection,
            libc::MAP_SHARED,
            map.as_raw_fd(),
            0,
        )
    };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping was made above with this length and nothing refers to it.
    unsafe { libc::munmap(memory, PAGE) };
    Ok(())
}

/// Reads a map in one batch.
///
/// # Errors
/// What `BPF_MAP_LOOKUP_BATCH` says, except that an empty map has no entry.
pub(super) fn read_batch(map: &OwnedFd) -> io::Result<()> {
    let (mut keys, mut values, mut position) = ([0_u32; 8], [0_u64; 8], 0_u64);
    let mut attr = empty();
    attr.batch.out_batch = std::ptr::from_mut(&mut position) as u64;
    attr.batch.keys = keys.as_mut_ptr() as u64;
    attr.batch.values = values.as_mut_ptr() as u64;
    attr.batch.count = 8;
    attr.batch.map_fd = map.as_raw_fd().cast_unsigned();
    // SAFETY: keys and values have room for `count` elements of the sizes in `create_map`.
    match unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) } {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(()),
    }
}

/// Loads a classifier and returns it.
///
/// # Errors
/// What `BPF_PROG_LOAD` says.
pub(super) fn load_classifier(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let bytes: Vec<u8> = instructions
        .iter()
        .flat_map(|instruction| encode(*instruction))
        .collect();
    let license: &CStr = c"GPL";
    let mut attr = empty();
    // SAFETY: the members of the union are plain numbers.
    let program = unsafe { &mut attr.__bindgen_anon_3 };
    program.prog_type = bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32;
    program.insns = bytes.as_ptr() as u64;
    program.insn_cnt = u32::try_from(instructions.len()).unwrap_or(0);
    program.license = license.as_ptr() as u64;
    // SAFETY: instructions and licence live until after the call.
    let descriptor = unsafe { bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr) }?;
    // SAFETY: the kernel made this descriptor for us just now, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn encode((code, registers, offset, immediate): Instruction) -> [u8; 8] {
    let [offset0, offset1] = offset.to_ne_bytes();
    let [b0, b1, b2, b3] = immediate.to_ne_bytes();
    [code, registers, offset0, offset1, b0, b1, b2, b3]
}

/// Returns the bytes of machine code that a program was compiled to; 0 when the kernel interprets it.
///
/// # Errors
/// What `BPF_OBJ_GET_INFO_BY_FD` says.
pub(super) fn compiled_length(program: &OwnedFd) -> io::Result<u32> {
    // SAFETY: the structure is plain numbers.
    let mut info = unsafe { std::mem::zeroed::<bpf_prog_info>() };
    let mut attr = empty();
    attr.info.bpf_fd = program.as_raw_fd().cast_unsigned();
    attr.info.info = std::ptr::from_mut(&mut info) as u64;
    attr.info.info_len = u32::try_from(size_of::<bpf_prog_info>()).unwrap_or(0);
    // SAFETY: the kernel writes at most `info_len` bytes to `info`.
    unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info.jited_prog_len)
}

/// Runs a classifier once on an empty Ethernet frame and returns its verdict.
///
/// # Errors
/// What `BPF_PROG_TEST_RUN` says.
pub(super) fn run_classifier(program: &OwnedFd) -> io::Result<u32> {
    let frame = [0_u8; 64];
    let mut attr = empty();
    attr.test.prog_fd = program.as_raw_fd().cast_unsigned();
    attr.test.data_in = frame.as_ptr() as u64;
    attr.test.data_size_in = 64;
    // SAFETY: the frame has `data_size_in` bytes; no output is asked for.
    unsafe { bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr) }?;
    // SAFETY: the kernel wrote the member that it read.
    Ok(unsafe { attr.test.retval })
}

/// Attaches a classifier to an interface by tcx and lets it go again.
///
/// # Errors
/// What `BPF_LINK_CREATE` says; `EINVAL` from kernels without tcx.
pub(super) fn attach_tcx(program: BorrowedFd<'_>, ifindex: u32) -> io::Result<()> {
    let mut attr = empty();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd().cast_unsigned();
    attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
    attr.link_create.attach_type = bpf_attach_type::BPF_TCX_INGRESS as u32;
    // SAFETY: no pointers are passed.
    let descriptor = unsafe { bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr) }?;
    // SAFETY: the kernel made this descriptor for us just now; dropping it detaches the program.
    drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
    Ok(())
}

fn empty() -> bpf_attr {
    // SAFETY: `bpf_attr` is a union of plain numbers.
    unsafe { std::mem::zeroed() }
}

/// Calls bpf(2).
///
/// # Safety
/// The pointers in `attr` are valid for what `command` does with them.
unsafe fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    let attr = NonNull::from(attr);
    // SAFETY: `attr` is a valid `bpf_attr` of the size that is passed; its pointers are the caller's promise.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            attr.as_ptr(),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}
