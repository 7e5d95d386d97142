use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::model::resource::apply_changes;

/// Far more than a change may take, so that a busy machine does not fail the test.
const LIMIT: Duration = Duration::from_secs(20);

/// What the feed has told so far.
struct Follower {
    feed: Feed,
    view: View,
    _stop: DropGuard,
}

fn follow(dir: &Path) -> Follower {
    let stop = CancellationToken::new();
    Follower {
        feed: watch_directory(dir.to_owned(), stop.clone()),
        view: View {
            snapshot: Arc::default(),
            problems: Arc::default(),
            in_sync: false,
            state: State::Resync,
            revision: 0,
        },
        _stop: stop.drop_guard(),
    }
}

impl Follower {
    async fn wait_for(&mut self, what: &str, mut condition: impl FnMut(&View) -> bool) -> View {
        let followed = timeout(LIMIT, async {
            while !condition(&self.view) {
                let update = self.feed.next().await.expect("the directory is followed");
                apply_changes(Arc::make_mut(&mut self.view.snapshot), &update.changes);
                self.view.problems = update.problems;
                self.view.in_sync = update.status.in_sync;
                self.view.state = update.status.state;
                self.view.revision = update.status.revision;
            }
        });
        followed.await.unwrap_or_else(|_| panic!("never saw {what}"));
        self.view.clone()
    }
}

#[tokio::test]
async fn every_kind_of_change_is_seen() {
    let manifests = Manifests::new();
    manifests.write("a.yaml", tier("a", 1));
    let mut follower = follow(manifests.path());
    let view = follower.wait_for("the first read", |view| view.in_sync).await;
    assert_eq!(names(&view), ["a"]);

    manifests.write("a.yaml", tier("a", 2));
    follower
        .wait_for("a write", |view| order_of(view, "a") == Some(2.0))
        .await;
    manifests.write(".new", tier("a", 3));
    fs::rename(manifests.path().join(".new"), manifests.path().join("a.yaml")).unwrap();
    follower
        .wait_for("a file renamed over it", |view| order_of(view, "a") == Some(3.0))
        .await;
    manifests.write("b.yaml", tier("b", 1));
    follower
        .wait_for("a new file", |view| view.snapshot.len() == 2)
        .await;
    manifests.write("b.yaml", "{");
    let view = follower
        .wait_for("a syntax error", |view| !view.problems.is_empty())
        .await;
    assert_eq!(names(&view), ["a", "b"]);
    manifests.write("b.yaml", tier("b", 7));
    let view = follower
        .wait_for("the mended file", |view| order_of(view, "b") == Some(7.0))
        .await;
    assert_eq!(view.problems.len(), 0);
    fs::remove_file(manifests.path().join("b.yaml")).unwrap();
    follower
        .wait_for("a deleted file", |view| names(view) == ["a"])
        .await;
}

#[tokio::test]
async fn a_change_is_live_within_a_second() {
    let manifests = Manifests::new();
    let mut follower = follow(manifests.path());
    follower.wait_for("the first read", |view| view.in_sync).await;
    let mut fastest = LIMIT;
    for order in 1..=5 {
        let start = Instant::now();
        manifests.write("a.yaml", tier("a", order));
        follower
            .wait_for("a change", |view| order_of(view, "a") == Some(f64::from(order)))
            .await;
        fastest = fastest.min(start.elapsed());
    }
    assert!(
        fastest < Duration::from_millis(450),
        "{fastest:?}: inotify is not used"
    );
}

#[tokio::test]
async fn changes_that_inotify_does_not_see_are_found_by_their_time_stamps() {
    let manifests = Manifests::new();
    let elsewhere = Manifests::new();
    elsewhere.write("real", tier("a", 1));
    std::os::unix::fs::symlink(elsewhere.path().join("real"), manifests.path().join("a.yaml")).unwrap();
    let mut follower = follow(manifests.path());
    follower
        .wait_for("the first read", |view| order_of(view, "a") == Some(1.0))
        .await;
    elsewhere.write("real", tier("a", 2));
    follower
        .wait_for("a change behind a link", |view| order_of(view, "a") == Some(2.0))
        .await;
}

#[tokio::test]
async fn a_directory_may_come_late_vanish_and_come_back() {
    let manifests = Manifests::new();
    let dir = manifests.path().join("d");
    let mut follower = follow(&dir);
    let view = follower
        .wait_for("the missing directory", |view| view.state == State::Unreachable)
        .await;
    assert!(!view.in_sync);
    fs::create_dir(&dir).unwrap();
    follower
        .wait_for("the empty directory", |view| view.in_sync)
        .await;
    fs::write(dir.join("a.yaml"), tier("a", 1)).unwrap();
    follower
        .wait_for("its first file", |view| names(view) == ["a"])
        .await;

    fs::rename(&dir, manifests.path().join("elsewhere")).unwrap();
    let view = follower
        .wait_for("its loss", |view| view.state == State::Unreachable)
        .await;
    assert_eq!((names(&view), view.in_sync), (vec!["a"], true));

    fs::create_dir(manifests.path().join("new")).unwrap();
    fs::write(manifests.path().join("new/b.yaml"), tier("b", 1)).unwrap();
    fs::rename(manifests.path().join("new"), &dir).unwrap();
    follower
        .wait_for("its return", |view| {
            names(view) == ["b"] && view.state == State::InSync
        })
        .await;
    fs::write(dir.join("b.yaml"), tier("b", 2)).unwrap();
    follower
        .wait_for("a change in the new directory", |view| {
            order_of(view, "b") == Some(2.0)
        })
        .await;
}

#[tokio::test]
async fn a_burst_of_changes_ends_in_the_last_state() {
    let manifests = Manifests::new();
    let mut follower = follow(manifests.path());
    for order in 1..=200 {
        manifests.write("a.yaml", tier("a", order));
    }
    let view = follower
        .wait_for("the last write", |view| order_of(view, "a") == Some(200.0))
        .await;
    assert!(view.revision < 100, "{} reads", view.revision);
}

#[tokio::test]
async fn following_ends_when_told() {
    let manifests = Manifests::new();
    let stop = CancellationToken::new();
    let mut feed = watch_directory(manifests.path().to_owned(), stop.clone());
    let first = timeout(LIMIT, feed.next()).await.unwrap();
    assert!(first.is_some_and(|update| update.status.in_sync));
    stop.cancel();
    let ended = timeout(LIMIT, async { while feed.next().await.is_some() {} }).await;
    assert!(ended.is_ok());
}
