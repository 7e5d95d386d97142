//! The policy table as the agent keeps it: amended where that is possible, else built anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use calico_ebpf_common::line::Line;
use calico_ebpf_tests::programs::Hooks;
use calico_ebpf_userspace::calc::effective::EffectiveState;
use calico_ebpf_userspace::compile::amend::{Amendable, Amendment, NotAmendable, Number, Write, generation};
use calico_ebpf_userspace::compile::input::{HostFacts, Limits, TableInput};
use calico_ebpf_userspace::compile::rule_ids::RuleIds;
use calico_ebpf_userspace::compile::table::{BuiltTable, TableError, build};
use calico_ebpf_userspace::dataplane::assignments::Assignments;

/// Lines of a half when no kernel says how many there are.
const HALF: u32 = 1 << 19;

/// What judges: the one place that says which limits a table is built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    /// Every combination of classes is judged beforehand.
    Cells,
    /// The rules are walked by bits.
    FallBack,
}

impl Engine {
    pub(crate) const ALL: [Self; 2] = [Self::Cells, Self::FallBack];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cells => "engine: cells",
            Self::FallBack => "engine: fall-back",
        }
    }

    pub(crate) fn build(self, input: &TableInput<'_>, ids: &mut RuleIds) -> Result<BuiltTable, TableError> {
        match self {
            Self::Cells => build(input, ids),
            Self::FallBack => build(
                &TableInput {
                    limits: Limits::FALL_BACK,
                    ..*input
                },
                ids,
            ),
        }
    }
}

/// How the table followed a change.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// The classes before and after.
    Amended(Amendment, [usize; 2]),
    Rebuilt(NotAmendable),
}

/// Why there is no new version.
#[derive(Clone, Debug)]
pub(crate) enum NoTable {
    /// It does not fit: the last one would stay in force.
    TooLarge,
    Error(String),
}

/// The version in force.
pub(crate) struct Follow {
    engine: Engine,
    pub(crate) state: Arc<EffectiveState>,
    host: HostFacts,
    pub(crate) assignments: Assignments,
    pub(crate) ids: RuleIds,
    pub(crate) lines: Vec<Line>,
    pub(crate) base_line: u32,
    endpoints: u32,
    amendable: Option<Amendable>,
    epoch: u32,
}

impl Follow {
    /// Puts a first version in force.
    pub(crate) fn begin(
        engine: Engine,
        state: Arc<EffectiveState>,
        host: &HostFacts,
        hooks: Option<&mut Hooks>,
    ) -> Result<Self, NoTable> {
        let mut follow = Self {
            engine,
            state: Arc::default(),
            host: HostFacts::default(),
            assignments: Assignments::default(),
            ids: RuleIds::new(),
            lines: Vec::new(),
            base_line: 0,
            endpoints: 0,
            amendable: None,
            epoch: 0,
        };
        follow.rebuild(state, host, hooks)?;
        Ok(follow)
    }

    /// Works out whether the version in force can be amended.
    pub(crate) fn plan(&mut self, desired: &EffectiveState) -> Way {
        let amendable = self.amendable.as_mut();
        let Some(amendable) = amendable else {
            return Way::Rebuilt(NotAmendable::OtherChanges);
        };
        let before = amendable.class_count();
        match amendable.amend(&self.state, desired) {
            Ok(amendment) => Way::Amended(amendment, [before, amendable.class_count()]),
            Err(why) => Way::Rebuilt(why),
        }
    }

    /// Writes numbers of the version in force.
    pub(crate) fn overwrite(&mut self, writes: &[Write], hooks: Option<&mut Hooks>) {
        for write in writes {
            let line = &mut self.lines[(write.line - self.base_line) as usize];
            match write.value {
                Number::Word(value) => line.words[write.index as usize] = value,
                Number::Half(value) => {
                    bytemuck::cast_mut::<_, [u16; 32]>(&mut line.words)[write.index as usize] = value;
                }
            }
        }
        if let Some(hooks) = hooks {
            hooks.overwrite(writes);
        }
    }

    /// Ends an amendment: endpoints that it touches get another generation.
    pub(crate) fn amended(
        &mut self,
        desired: Arc<EffectiveState>,
        touched: &BTreeSet<u16>,
        hooks: Option<&mut Hooks>,
    ) -> Result<(), String> {
        let renewed = self.assignments.renew(touched);
        let (next, owned) = renewed.map_err(|error| error.to_string())?;
        let writes: Vec<Write> = owned
            .into_iter()
            .map(|slot| generation(self.endpoints, slot, next))
            .collect();
        self.overwrite(&writes, hooks);
        self.state = desired;
        Ok(())
    }

    /// Puts a new version in force.
    pub(crate) fn rebuild(
        &mut self,
        desired: Arc<EffectiveState>,
        host: &HostFacts,
        hooks: Option<&mut Hooks>,
    ) -> Result<(), NoTable> {
        self.assignments.assign_slots(&desired, &BTreeMap::new());
        let before = (self.epoch > 0).then_some((&*self.state, &self.host));
        self.assignments
            .assign_generations(before, (&desired, host))
            .map_err(|error| NoTable::Error(error.to_string()))?;
        self.epoch += 1;
        // Halves as in the kernel.
        let (base_line, max_lines) = match &hooks {
            Some(hooks) => (hooks.base_line(), hooks.max_lines()),
            None => (64 + HALF * (self.epoch % 2), HALF),
        };
        let input = TableInput {
            state: &desired,
            host,
            generations: &self.assignments.generations,
            slots: &self.assignments.slots,
            epoch: self.epoch,
            base_line,
            max_lines,
            born: &self.assignments.generations,
            limits: Limits::default(),
        };
        let table = self.engine.build(&input, &mut self.ids);
        let table = table.map_err(|error| {
            if matches!(error, TableError::TooLarge { .. }) {
                NoTable::TooLarge
            } else {
                NoTable::Error(format!("no table: {error}"))
            }
        })?;
        if let Some(hooks) = hooks {
            hooks.put_in_force(&table.lines, base_line);
        }
        self.lines = table.lines;
        self.base_line = base_line;
        self.endpoints = table.endpoints;
        self.amendable = table.amendable;
        self.state = desired;
        self.host.clone_from(host);
        Ok(())
    }
}
