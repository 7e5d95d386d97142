//! One case: a world, and a sequence of changes, with everything compared after each.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use calico_ebpf_tests::programs::Hooks;
use calico_ebpf_userspace::calc::effective::{EffectiveState, MemberChanges};
use calico_ebpf_userspace::compile::generate::{Case, Random};

use ipnet::IpNet;

use crate::coverage::Coverage;
use crate::follow::{Engine, Follow, NoTable, Way};
use crate::kernel;
use crate::panics;
use crate::probe::Probe;
use crate::world::World;

/// Changes of a case.
pub(crate) const STEPS: usize = 16;
/// Packets after each change.
const PROBES: usize = 40;

/// What did not agree.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// 0 is the world as it began.
    pub(crate) step: usize,
    pub(crate) what: String,
    pub(crate) probe: Option<Box<Probe>>,
    pub(crate) engine: Engine,
    /// What was to be enforced.
    pub(crate) case: Option<Case>,
}

/// Runs a case without the changes in `left_out`. A panic is a failure, too.
///
/// # Errors
/// Reference, tables and kernel do not agree.
pub(crate) fn run(
    seed: u64,
    left_out: &BTreeSet<usize>,
    mut hooks: Option<&mut Hooks>,
    coverage: &mut Coverage,
) -> Result<(), Box<Failure>> {
    let engine = Random::new(seed ^ 0x0e61).pick(&Engine::ALL);
    let mut history = History {
        seed,
        engine,
        step: 0,
        coverage,
        case: None,
    };
    let ran = catch_unwind(AssertUnwindSafe(|| history.run(left_out, hooks.as_deref_mut())));
    let (what, probe) = match ran {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(found)) => found,
        Err(_) => (panics::last(), None),
    };
    Err(Box::new(Failure {
        step: history.step,
        what,
        probe,
        engine,
        case: history.case,
    }))
}

type Found = (String, Option<Box<Probe>>);

fn with_probe((what, probe): (String, Box<Probe>)) -> Found {
    (what, Some(probe))
}

fn without_probe(what: String) -> Found {
    (what, None)
}

struct History<'a> {
    seed: u64,
    engine: Engine,
    step: usize,
    coverage: &'a mut Coverage,
    case: Option<Case>,
}

impl History<'_> {
    /// Randomness of a step, whichever others are left out.
    fn random(&self, purpose: u64) -> Random {
        let step = u64::try_from(self.step).unwrap_or(0);
        let mixed = self.seed ^ (step * 4 + purpose).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Random::new(mixed)
    }

    fn run(&mut self, left_out: &BTreeSet<usize>, mut hooks: Option<&mut Hooks>) -> Result<(), Found> {
        let mut world = World::random(&mut self.random(0));
        self.coverage.cases += 1;
        self.coverage.hit(self.engine.name());
        self.coverage.hit(if world.is_of_objects() {
            "origin: objects with labels"
        } else {
            "origin: generator of policies"
        });
        self.case = Some(world.case.clone());
        let follow = Follow::begin(self.engine, world.state(), &world.case.host, hooks.as_deref_mut());
        let mut follow = match follow {
            Ok(follow) => follow,
            Err(why) => return self.without_table(why),
        };
        self.check(&follow, &world.case, hooks.as_deref_mut())?;
        for step in (1..=STEPS).filter(|step| !left_out.contains(step)) {
            self.step = step;
            self.coverage.steps += 1;
            let flows = match hooks.as_deref_mut() {
                Some(hooks) => {
                    kernel::open_flows(hooks, &world.case, &mut self.random(1)).map_err(with_probe)?
                }
                None => Vec::new(),
            };
            let what = world.change(&mut self.random(0)).map_err(without_probe)?;
            self.coverage.change(what);
            self.case = Some(world.case.clone());
            if let Some(why) = self.follow(&mut follow, &world, hooks.as_deref_mut())? {
                return self.without_table(why);
            }
            if let Some(hooks) = hooks.as_deref_mut() {
                kernel::check_flows(hooks, &world.case, flows, self.coverage).map_err(with_probe)?;
            }
            self.check(&follow, &world.case, hooks.as_deref_mut())?;
        }
        Ok(())
    }

    /// A table without room ends the case: the agent would keep the last one.
    fn without_table(&mut self, why: NoTable) -> Result<(), Found> {
        match why {
            NoTable::TooLarge => {
                self.coverage.hit("table: too large");
                Ok(())
            }
            NoTable::Error(what) => Err(without_probe(what)),
        }
    }

    /// Makes the table follow, and looks at what it says on the way.
    fn follow(
        &mut self,
        follow: &mut Follow,
        world: &World,
        mut hooks: Option<&mut Hooks>,
    ) -> Result<Option<NoTable>, Found> {
        let before = Arc::clone(&follow.state);
        let desired = world.state();
        let mut random = self.random(2);
        let moved = moved(&before, &desired);
        let mut about_moved = world.case.clone();
        about_moved.addresses.clone_from(&moved);
        let probes: Vec<Probe> = (0..PROBES)
            .filter_map(|number| {
                let is_about_moved = number % 2 == 0 && !moved.is_empty();
                let case = if is_about_moved { &about_moved } else { &world.case };
                Probe::random(case, &mut random)
            })
            .collect();
        let way = follow.plan(&desired);
        self.coverage.way(&way);
        match way {
            Way::Amended(amendment, _) => {
                follow.overwrite(&amendment.prepare, hooks.as_deref_mut());
                check_all(follow, &before, &probes).map_err(prefixed("prepared, not switched yet"))?;
                follow.overwrite(&amendment.switch, hooks.as_deref_mut());
                for probe in changed(&probes, &before, &desired) {
                    let slots = &follow.assignments.slots;
                    let ends = [&probe.source, &probe.target].into_iter().flatten();
                    if !ends.clone().any(|key| amendment.touched.contains(&slots[key])) {
                        let what = "the verdict changes, and nobody's flows are judged again".to_owned();
                        return Err((what, Some(Box::new(probe.clone()))));
                    }
                    self.coverage.hit("flows: judged again after an amendment");
                }
                follow
                    .amended(desired, &amendment.touched, hooks)
                    .map_err(without_probe)?;
            }
            Way::Rebuilt(_) => {
                let generations = follow.assignments.generations.clone();
                let after = Arc::clone(&desired);
                if let Err(why) = follow.rebuild(desired, &world.case.host, hooks) {
                    return Ok(Some(why));
                }
                for probe in changed(&probes, &before, &after) {
                    let ends = [&probe.source, &probe.target].into_iter().flatten();
                    let now = &follow.assignments.generations;
                    if ends.clone().all(|key| generations.get(key) == now.get(key)) {
                        let what = "the verdict changes, the generations do not".to_owned();
                        return Err((what, Some(Box::new(probe.clone()))));
                    }
                    self.coverage.hit("flows: judged again after a new version");
                }
            }
        }
        Ok(None)
    }

    fn check(&mut self, follow: &Follow, case: &Case, hooks: Option<&mut Hooks>) -> Result<(), Found> {
        let mut random = self.random(3);
        for _ in 0..PROBES {
            let Some(probe) = Probe::random(case, &mut random) else {
                continue;
            };
            let judged = probe.check(follow, &case.state);
            let judged = judged.map_err(|what| (what, Some(Box::new(probe.clone()))))?;
            self.coverage.judged(&probe, &judged, &case.state);
        }
        if let Some(hooks) = hooks {
            kernel::check(hooks, case, &mut random, self.coverage).map_err(with_probe)?;
        }
        Ok(())
    }
}

fn check_all(follow: &Follow, state: &EffectiveState, probes: &[Probe]) -> Result<(), Found> {
    for probe in probes {
        let judged = probe.check(follow, state);
        judged.map_err(|what| (what, Some(Box::new(probe.clone()))))?;
    }
    Ok(())
}

fn prefixed(when: &'static str) -> impl Fn(Found) -> Found {
    move |(what, probe)| (format!("{when}: {what}"), probe)
}

/// Returns the single addresses that came into a set or left one.
fn moved(before: &EffectiveState, now: &EffectiveState) -> Vec<IpAddr> {
    let mut moved = BTreeSet::new();
    for (set, members) in &now.sets {
        if let Some(others) = before.sets.get(set) {
            let MemberChanges { came, gone } = members.changes_since(others);
            moved.extend(came.iter().chain(&gone).map(IpNet::addr));
        }
    }
    moved.into_iter().collect()
}

/// Returns the packets of which the states say different things.
fn changed<'a>(
    probes: &'a [Probe],
    before: &'a EffectiveState,
    now: &'a EffectiveState,
) -> impl Iterator<Item = &'a Probe> {
    probes.iter().filter(move |probe| {
        probe.is_possible
            && probe.is_about(before)
            && probe.is_about(now)
            && probe.expected(before).allow != probe.expected(now).allow
    })
}
