//! Panics are findings: what one says is kept instead of printed.

use std::cell::RefCell;
use std::panic;

thread_local! {
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps what panics say from now on.
pub(crate) fn keep() {
    panic::set_hook(Box::new(|info| {
        LAST.with_borrow_mut(|last| *last = info.to_string());
    }));
}

/// Returns what the last panic of this thread said.
pub(crate) fn last() -> String {
    LAST.with_borrow(Clone::clone)
}
