//! Passes what the programs log on to the agent's log.

use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::dataplane::apply::Dataplane;

/// Starts a task that reads the programs' log records.
pub(super) fn start(dataplane: &mut Dataplane) {
    let logger = match EbpfLogger::init(dataplane.programs_mut().object_mut()) {
        Ok(logger) => logger,
        Err(error) => {
            tracing::warn!(%error, "the programs' log cannot be read");
            return;
        }
    };
    // SAFETY: the logger keeps its ring buffer, whose descriptor it shows, open as long as it lives.
    let readable = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    let Ok(mut records) = readable else {
        tracing::warn!("the programs' log cannot be polled");
        return;
    };
    tokio::spawn(async move {
        while let Ok(mut guard) = records.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    });
}
