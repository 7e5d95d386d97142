//! What etcd should say of each endpoint, what it says, and what is to be written (contract 2).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::keys::{EndpointId, StatusKeys};

/// Everything is listed again after so many delays.
const DELAYS_BETWEEN_LISTS: u32 = 180;
/// The same without a delay.
const LIST_INTERVAL: Duration = Duration::from_mins(3);

/// What is known of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointState {
    /// Policy is in force, the tap is there and up, its settings are written.
    Up,
    Down,
    /// Nobody has looked yet: what etcd says stays.
    Unknown,
}

/// The endpoints of this host. One that is not among them has no key.
pub type EndpointStates = BTreeMap<EndpointId, EndpointState>;

/// One change of etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Write {
    Put { key: String, value: &'static str },
    Delete { key: String },
}

impl Write {
    fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// The status keys of this host's endpoints.
#[derive(Clone, Debug, Default)]
pub(super) struct EndpointKeys {
    /// Value of each key; `None`: as it is. Nothing is written before this is known.
    wanted: Option<BTreeMap<String, Option<&'static str>>>,
    /// What etcd has; `None` until it was listed, and after a failure.
    known: Option<BTreeMap<String, String>>,
    listed_at: Option<Instant>,
    /// When a key was last written, for the keys written within the last delay.
    written_at: BTreeMap<String, Instant>,
}

impl EndpointKeys {
    /// Takes the endpoints' states.
    pub(super) fn want(&mut self, keys: &StatusKeys, states: &EndpointStates) {
        let wanted = states.iter().map(|(id, state)| {
            let value = match state {
                EndpointState::Up => Some(r#"{"status":"up"}"#),
                EndpointState::Down => Some(r#"{"status":"down"}"#),
                EndpointState::Unknown => None,
            };
            (keys.endpoint(id), value)
        });
        self.wanted = Some(wanted.collect());
    }

    /// Returns when the keys are to be listed: at once when they are not known, else each 180 delays.
    pub(super) fn list_at(&self, now: Instant, delay: Duration) -> Option<Instant> {
        self.wanted.as_ref()?;
        match (&self.known, self.listed_at) {
            (Some(_), Some(listed)) if delay.is_zero() => Some(listed + LIST_INTERVAL),
            (Some(_), Some(listed)) => Some(listed + delay * DELAYS_BETWEEN_LISTS),
            _ => Some(now),
        }
    }

    /// Takes what etcd has under [`StatusKeys::endpoints`].
    pub(super) fn note_listed(&mut self, found: BTreeMap<String, String>, now: Instant) {
        self.known = Some(found);
        self.listed_at = Some(now);
    }

    /// Notes that nobody knows what etcd has now.
    pub(super) fn forget(&mut self) {
        self.known = None;
    }

    /// Returns what is to be written now. A key that was written less than `delay` ago waits.
    pub(super) fn due(&self, now: Instant, delay: Duration) -> Vec<Write> {
        let is_due = |write: &Write| {
            self.may_be_written_at(write.key(), delay)
                .is_none_or(|at| at <= now)
        };
        self.differences().filter(is_due).collect()
    }

    /// Returns when the next key may be written; `None` when all have what they should.
    pub(super) fn next_at(&self, now: Instant, delay: Duration) -> Option<Instant> {
        self.differences()
            .map(|write| self.may_be_written_at(write.key(), delay).unwrap_or(now))
            .min()
    }

    /// Notes that `writes` were made.
    pub(super) fn note_written(&mut self, writes: &[Write], now: Instant, delay: Duration) {
        self.written_at.retain(|_, at| *at + delay > now);
        for write in writes {
            self.written_at.insert(write.key().to_owned(), now);
            if let Some(known) = &mut self.known {
                match write {
                    Write::Put { key, value } => known.insert(key.clone(), (*value).to_owned()),
                    Write::Delete { key } => known.remove(key),
                };
            }
        }
    }

    /// Returns how many keys have what they should, and how many are to be written or removed. Before they were listed
    /// nobody knows, and all count as the latter.
    pub(super) fn counts(&self) -> (u64, u64) {
        let wanted = self.wanted.iter().flatten().filter(|(_, value)| value.is_some());
        let wanted = wanted.count();
        if self.known.is_none() {
            return (0, wanted as u64);
        }
        let puts = self
            .differences()
            .filter(|write| matches!(write, Write::Put { .. }));
        let right = wanted.saturating_sub(puts.count());
        (right as u64, self.differences().count() as u64)
    }

    fn may_be_written_at(&self, key: &str, delay: Duration) -> Option<Instant> {
        self.written_at.get(key).map(|at| *at + delay)
    }

    fn differences(&self) -> impl Iterator<Item = Write> {
        let both = self.wanted.as_ref().zip(self.known.as_ref());
        both.into_iter().flat_map(|(wanted, known)| {
            let puts = wanted.iter().filter_map(|(key, value)| {
                let value = (*value)?;
                let is_right = known.get(key).is_some_and(|found| found == value);
                (!is_right).then(|| Write::Put {
                    key: key.clone(),
                    value,
                })
            });
            let stale = known.keys().filter(|key| !wanted.contains_key(*key));
            puts.chain(stale.map(|key| Write::Delete { key: key.clone() }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_secs(1);
    const UP: &str = r#"{"status":"up"}"#;
    const DOWN: &str = r#"{"status":"down"}"#;

    fn id(name: &str) -> EndpointId {
        EndpointId {
            orchestrator: "openstack".to_owned(),
            namespace: "openstack".to_owned(),
            workload: format!("vm-{name}"),
            endpoint: name.to_owned(),
        }
    }

    fn keys() -> StatusKeys {
        StatusKeys::new(None, "h")
    }

    fn key(name: &str) -> String {
        keys().endpoint(&id(name))
    }

    fn put(name: &str, value: &'static str) -> Write {
        Write::Put {
            key: key(name),
            value,
        }
    }

    fn delete(name: &str) -> Write {
        Write::Delete { key: key(name) }
    }

    fn found(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| (key(name), (*value).to_owned()))
            .collect()
    }

    fn states(pairs: &[(&str, EndpointState)]) -> EndpointStates {
        pairs.iter().map(|(name, state)| (id(name), *state)).collect()
    }

    /// Writes what is due and returns it.
    fn write(board: &mut EndpointKeys, now: Instant) -> Vec<Write> {
        let writes = board.due(now, DELAY);
        board.note_written(&writes, now, DELAY);
        writes
    }

    #[test]
    fn nothing_is_written_before_the_endpoints_and_etcd_are_known() {
        let now = Instant::now();
        let mut board = EndpointKeys::default();
        assert_eq!(
            (board.list_at(now, DELAY), board.next_at(now, DELAY)),
            (None, None)
        );
        board.want(&keys(), &states(&[("a", EndpointState::Up)]));
        assert_eq!(board.list_at(now, DELAY), Some(now));
        assert_eq!(board.due(now, DELAY), []);
        assert_eq!(board.counts(), (0, 1));
    }

    #[test]
    fn at_the_start_stale_keys_are_corrected_and_right_ones_left_alone() {
        let now = Instant::now();
        let mut board = EndpointKeys::default();
        let wanted = [
            ("down", EndpointState::Down),
            ("new", EndpointState::Up),
            ("right", EndpointState::Up),
            ("unseen", EndpointState::Unknown),
            ("unseen-new", EndpointState::Unknown),
        ];
        board.want(&keys(), &states(&wanted));
        board.note_listed(
            found(&[("down", UP), ("gone", UP), ("right", UP), ("unseen", UP)]),
            now,
        );
        assert_eq!(board.counts(), (1, 3));
        assert_eq!(
            write(&mut board, now),
            [put("down", DOWN), put("new", UP), delete("gone")]
        );
        assert_eq!(board.counts(), (3, 0));
        assert_eq!(board.next_at(now, DELAY), None);
    }

    #[test]
    fn the_first_change_goes_out_at_once_and_later_ones_of_the_same_key_coalesce() {
        let start = Instant::now();
        let mut board = EndpointKeys::default();
        board.note_listed(BTreeMap::new(), start);
        board.want(&keys(), &states(&[("a", EndpointState::Up)]));
        assert_eq!(write(&mut board, start), [put("a", UP)]);
        let soon = start + DELAY / 4;
        board.want(
            &keys(),
            &states(&[("a", EndpointState::Down), ("b", EndpointState::Up)]),
        );
        assert_eq!(write(&mut board, soon), [put("b", UP)], "b has not waited for a");
        assert_eq!(board.next_at(soon, DELAY), Some(start + DELAY));
        board.want(
            &keys(),
            &states(&[("a", EndpointState::Up), ("b", EndpointState::Up)]),
        );
        assert_eq!(board.next_at(soon, DELAY), None, "back again: nothing to write");
        board.want(&keys(), &states(&[("b", EndpointState::Up)]));
        assert_eq!(write(&mut board, start + DELAY), [delete("a")]);
    }

    #[test]
    fn after_a_failure_the_keys_are_listed_again_before_anything_is_written() {
        let start = Instant::now();
        let mut board = EndpointKeys::default();
        board.want(&keys(), &states(&[("a", EndpointState::Up)]));
        board.note_listed(BTreeMap::new(), start);
        write(&mut board, start);
        board.forget();
        let later = start + 10 * DELAY;
        assert_eq!(board.list_at(later, DELAY), Some(later));
        assert_eq!(board.due(later, DELAY), []);
        board.note_listed(found(&[("stranger", UP)]), later);
        assert_eq!(write(&mut board, later), [put("a", UP), delete("stranger")]);
    }

    #[test]
    fn everything_is_listed_again_after_180_delays() {
        let start = Instant::now();
        let mut board = EndpointKeys::default();
        board.want(&keys(), &EndpointStates::new());
        board.note_listed(BTreeMap::new(), start);
        assert_eq!(board.list_at(start, DELAY), Some(start + Duration::from_mins(3)));
        assert_eq!(
            board.list_at(start, Duration::ZERO),
            Some(start + Duration::from_mins(3))
        );
    }
}
