//! The report's way to its file: off the task that owns the dataplane, and at most once a second. A large report takes
//! long to write, and nobody reads that often.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::dataplane::state_file::write_by_rename;
use crate::report::AgentReport;

/// From one write to the next.
const PAUSE: Duration = Duration::from_secs(1);

/// The task that writes.
#[derive(Debug)]
pub(super) struct ReportFile {
    task: JoinHandle<()>,
    hurry: CancellationToken,
}

impl ReportFile {
    /// Writes `reports` to `path` as they come: the first at once, and the last in any case.
    pub(super) fn follow(path: PathBuf, reports: watch::Receiver<Arc<AgentReport>>) -> Self {
        let hurry = CancellationToken::new();
        let task = tokio::spawn(write_all(path, reports, hurry.clone()));
        Self { task, hurry }
    }

    /// Waits until the last report is written; its sender must be gone.
    pub(super) async fn finish(self) {
        self.hurry.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the last report is not written");
        }
    }
}

async fn write_all(path: PathBuf, mut reports: watch::Receiver<Arc<AgentReport>>, hurry: CancellationToken) {
    // Without a sender, `changed` fails only when the last value was seen.
    while reports.changed().await.is_ok() {
        let (report, target) = (Arc::clone(&reports.borrow_and_update()), path.clone());
        let written = tokio::task::spawn_blocking(move || {
            let text = serde_json::to_vec(&*report).map_err(std::io::Error::other)?;
            write_by_rename(&target, &text)
        });
        match written.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(file = %path.display(), %error, "report not written"),
            Err(error) => tracing::error!(file = %path.display(), %error, "report not written"),
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = hurry.cancelled() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(epoch: u32) -> Arc<AgentReport> {
        Arc::new(AgentReport {
            epoch,
            ..AgentReport::default()
        })
    }

    fn written(path: &std::path::Path) -> Option<u32> {
        let text = std::fs::read(path).ok()?;
        Some(serde_json::from_slice::<AgentReport>(&text).unwrap().epoch)
    }

    #[tokio::test]
    async fn the_first_report_is_written_at_once_and_the_last_in_any_case() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.json");
        let (sender, receiver) = watch::channel(Arc::default());
        let file = ReportFile::follow(path.clone(), receiver);
        sender.send_replace(report(1));
        tokio::time::timeout(Duration::from_secs(10), async {
            while written(&path).is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap();
        assert_eq!(written(&path), Some(1));
        for epoch in 2..100 {
            sender.send_replace(report(epoch));
        }
        drop(sender);
        file.finish().await;
        assert_eq!(written(&path), Some(99));
    }

    #[tokio::test]
    async fn reports_in_quick_succession_are_few_writes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.json");
        let (sender, receiver) = watch::channel(Arc::default());
        let file = ReportFile::follow(path.clone(), receiver);
        let mut seen = std::collections::BTreeSet::new();
        let started = std::time::Instant::now();
        for epoch in 1..=100 {
            sender.send_replace(report(epoch));
            tokio::time::sleep(Duration::from_millis(10)).await;
            seen.extend(written(&path));
        }
        drop(sender);
        file.finish().await;
        assert_eq!(written(&path), Some(100));
        let pauses = started.elapsed().as_secs() / PAUSE.as_secs();
        assert!(seen.len() as u64 <= pauses + 2, "{seen:?} in {pauses} pauses");
    }
}
