//! Loaded programs, handed from one test to the next in the same process: an emulated machine verifies them for seconds.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::{Mutex, PoisonError};
use std::thread;

use aya::Ebpf;
use aya::maps::{Array, HashMap, PerCpuArray, PerCpuValues};
use aya::programs::SchedClassifier;
use aya::util::nr_cpus;
use calico_ebpf_common::event::Budget;
use calico_ebpf_common::flow::{Flow, FlowKey4, FlowKey6};
use calico_ebpf_common::maps::{self, Counter};
use calico_ebpf_common::quota::{FlowLimits, Quota};
use calico_ebpf_common::tombstone::Tombstone;
use calico_ebpf_userspace::dataplane::flows::FlowKey;
use calico_ebpf_userspace::dataplane::policy_map::PolicyMap;

use super::object::{fill_unsettled, load_object, map_data};

/// What decides whether loaded programs can be used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Variant {
    pub(super) settings: BTreeMap<String, u32>,
    pub(super) flows: u32,
    /// Lines of the policy table.
    pub(super) lines: u32,
}

/// Programs and maps of one variant.
#[derive(Debug)]
pub(super) struct Loaded {
    variant: Variant,
    pub(super) object: Ebpf,
    pub(super) policy: PolicyMap,
}

/// What a table is full at is the table's size.
const NO_LIMITS: FlowLimits = FlowLimits {
    half_open: u32::MAX,
    confirmed: u32::MAX,
};

/// Gives the kernel every program, on all processors at once: it verifies each for a second or more in an emulated
/// machine.
fn verify_all(object: &mut Ebpf) {
    let waiting: Vec<_> = object.programs_mut().collect();
    let waiting = Mutex::new(waiting);
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(|| {
                while let Some((name, program)) = next() {
                    let program: &mut SchedClassifier =
                        program.try_into().expect("every program is a classifier");
                    program
                        .load()
                        .unwrap_or_else(|error| panic!("the kernel refuses {name}: {error}"));
                }
            });
        }
    });
}

static AT_REST: Mutex<Vec<Loaded>> = Mutex::new(Vec::new());

impl Loaded {
    /// Returns programs of a variant whose maps are as if nothing had been run.
    pub(super) fn take(variant: Variant) -> Self {
        let at_rest = {
            let mut at_rest = AT_REST.lock().unwrap_or_else(PoisonError::into_inner);
            let found = at_rest.iter().position(|loaded| loaded.variant == variant);
            found.map(|place| at_rest.swap_remove(place))
        };
        at_rest.map_or_else(|| Self::load(variant), Self::reset)
    }

    fn load(variant: Variant) -> Self {
        let mut object = load_object(&variant);
        verify_all(&mut object);
        fill_unsettled(&mut object);
        let data = |name| map_data(&object, name);
        let policy = PolicyMap::map(data(maps::POLICY), data(maps::ACTIVE), variant.lines)
            .expect("map the policy table");
        let mut loaded = Self {
            variant,
            object,
            policy,
        };
        loaded.set_limits(NO_LIMITS);
        loaded
    }

    /// Keeps the programs for the next test.
    pub(super) fn give_back(self) {
        AT_REST.lock().unwrap_or_else(PoisonError::into_inner).push(self);
    }

    fn reset(mut self) -> Self {
        self.clear_flows();
        self.set_limits(NO_LIMITS);
        let active = self.object.map_mut(maps::ACTIVE).expect("a map");
        let mut active = Array::<_, u64>::try_from(active).expect("an array");
        active.set(0, 0, 0).expect("no table is in force");
        let counters = self.object.map_mut(maps::COUNTERS).expect("a map");
        let mut counters = PerCpuArray::<_, Counter>::try_from(counters).expect("a per-CPU array");
        let cpus = nr_cpus().expect("processors");
        for index in 0..maps::COUNTER_ENTRIES {
            let zeros =
                PerCpuValues::try_from(vec![Counter::default(); cpus]).expect("one for each processor");
            counters.set(index, zeros, 0).expect("zero a counter");
        }
        self.watch_until(0);
        let budgets = self.object.map_mut(maps::BUDGETS).expect("a map");
        let mut budgets = Array::<_, Budget>::try_from(budgets).expect("an array");
        for slot in 0..64 {
            budgets
                .set(slot, Budget::default(), 0)
                .expect("begin a budget anew");
        }
        let announced = self.object.map_mut(maps::ANNOUNCED).expect("a map");
        let mut announced = Array::<_, u64>::try_from(announced).expect("an array");
        for slot in 0..64 {
            announced.set(slot, 0, 0).expect("forget an announcement");
        }
        let tombstones = self.object.map_mut(maps::TOMBSTONES).expect("a map");
        let mut tombstones = Array::<_, Tombstone>::try_from(tombstones).expect("an array");
        for slot in 0..64 {
            tombstones
                .set(slot, Tombstone::default(), 0)
                .expect("clear a tombstone");
        }
        let answers = self.object.map_mut(maps::ANSWERS).expect("a map");
        let mut answers = Array::<_, u64>::try_from(answers).expect("an array");
        for slot in 0..64 {
            answers.set(slot, 0, 0).expect("forget answers");
        }
        self
    }

    /// Has the programs write events until then, by the monotonic clock.
    pub(super) fn watch_until(&mut self, nanoseconds: u64) {
        let watched = self.object.map_mut(maps::WATCHED).expect("a map");
        let mut watched = Array::<_, u64>::try_from(watched).expect("an array");
        watched.set(0, nanoseconds, 0).expect("set the deadline");
    }

    /// Forgets all flows.
    pub(super) fn clear_flows(&mut self) {
        self.clear::<FlowKey4>();
        self.clear::<FlowKey6>();
        let quotas = self.object.map_mut(maps::QUOTAS).expect("a map");
        let mut quotas = Array::<_, Quota>::try_from(quotas).expect("an array");
        for slot in 0..64 {
            quotas.set(slot, Quota::default(), 0).expect("forget a quota");
        }
    }

    fn clear<K: FlowKey>(&mut self) {
        for name in K::MAPS {
            let map = self.object.map_mut(name).expect("a map");
            let mut map = HashMap::<_, K, Flow>::try_from(map).expect("a hash map");
            let keys: Vec<K> = map.keys().map(|key| key.expect("a key")).collect();
            for key in &keys {
                map.remove(key).expect("nobody else deletes");
            }
        }
    }

    /// Sets how many flows each endpoint may have.
    pub(super) fn set_limits(&mut self, limits: FlowLimits) {
        let map = self.object.map_mut(maps::LIMITS).expect("a map");
        let mut map = Array::<_, FlowLimits>::try_from(map).expect("an array");
        map.set(0, limits, 0).expect("set the limits");
    }
}
