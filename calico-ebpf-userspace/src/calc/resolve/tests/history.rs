//! Lists of states of the datastore: only the last one counts.

mod states;

use super::*;
use crate::calc::calculation::Calculation;
use crate::model::resource::{Changes, changes_between};

/// The incremental calculation, and what it was told so far.
struct Feed {
    snapshot: Snapshot,
    calculation: Calculation,
}

impl Feed {
    fn new() -> Self {
        Self {
            snapshot: Snapshot::new(),
            calculation: Calculation::new(options()),
        }
    }

    fn put(&mut self, key: &ResourceKey, resource: &Arc<Resource>) {
        self.snapshot.insert(key.clone(), Arc::clone(resource));
        let change = (key.clone(), Some(Arc::clone(resource)));
        self.calculation.apply(&Changes::from([change]));
    }

    fn remove(&mut self, key: &ResourceKey) {
        self.snapshot.remove(key);
        self.calculation.apply(&Changes::from([(key.clone(), None)]));
    }

    /// Returns what is calculated; the plain calculation must say the same.
    fn result(&mut self) -> Arc<EffectiveState> {
        let state = self.calculation.state();
        assert_eq!(*state, resolve(&self.snapshot, &options()));
        state
    }

    /// Changes one object at a time until the state is `target`; asks after each change.
    fn walk_to(&mut self, target: &Snapshot, backwards: bool) {
        let gone: Vec<ResourceKey> = self
            .snapshot
            .keys()
            .filter(|key| !target.contains_key(*key))
            .cloned()
            .collect();
        let mut changed: Vec<(&ResourceKey, &Arc<Resource>)> = target
            .iter()
            .filter(|(key, resource)| self.snapshot.get(*key) != Some(*resource))
            .collect();
        if backwards {
            changed.reverse();
        }
        for (key, resource) in changed {
            self.put(key, resource);
            self.result();
        }
        for key in gone {
            self.remove(&key);
            self.result();
        }
    }

    /// Changes everything before it asks.
    fn jump_to(&mut self, target: &Snapshot) {
        self.calculation.apply(&changes_between(&self.snapshot, target));
        self.snapshot.clone_from(target);
    }
}

/// Runs the states forwards, backwards, one object at a time, and with nothing in between: each must end in the same
/// result as if it were the first.
fn assert_history_does_not_matter(states: &[Vec<Value>]) {
    let states: Vec<Snapshot> = states.iter().map(|objects| snapshot(objects)).collect();
    let expected: Vec<EffectiveState> = states.iter().map(|state| resolve(state, &options())).collect();
    let forwards: Vec<usize> = (0..states.len()).collect();
    let backwards: Vec<usize> = forwards.iter().rev().copied().collect();
    let empty = Snapshot::new();
    for order in [&forwards, &backwards] {
        for with_empties in [false, true] {
            let (mut jumping, mut walking, mut walking_back) = (Feed::new(), Feed::new(), Feed::new());
            for index in order {
                jumping.jump_to(&states[*index]);
                walking.walk_to(&states[*index], false);
                walking_back.walk_to(&states[*index], true);
                for feed in [&mut jumping, &mut walking, &mut walking_back] {
                    assert_eq!(*feed.result(), expected[*index], "state {index}");
                    if with_empties {
                        feed.walk_to(&empty, true);
                        assert_eq!(*feed.result(), EffectiveState::default());
                    }
                }
            }
        }
    }
}

#[test]
fn history_does_not_matter() {
    let a = || endpoint("a", &["10.0.0.1/32", "fd00::1/128"]);
    let b = || endpoint("b", &["10.0.0.2/32"]);
    let remote = || endpoint_on("compute-2", "c", &["10.0.0.3/32"]);
    let open = || policy("open", json!({"ingress": allow_from("role == 'c'"), "order": 10}));
    let closed = || {
        policy(
            "closed",
            json!({"ingress": [{"action": "Deny"}], "order": 5, "tier": "first"}),
        )
    };
    let tier = |order: u32| global("Tier", "first", json!({"order": order, "defaultAction": "Pass"}));
    let profile = || {
        global(
            "Profile",
            "p",
            json!({"labelsToApply": {"role": "x", "extra": "c"}}),
        )
    };
    assert_history_does_not_matter(&[
        vec![a()],
        vec![a(), b(), remote(), open()],
        vec![
            a(),
            with(b(), "profiles", json!(["p"])),
            remote(),
            open(),
            closed(),
        ],
        vec![
            a(),
            with(b(), "profiles", json!(["p"])),
            profile(),
            closed(),
            tier(3),
        ],
        vec![
            labelled(a(), json!({"role": "c"})),
            with(b(), "interfaceName", json!("tapa")),
            open(),
            tier(9),
        ],
        vec![],
        vec![endpoint("a", &["10.0.0.9/32"]), open()],
    ]);
}
