//! The parser of the programs, built for the host, over memory that ends where the packet does.
//!
//! A page that cannot be read lies behind the last byte. Who reads there is noted, and goes on with zeros.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use calico_ebpf_common::parsed::Parsed;
use calico_ebpf_on_host::on_host::{self, Frame, PULLED_BYTES, Range};

const PAGE: usize = 4096;
/// Room for the longest frame.
const PAGES: usize = 18;
/// Where memory is asked for: below 4 GiB, above what a system keeps free at the bottom.
const LOWEST: usize = 0x1000_0000;
const HIGHEST: usize = 0xf000_0000;
/// Guard pages that the handler knows.
const MOST_GUARDS: usize = 64;

static GUARDS: [AtomicUsize; MOST_GUARDS] = [const { AtomicUsize::new(0) }; MOST_GUARDS];
static TOUCHED: [AtomicBool; MOST_GUARDS] = [const { AtomicBool::new(false) }; MOST_GUARDS];

/// Pages, and one behind them that nobody may read.
#[derive(Debug)]
struct Room {
    begin: usize,
    guard: usize,
    number: usize,
}

impl Room {
    fn new() -> Self {
        static HANDLER: Once = Once::new();
        HANDLER.call_once(handle_faults);
        let bytes = (PAGES + 1) * PAGE;
        let begin = (LOWEST..HIGHEST)
            .step_by(PAGES.next_power_of_two() * 2 * PAGE)
            .find(|address| is_mapped_at(*address, bytes))
            .expect("memory below 4 GiB");
        let guard = begin + PAGES * PAGE;
        let number = GUARDS
            .iter()
            .position(|place| {
                place
                    .compare_exchange(0, guard, Ordering::SeqCst, Ordering::SeqCst)
                    .is_ok()
            })
            .expect("few rooms");
        let room = Self { begin, guard, number };
        room.protect();
        room
    }

    fn protect(&self) {
        TOUCHED[self.number].store(false, Ordering::SeqCst);
        // SAFETY: the page is of this room's own mapping.
        let protected = unsafe {
            libc::mprotect(
                ptr::with_exposed_provenance_mut(self.guard),
                PAGE,
                libc::PROT_NONE,
            )
        };
        assert_eq!(protected, 0, "{}", std::io::Error::last_os_error());
    }

    /// Returns whether somebody read behind the end since the last call.
    fn was_touched(&self) -> bool {
        let was_touched = TOUCHED[self.number].load(Ordering::SeqCst);
        if was_touched {
            self.protect();
        }
        was_touched
    }

    /// Writes bytes so that `behind` of them lie behind the range that is returned, and nothing that can be read behind those.
    fn write(&mut self, bytes: &[u8], behind: usize) -> Range {
        let begin = self.guard - bytes.len();
        assert!(begin >= self.begin, "a frame of {} bytes", bytes.len());
        // SAFETY: the range is inside of the mapping, which only this value uses.
        unsafe {
            ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                ptr::with_exposed_provenance_mut(begin),
                bytes.len(),
            );
        }
        let address = |address: usize| u32::try_from(address).expect("below 4 GiB");
        Range {
            begin: address(begin),
            end: address(self.guard - behind),
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        GUARDS[self.number].store(0, Ordering::SeqCst);
        // SAFETY: the mapping is this room's own, and nothing points into it any more.
        unsafe { libc::munmap(ptr::with_exposed_provenance_mut(self.begin), (PAGES + 1) * PAGE) };
    }
}

fn is_mapped_at(address: usize, bytes: usize) -> bool {
    // SAFETY: a new mapping; with MAP_FIXED_NOREPLACE none that exists is replaced.
    let mapped = unsafe {
        libc::mmap(
            ptr::with_exposed_provenance_mut(address),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        )
    };
    if mapped == libc::MAP_FAILED {
        return false;
    }
    if mapped.addr() == address {
        return true;
    }
    // A kernel below 4.17 takes the address for a wish.
    // SAFETY: the mapping was made just now.
    unsafe { libc::munmap(mapped, bytes) };
    false
}

fn handle_faults() {
    // SAFETY: all zeros is a valid `sigaction`; the handler keeps to what a signal handler may do.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_fault;
        action.sa_sigaction = handler as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        assert_eq!(
            libc::sigaction(libc::SIGSEGV, &raw const action, ptr::null_mut()),
            0
        );
    }
}

/// Notes that a guard page was read, and lets the reader have it. Any other fault is as fatal as ever.
extern "C" fn on_fault(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel hands over a valid structure; mprotect is one system call.
    unsafe {
        let address = (*info).si_addr().addr();
        for (guard, touched) in GUARDS.iter().zip(&TOUCHED) {
            let guard = guard.load(Ordering::SeqCst);
            if guard != 0 && (guard..guard + PAGE).contains(&address) {
                touched.store(true, Ordering::SeqCst);
                libc::mprotect(ptr::with_exposed_provenance_mut(guard), PAGE, libc::PROT_READ);
                return;
            }
        }
        libc::signal(signal, libc::SIG_DFL);
    }
}

/// How a frame lies in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout<'a> {
    pub(super) frame: &'a [u8],
    /// So many bytes are readable at first.
    pub(super) linear: usize,
    pub(super) has_vlan_tag: bool,
    /// What lies behind the readable bytes; with nothing there reading beyond them is noticed.
    pub(super) behind: &'a [u8],
}

/// The parser with its memory.
#[derive(Debug)]
pub(super) struct HostBuild {
    linear: Room,
    pulled: Room,
}

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

impl HostBuild {
    pub(super) fn new() -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                let is_ours = info
                    .location()
                    .is_some_and(|place| place.file().contains("calico-ebpf/src"));
                if is_ours {
                    PANIC.with_borrow_mut(|said| *said = info.to_string());
                } else {
                    before(info);
                }
            }));
        });
        Self {
            linear: Room::new(),
            pulled: Room::new(),
        }
    }

    /// Reads a frame; says what was wrong when it read behind the end, or panicked.
    pub(super) fn read(&mut self, layout: &Layout<'_>, way: u32) -> Result<Parsed, String> {
        let frame = layout.frame;
        let pulled = frame.len().min(PULLED_BYTES as usize);
        let laid = |bytes: &[u8]| [bytes, layout.behind].concat();
        let behind = layout.behind.len();
        let frame = Frame {
            bytes: u32::try_from(frame.len()).expect("a frame"),
            linear: self.linear.write(&laid(&frame[..layout.linear]), behind),
            pulled: self.pulled.write(&laid(&frame[..pulled]), behind),
            has_vlan_tag: layout.has_vlan_tag,
        };
        // SAFETY: both ranges were written just now; the rooms outlive the call.
        let read = catch_unwind(AssertUnwindSafe(|| unsafe { on_host::read(&frame, way) }));
        let touched = [self.linear.was_touched(), self.pulled.was_touched()];
        match read {
            Ok(_) if touched != [false; 2] => Err("the parser reads behind the end of the packet".to_owned()),
            Ok(parsed) => Ok(parsed),
            Err(panic) => Err(said(&*panic)),
        }
    }
}

fn said(panic: &dyn Any) -> String {
    let said = PANIC.with_borrow_mut(std::mem::take);
    match panic.downcast_ref::<&str>() {
        _ if !said.is_empty() => said,
        Some(text) => (*text).to_owned(),
        None => "a panic".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_behind_the_end_is_noticed_each_time() {
        let mut room = Room::new();
        for _ in 0..3 {
            let range = room.write(&[1, 2, 3], 0);
            // SAFETY: the range was written; the byte behind it is on the guard page, whose fault the handler answers.
            let (last, behind) = unsafe {
                let end = ptr::with_exposed_provenance::<u8>(range.end as usize);
                (
                    end.sub(1).read_volatile(),
                    !room.was_touched() && end.read_volatile() == 0,
                )
            };
            assert!(last == 3 && behind);
            assert!(room.was_touched() && !room.was_touched());
        }
    }
}
