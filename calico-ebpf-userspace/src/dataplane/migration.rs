//! Live migrations to and from this host: when an endpoint's routes appear, and with which metric (contract 1.4).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::calc::effective::MigrationRole;
use crate::model::name::ResourceKey;

/// How far an endpoint's arrival is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// No migration, or the workload leaves.
    #[default]
    Settled,
    /// The workload is expected: policy is in force, but it runs elsewhere still, so this host has no routes to it.
    Expected,
    /// It has announced itself here: routes beat those of the host it came from.
    Arrived,
    /// The migration is over. Routes stay elevated until then, for the other hosts to follow.
    Converging { until: Instant },
}

impl Phase {
    /// Returns whether packets to the endpoint must go where routes of others lead.
    pub fn withholds_routes(self) -> bool {
        self == Self::Expected
    }

    /// Returns whether routes have the elevated metric.
    pub fn elevates_routes(self) -> bool {
        matches!(self, Self::Arrived | Self::Converging { .. })
    }

    /// Returns the phase in words, for the report; empty without a migration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Settled => "",
            Self::Expected => "expected",
            Self::Arrived => "arrived",
            Self::Converging { .. } => "converging",
        }
    }

    /// Returns the phase of an endpoint that an earlier run may have known: elevated routes say that its workload had
    /// arrived.
    fn resumed(role: Option<MigrationRole>, has_elevated_routes: bool, converged: Instant) -> Self {
        match role {
            Some(MigrationRole::Target) if has_elevated_routes => Self::Arrived,
            Some(MigrationRole::Target) => Self::Expected,
            None if has_elevated_routes => Self::Converging { until: converged },
            Some(MigrationRole::Source) | None => Self::Settled,
        }
    }

    fn next(
        self,
        role: Option<MigrationRole>,
        has_announced: bool,
        now: Instant,
        converged: Instant,
    ) -> Self {
        match (self, role) {
            (_, Some(MigrationRole::Source)) | (Self::Settled, None) => Self::Settled,
            (Self::Expected, Some(MigrationRole::Target)) if has_announced => Self::Arrived,
            // What a settled one announced may be older than the migration.
            (Self::Settled | Self::Expected, Some(MigrationRole::Target)) => Self::Expected,
            // A workload that runs here keeps its routes.
            (Self::Arrived | Self::Converging { .. }, Some(MigrationRole::Target)) => Self::Arrived,
            // An announcement that was missed ends with the migration, too.
            (Self::Expected | Self::Arrived, None) => Self::Converging { until: converged },
            (Self::Converging { until }, None) if until <= now => Self::Settled,
            (Self::Converging { until }, None) => Self::Converging { until },
        }
    }
}

/// What one look at the endpoints changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// Endpoints whose workload is expected from now on: what it announced before does not count.
    pub expected: Vec<ResourceKey>,
    /// Endpoints with another phase, and the phase.
    pub changed: Vec<(ResourceKey, Phase)>,
}

/// The phases of all endpoints of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Migrations {
    /// Only those that are not settled.
    phases: BTreeMap<ResourceKey, Phase>,
}

impl Migrations {
    /// Returns the phases in the middle of which an earlier run may have ended. `elevated` tells whether the kernel has
    /// routes to an endpoint with the elevated metric.
    pub fn resume<'a>(
        endpoints: impl IntoIterator<Item = (&'a ResourceKey, Option<MigrationRole>)>,
        elevated: impl Fn(&ResourceKey) -> bool,
        converged: Instant,
    ) -> Self {
        let phases = endpoints
            .into_iter()
            .map(|(key, role)| (key.clone(), Phase::resumed(role, elevated(key), converged)))
            .filter(|(_, phase)| *phase != Phase::Settled)
            .collect();
        Self { phases }
    }

    /// Goes on by what the datastore and the taps say now; endpoints that are gone are forgotten.
    pub fn follow<'a>(
        &mut self,
        endpoints: impl IntoIterator<Item = (&'a ResourceKey, Option<MigrationRole>)>,
        has_announced: impl Fn(&ResourceKey) -> bool,
        now: Instant,
        convergence: Duration,
    ) -> Moves {
        let mut moves = Moves::default();
        let mut phases = BTreeMap::new();
        for (key, role) in endpoints {
            let before = self.of(key);
            if before == Phase::Settled && role.is_none() {
                continue;
            }
            let announced = before == Phase::Expected && has_announced(key);
            let phase = before.next(role, announced, now, now + convergence);
            if phase != before {
                moves.changed.push((key.clone(), phase));
                if phase == Phase::Expected {
                    moves.expected.push(key.clone());
                }
            }
            if phase != Phase::Settled {
                phases.insert(key.clone(), phase);
            }
        }
        self.phases = phases;
        moves
    }

    /// Returns the phase of an endpoint.
    pub fn of(&self, key: &ResourceKey) -> Phase {
        self.phases.get(key).copied().unwrap_or_default()
    }

    /// Returns whether every endpoint is settled.
    pub fn is_empty(&self) -> bool {
        self.phases.is_empty()
    }

    /// Returns the endpoints whose workload has not arrived.
    pub fn expected(&self) -> impl Iterator<Item = &ResourceKey> {
        let expected = self.phases.iter().filter(|(_, phase)| phase.withholds_routes());
        expected.map(|(key, _)| key)
    }

    /// Returns when a phase ends by itself.
    pub fn next_end(&self) -> Option<Instant> {
        let ends = self.phases.values().filter_map(|phase| match phase {
            Phase::Converging { until } => Some(*until),
            Phase::Settled | Phase::Expected | Phase::Arrived => None,
        });
        ends.min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::Kind;

    const CONVERGENCE: Duration = Duration::from_secs(30);

    fn key() -> ResourceKey {
        ResourceKey {
            kind: Kind::WorkloadEndpoint,
            namespace: "openstack".to_owned(),
            name: "a".to_owned(),
        }
    }

    /// One endpoint over time.
    struct Story {
        migrations: Migrations,
        now: Instant,
    }

    impl Story {
        fn new() -> Self {
            Self {
                migrations: Migrations::default(),
                now: Instant::now(),
            }
        }

        fn step(&mut self, role: Option<MigrationRole>, announced: bool) -> Phase {
            let key = key();
            self.migrations
                .follow([(&key, role)], |_| announced, self.now, CONVERGENCE);
            self.migrations.of(&key)
        }

        fn converging(&self) -> Phase {
            Phase::Converging {
                until: self.now + CONVERGENCE,
            }
        }
    }

    const TARGET: Option<MigrationRole> = Some(MigrationRole::Target);
    const SOURCE: Option<MigrationRole> = Some(MigrationRole::Source);

    #[test]
    fn workload_is_expected_arrives_converges_and_settles() {
        let mut story = Story::new();
        assert_eq!(story.step(TARGET, false), Phase::Expected);
        assert_eq!(story.step(TARGET, false), Phase::Expected);
        assert_eq!(story.step(TARGET, true), Phase::Arrived);
        assert_eq!(story.step(TARGET, false), Phase::Arrived);
        let converging = story.converging();
        assert_eq!(story.step(None, false), converging);
        assert_eq!(story.migrations.next_end(), Some(story.now + CONVERGENCE));
        story.now += CONVERGENCE / 2;
        assert_eq!(story.step(None, false), converging);
        story.now += CONVERGENCE / 2;
        assert_eq!(story.step(None, false), Phase::Settled);
        assert_eq!(story.migrations, Migrations::default());
    }

    #[test]
    fn what_was_announced_before_the_migration_does_not_count() {
        let mut story = Story::new();
        assert_eq!(story.step(None, true), Phase::Settled);
        let key = key();
        let moves = story
            .migrations
            .follow([(&key, TARGET)], |_| true, story.now, CONVERGENCE);
        assert_eq!(moves.expected, [key]);
    }

    #[test]
    fn missed_announcement_ends_with_the_migration() {
        let mut story = Story::new();
        story.step(TARGET, false);
        let converging = story.converging();
        assert_eq!(story.step(None, false), converging);
        assert!(converging.elevates_routes());
    }

    #[test]
    fn workload_that_leaves_again_settles_at_once() {
        for steps in [&[TARGET][..], &[TARGET, TARGET], &[TARGET, TARGET, None]] {
            let mut story = Story::new();
            for role in steps {
                story.step(*role, true);
            }
            assert_eq!(story.step(SOURCE, true), Phase::Settled);
        }
    }

    #[test]
    fn migration_that_begins_anew_takes_no_routes_away() {
        let mut story = Story::new();
        for role in [TARGET, TARGET, None] {
            story.step(role, true);
        }
        assert_eq!(story.step(TARGET, false), Phase::Arrived);
    }

    #[test]
    fn endpoint_that_is_deleted_is_forgotten() {
        let mut story = Story::new();
        story.step(TARGET, false);
        story.migrations.follow([], |_| true, story.now, CONVERGENCE);
        assert_eq!(story.migrations, Migrations::default());
    }

    #[test]
    fn elevated_routes_of_an_earlier_run_say_that_the_workload_had_arrived() {
        let until = Instant::now();
        let key = key();
        let resumed = |role, elevated| Migrations::resume([(&key, role)], |_| elevated, until).of(&key);
        assert_eq!(resumed(TARGET, true), Phase::Arrived);
        assert_eq!(resumed(TARGET, false), Phase::Expected);
        assert_eq!(resumed(None, true), Phase::Converging { until });
        assert_eq!(resumed(None, false), Phase::Settled);
        assert_eq!(resumed(SOURCE, true), Phase::Settled);
    }
}
