//! The bpf(2) and mmap(2) calls that aya lacks: mapped arrays, batched reads, the interface of a tcx link.
//!
//! The only file of the agent with raw calls to the kernel's BPF side.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_link_info, bpf_link_type};
use bytemuck::Pod;
use calico_ebpf_common::line::{HALVES, Line, WORDS};

/// An array map (`BPF_F_MMAPABLE`) mapped into this process, read and written element by element.
///
/// The kernel side and other processes see every write at once, so no reference into the memory is ever made:
/// data is copied in and out.
#[derive(Debug)]
pub struct MappedArray<T: Pod> {
    memory: NonNull<T>,
    bytes: usize,
    length: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread; every access goes through raw copies.
unsafe impl<T: Pod> Send for MappedArray<T> {}

impl<T: Pod> MappedArray<T> {
    /// Maps the first `length` elements of the array map `map` for reading and writing.
    ///
    /// # Errors
    /// What mmap(2) says; `EINVAL` when the size of `T` is not the stride of the array (value size rounded up to 8).
    pub fn map(map: impl AsFd, length: u32) -> io::Result<Self> {
        Self::map_with(map.as_fd(), length, libc::PROT_READ | libc::PROT_WRITE)
    }

    /// Maps the first `length` elements for reading only; writes end the process.
    ///
    /// # Errors
    /// As [`Self::map`].
    pub fn map_for_reading(map: impl AsFd, length: u32) -> io::Result<Self> {
        Self::map_with(map.as_fd(), length, libc::PROT_READ)
    }

    fn map_with(map: BorrowedFd<'_>, length: u32, protection: i32) -> io::Result<Self> {
        if !size_of::<T>().is_multiple_of(8) || length == 0 {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let length = length as usize;
        let bytes = length * size_of::<T>();
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                protection,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let Some(memory) = NonNull::new(address.cast::<T>()) else {
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        };
        Ok(Self {
            memory,
            bytes,
            length,
        })
    }

    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Returns whether the array has no elements; it never is.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Copies `values` into the elements from `first` on.
    ///
    /// # Errors
    /// `ERANGE` when they do not fit; nothing is written then.
    pub fn write(&self, first: usize, values: &[T]) -> io::Result<()> {
        self.check_range(first, values.len())?;
        // SAFETY: the range lies inside the mapping, which is aligned to a page; `values` is memory of this
        // process and cannot overlap a mapping of which no reference exists.
        unsafe {
            std::ptr::copy_nonoverlapping(values.as_ptr(), self.memory.add(first).as_ptr(), values.len());
        }
        Ok(())
    }

    /// Returns a copy of `count` elements from `first` on.
    ///
    /// # Errors
    /// `ERANGE` beyond the end.
    pub fn read(&self, first: usize, count: usize) -> io::Result<Vec<T>> {
        self.check_range(first, count)?;
        let mut values = vec![T::zeroed(); count];
        // SAFETY: as in `write`, the other way; `T: Pod` accepts any bytes, also half-written ones.
        unsafe { std::ptr::copy_nonoverlapping(self.memory.add(first).as_ptr(), values.as_mut_ptr(), count) }
        Ok(values)
    }

    fn check_range(&self, first: usize, count: usize) -> io::Result<()> {
        match first.checked_add(count) {
            Some(end) if end <= self.length => Ok(()),
            _ => Err(io::Error::from_raw_os_error(libc::ERANGE)),
        }
    }
}

impl MappedArray<u64> {
    /// Stores a number after every write before it is visible.
    ///
    /// # Errors
    /// `ERANGE` beyond the end.
    pub fn store_release(&self, index: usize, value: u64) -> io::Result<()> {
        self.check_range(index, 1)?;
        // SAFETY: inside the mapping, aligned to 8 bytes, and only ever accessed atomically or by the kernel.
        unsafe { AtomicU64::from_ptr(self.memory.add(index).as_ptr()) }.store(value, Ordering::Release);
        Ok(())
    }

    /// Loads a number; writes made before it was stored are visible after.
    ///
    /// # Errors
    /// `ERANGE` beyond the end.
    pub fn load_acquire(&self, index: usize) -> io::Result<u64> {
        self.check_range(index, 1)?;
        // SAFETY: as in `store_release`.
        Ok(unsafe { AtomicU64::from_ptr(self.memory.add(index).as_ptr()) }.load(Ordering::Acquire))
    }
}

impl MappedArray<Line> {
    /// Stores the 16-bit number at `index` of a line after every write before it is visible.
    ///
    /// # Errors
    /// `ERANGE` beyond the end.
    pub fn store_half_release(&self, line: usize, index: u32, value: u16) -> io::Result<()> {
        self.check_range(line, 1)?;
        check_index(index, HALVES)?;
        // SAFETY: inside the line, which is inside the mapping and aligned; other accesses are the kernel's loads.
        unsafe {
            let number = self.memory.add(line).as_ptr().cast::<u16>().add(index as usize);
            AtomicU16::from_ptr(number).store(value, Ordering::Release);
        }
        Ok(())
    }

    /// As [`Self::store_half_release`], of 32 bits.
    ///
    /// # Errors
    /// `ERANGE` beyond the end.
    pub fn store_word_release(&self, line: usize, index: u32, value: u32) -> io::Result<()> {
        self.check_range(line, 1)?;
        check_index(index, WORDS)?;
        // SAFETY: as in `store_half_release`.
        unsafe {
            let number = self.memory.add(line).as_ptr().cast::<u32>().add(index as usize);
            AtomicU32::from_ptr(number).store(value, Ordering::Release);
        }
        Ok(())
    }
}

fn check_index(index: u32, count: u32) -> io::Result<()> {
    if index < count {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ERANGE))
    }
}

impl<T: Pod> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `map_with` made; no reference into it exists.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.bytes) };
    }
}

/// Reads a hash map in slices. Entries that are inserted or deleted meanwhile may be seen or not; no other entry is
/// missed.
#[derive(Debug)]
pub struct BatchReader<'a> {
    map: BorrowedFd<'a>,
    /// The kernel's opaque position; hash maps use a `u32`.
    position: Option<u32>,
    slice: u32,
    done: bool,
}

impl<'a> BatchReader<'a> {
    /// Starts a read of `map` in slices of about `slice` entries.
    pub fn new(map: BorrowedFd<'a>, slice: u32) -> Self {
        Self {
            map,
            position: None,
            slice: slice.max(1),
            done: false,
        }
    }

    /// Returns the next slice, or `None` after the last.
    ///
    /// # Errors
    /// What `BPF_MAP_LOOKUP_BATCH` says (Linux 5.6, commit cb4d03ab499d); `EINVAL` if sizes are not the map's.
    pub fn next_slice<K: Pod, V: Pod>(&mut self) -> io::Result<Option<Vec<(K, V)>>> {
        while !self.done {
            let mut keys = vec![K::zeroed(); self.slice as usize];
            let mut values = vec![V::zeroed(); self.slice as usize];
            let mut next = 0_u32;
            // SAFETY: `bpf_attr` is a union of plain numbers.
            let mut attr = unsafe { std::mem::zeroed::<bpf_attr>() };
            attr.batch.in_batch = self
                .position
                .as_ref()
                .map_or(0, |position| std::ptr::from_ref(position) as u64);
            attr.batch.out_batch = std::ptr::from_mut(&mut next) as u64;
            attr.batch.keys = keys.as_mut_ptr() as u64;
            attr.batch.values = values.as_mut_ptr() as u64;
            attr.batch.count = self.slice;
            attr.batch.map_fd = self.map.as_raw_fd().cast_unsigned();
            // SAFETY: keys and values have room for `count` elements; the caller's types have the map's sizes, as
            // `FlowTable` checks before it reads.
            let result = unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) };
            // SAFETY: the kernel writes `count` on success, ENOENT and ENOSPC; else it is what we put there.
            let count = unsafe { attr.batch.count } as usize;
            match result {
                Ok(_) => self.position = Some(next),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.done = true,
                // One bucket holds more entries than a slice: the position stays, the slice grows.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    self.slice = self.slice.saturating_mul(2);
                    continue;
                }
                Err(error) => return Err(error),
            }
            if count > 0 {
                return Ok(Some(keys.into_iter().zip(values).take(count).collect()));
            }
        }
        Ok(None)
    }
}

/// Returns the value of the first entry of an array map, `bytes` long.
///
/// # Errors
/// What `BPF_MAP_LOOKUP_ELEM` says.
pub fn first_value(map: BorrowedFd<'_>, bytes: u32) -> io::Result<Vec<u8>> {
    // Values are copied in parts of eight bytes.
    let mut value = vec![0_u8; (bytes as usize).next_multiple_of(8)];
    let key = 0_u32;
    // SAFETY: `bpf_attr` is a union of plain numbers.
    let mut attr = unsafe { std::mem::zeroed::<bpf_attr>() };
    // SAFETY: as above.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = map.as_raw_fd().cast_unsigned();
    element.key = std::ptr::from_ref(&key) as u64;
    element.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
    // SAFETY: an array's key has four bytes, and `value` has room for as many bytes as the kernel copies.
    unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) }?;
    value.truncate(bytes as usize);
    Ok(value)
}

/// A tcx link as the kernel sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcxLink {
    pub program_id: u32,
    /// 0 when the interface is gone.
    pub ifindex: u32,
    pub attach_type: u32,
}

/// Returns what `link` is attached to, or `None` if it is not a tcx link.
///
/// # Errors
/// What `BPF_OBJ_GET_INFO_BY_FD` says.
pub fn tcx_link(link: BorrowedFd<'_>) -> io::Result<Option<TcxLink>> {
    // SAFETY: both are plain numbers and unions of such.
    let (mut attr, mut info) = unsafe { std::mem::zeroed::<(bpf_attr, bpf_link_info)>() };
    attr.info.bpf_fd = link.as_raw_fd().cast_unsigned();
    attr.info.info = std::ptr::from_mut(&mut info) as u64;
    attr.info.info_len = u32::try_from(size_of::<bpf_link_info>()).unwrap_or(0);
    // SAFETY: the kernel writes at most `info_len` bytes to `info`.
    unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    if info.type_ != bpf_link_type::BPF_LINK_TYPE_TCX as u32 {
        return Ok(None);
    }
    // SAFETY: the type says which member of the union is filled; each is plain numbers anyway.
    let tcx = unsafe { info.__bindgen_anon_1.tcx };
    Ok(Some(TcxLink {
        program_id: info.prog_id,
        ifindex: tcx.ifindex,
        attach_type: tcx.attach_type,
    }))
}

/// Opens a pinned object: map, program or link.
///
/// # Errors
/// What `BPF_OBJ_GET` says; `ENOENT` when nothing is pinned there.
pub fn open_pinned(path: &std::path::Path) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    use std::os::unix::ffi::OsStrExt;

    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: `bpf_attr` is a union of plain numbers.
    let mut attr = unsafe { std::mem::zeroed::<bpf_attr>() };
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    // SAFETY: the path ends with a zero and lives until after the call.
    let descriptor = unsafe { bpf(bpf_cmd::BPF_OBJ_GET, &mut attr) }?;
    // SAFETY: the kernel made this descriptor for us just now (close-on-exec), nobody else owns it.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(descriptor) })
}

/// Waits until every packet that is being judged now has left the programs.
///
/// `membarrier(MEMBARRIER_CMD_GLOBAL)` is `synchronize_rcu()` (Linux 4.16, commit c5f58bd58f43; a program run is an
/// RCU read section). Kernels without it (or with `nohz_full`, where it answers `EINVAL`) get a pause of 50 ms.
pub fn wait_for_grace_period() {
    const MEMBARRIER_CMD_GLOBAL: i32 = 1;
    // SAFETY: the call takes no pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// Calls bpf(2).
///
/// # Safety
/// The pointers in `attr` are valid for what `command` does with them.
unsafe fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: `attr` is a valid `bpf_attr` of the size that is passed; its pointers are the caller's promise.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_mut(attr),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}
