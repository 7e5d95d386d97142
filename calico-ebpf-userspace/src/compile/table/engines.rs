//! Which engine judges each direction: cells, the fall-back where cells would be too many, or nobody.
//!
//! What a direction tells apart cuts the classes of all that have cells. So one that goes beyond a limit leaves the shared
//! classes altogether, and those that stay are compiled as if it were not there.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use calico_ebpf_common::address::Class;
use rayon::prelude::*;

use crate::compile::cells::{DirectionTable, OverBudget, compile_direction};
use crate::compile::classes::{AddressClasses, PredicateId};
use crate::compile::fall_back::FallBackTable;
use crate::compile::input::TableInput;
use crate::compile::lower::{LoweredDirection, Predicates};
use crate::compile::ports::PortClasses;
use crate::compile::projection::{column_predicates, local_predicates, remote_predicates, source_predicates};

/// A compiled direction.
#[derive(Clone, Debug)]
pub(super) enum Compiled {
    Cells(Box<DirectionTable>),
    FallBack(Box<FallBackTable>),
    /// Denies everything: not even the fall-back has room for it.
    Denied(OverBudget),
}

impl Compiled {
    /// Returns the engine's name, for people and tools.
    pub(super) fn engine(&self) -> &'static str {
        match self {
            Self::Cells(_) => "cells",
            Self::FallBack(_) => "fall-back",
            Self::Denied(_) => "over budget",
        }
    }
}

/// The directions of a host, and the classes that those with cells share.
pub(super) struct Engines {
    pub(super) addresses: AddressClasses,
    pub(super) ports: PortClasses,
    pub(super) compiled: Vec<Compiled>,
    /// Address predicates of the directions without cells.
    pub(super) apart: BTreeSet<PredicateId>,
    /// Address predicates of those with cells.
    pub(super) shared: BTreeSet<PredicateId>,
}

impl Engines {
    /// Gives up the largest fall-backs until a table of `lines` should have room. Returns whether there was one.
    pub(super) fn make_room(&mut self, lines: u64, max_lines: u32) -> bool {
        let mut missing = lines.saturating_sub(max_lines.into());
        let mut found = false;
        while missing > 0 {
            let sizes = self
                .compiled
                .iter()
                .enumerate()
                .filter_map(|(index, compiled)| match compiled {
                    Compiled::FallBack(table) => Some((table.lines(), index)),
                    Compiled::Cells(_) | Compiled::Denied(_) => None,
                });
            let Some((size, index)) = sizes.max_by_key(|(size, index)| (*size, Reverse(*index))) else {
                break;
            };
            self.compiled[index] = Compiled::Denied(OverBudget::new(size, max_lines as usize));
            missing = missing.saturating_sub(size as u64);
            found = true;
        }
        found
    }
}

/// What a direction asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Wanted {
    addresses: BTreeSet<u32>,
    ports: BTreeSet<u32>,
    sources: BTreeSet<u32>,
}

impl Wanted {
    fn of(lowered: &LoweredDirection) -> Self {
        let mut addresses = remote_predicates(lowered);
        addresses.extend(local_predicates(lowered));
        Self {
            addresses,
            ports: column_predicates(&lowered.rules),
            sources: source_predicates(&lowered.rules),
        }
    }

    fn of_all<'a>(all: impl Iterator<Item = &'a Self>) -> Self {
        let mut union = Self::default();
        for wanted in all {
            union.addresses.extend(&wanted.addresses);
            union.ports.extend(&wanted.ports);
            union.sources.extend(&wanted.sources);
        }
        union
    }
}

/// Directions with cells, and which of them leaves next.
struct Choice<'a> {
    wanted: &'a [Wanted],
    has_cells: Vec<bool>,
    /// How many leave at once when none is too large alone. It doubles, so that there are few rounds.
    batch: usize,
}

impl Choice<'_> {
    fn with_cells(&self) -> impl Iterator<Item = usize> {
        (0..self.wanted.len()).filter(|index| self.has_cells[*index])
    }

    fn union(&self) -> Wanted {
        Wanted::of_all(self.with_cells().map(|index| &self.wanted[index]))
    }

    /// Takes the cells from directions that tell too much apart by themselves, or else from those that tell most apart.
    /// `size` gives the classes of one direction alone, `None` if they are too many.
    fn shrink(&mut self, size: impl Fn(&Wanted) -> Option<usize>) {
        let mut known: HashMap<&Wanted, usize> = HashMap::new();
        let mut sizes: Vec<(usize, usize)> = Vec::new();
        for index in 0..self.wanted.len() {
            if self.has_cells[index] {
                let wanted = &self.wanted[index];
                let size = *known
                    .entry(wanted)
                    .or_insert_with(|| size(wanted).unwrap_or(usize::MAX));
                sizes.push((size, index));
            }
        }
        sizes.sort_unstable_by(|one, other| other.0.cmp(&one.0).then(one.1.cmp(&other.1)));
        let alone = sizes.iter().take_while(|(size, _)| *size == usize::MAX).count();
        let count = if alone > 0 {
            alone
        } else {
            self.batch *= 2;
            self.batch / 2
        };
        for (_, index) in sizes.into_iter().take(count) {
            self.has_cells[index] = false;
        }
    }
}

/// Compiles all directions, each by the best engine that its rules allow.
pub(super) fn compile(
    input: &TableInput<'_>,
    predicates: &Predicates,
    lowered: &[LoweredDirection],
    owners: &[IpAddr],
) -> Engines {
    let wanted: Vec<Wanted> = lowered.iter().map(Wanted::of).collect();
    let mut choice = Choice {
        wanted: &wanted,
        has_cells: vec![input.limits.cells > 0; lowered.len()],
        batch: 1,
    };
    let (addresses, ports, mut tables, shared) = loop {
        if let Some(done) = compile_cells(input, predicates, lowered, owners, &mut choice) {
            break done;
        }
    };
    let compiled = lowered.iter().enumerate().map(|(index, lowered)| {
        if let Some(table) = tables.remove(&index) {
            return Compiled::Cells(Box::new(table));
        }
        match FallBackTable::compile(lowered, predicates, &input.state.sets, input.max_lines) {
            Ok(table) => Compiled::FallBack(Box::new(table)),
            Err(why) => Compiled::Denied(why),
        }
    });
    let compiled: Vec<Compiled> = compiled.collect();
    let apart = (0..lowered.len()).filter(|index| !choice.has_cells[*index]);
    Engines {
        apart: Wanted::of_all(apart.map(|index| &wanted[index])).addresses,
        shared: shared.addresses,
        addresses,
        ports,
        compiled,
    }
}

type Cells = (
    AddressClasses,
    PortClasses,
    HashMap<usize, DirectionTable>,
    Wanted,
);

/// Compiles the directions that have cells. `None` if one of them lost its cells: then the others have other classes.
fn compile_cells(
    input: &TableInput<'_>,
    predicates: &Predicates,
    lowered: &[LoweredDirection],
    owners: &[IpAddr],
    choice: &mut Choice<'_>,
) -> Option<Cells> {
    let union = choice.union();
    let limit = if choice.with_cells().next().is_some() {
        input.limits.address_classes
    } else {
        // Without rules there is a class for each family.
        usize::from(Class::MAX)
    };
    let addresses_of = |wanted: &Wanted| {
        let (sets, owners) = (&input.state.sets, owners.iter().copied());
        AddressClasses::build(&predicates.addresses, &wanted.addresses, sets, owners, limit).ok()
    };
    let ports_of =
        |wanted: &Wanted| PortClasses::build(&predicates.ports, &wanted.ports, &wanted.sources).ok();
    let Some(addresses) = addresses_of(&union) else {
        choice.shrink(|wanted| Some(addresses_of(wanted)?.memberships.len()));
        return None;
    };
    let Some(ports) = ports_of(&union) else {
        choice.shrink(|wanted| {
            let ports = ports_of(wanted)?;
            Some(ports.signatures.len() + ports.source_signatures.len())
        });
        return None;
    };
    let mut tables = HashMap::new();
    let mut lost = Vec::new();
    let with_cells: Vec<usize> = choice.with_cells().collect();
    let compile = |index| compile_direction(&lowered[index], &addresses, &ports, input.limits.cells);
    let compiled: Vec<_> = with_cells.par_iter().map(|index| compile(*index)).collect();
    for (index, table) in with_cells.into_iter().zip(compiled) {
        match table {
            Ok(table) => {
                tables.insert(index, table);
            }
            Err(OverBudget { .. }) => lost.push(index),
        }
    }
    for index in &lost {
        choice.has_cells[*index] = false;
    }
    lost.is_empty().then_some((addresses, ports, tables, union))
}
