//! The other engine: a direction whose rules tell too much apart for cells.
//!
//! It shares nothing with the classes of other directions: each has four axes of its own, cut by its own rules only. What
//! one tenant writes can so cost only this tenant's packets.

mod axis;
mod rules;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;

use self::axis::{Axis, AxisRows, Borders};
use self::rules::OrderedParts;
use super::cells::OverBudget;
use super::classes::AddressPredicates;
use super::lower::{LoweredDirection, Predicates};
use crate::calc::effective::{SetId, SetMembers};

/// Intervals that a tree of IPv6 can hold: four starts to a line, nine levels.
const MAX_INTERVALS6: usize = 4 * 5_usize.pow(8);
/// Last key of the port axes.
const LAST_PORT_KEY: u128 = 0x00ff_ffff;

/// One direction, ready to be written.
#[derive(Clone, Debug)]
pub(super) struct FallBackTable {
    ordered: OrderedParts,
    remote: AddressAxis,
    local: AddressAxis,
    ports: PortAxis,
    sources: PortAxis,
}

#[derive(Clone, Debug)]
struct AddressAxis {
    /// First address and row of each interval; empty where there is but one row.
    v4: Vec<(u128, u32)>,
    v6: Vec<(u128, u32)>,
    rows: AxisRows,
}

#[derive(Clone, Debug)]
struct PortAxis {
    cuts: Vec<(u128, u32)>,
    rows: AxisRows,
}

impl FallBackTable {
    /// Compiles a direction. `most_lines` is the room that there is.
    ///
    /// # Errors
    /// It does not fit, or is too much work.
    pub(super) fn compile(
        lowered: &LoweredDirection,
        predicates: &Predicates,
        sets: &BTreeMap<SetId, SetMembers>,
        most_lines: u32,
    ) -> Result<Self, OverBudget> {
        let ordered = rules::expand(lowered)?;
        let address_axis = |tests| {
            let axis = Axis::new(&ordered, tests, predicates.addresses.len());
            let mut rows = axis.rows(most_lines);
            let of_family = |family, last, rows: &mut AxisRows| {
                let mut borders = Borders::new(last);
                predicates.addresses.for_each_net(
                    sets,
                    |id| axis.asks_for(id),
                    family,
                    &mut |first, last, id| borders.add(first, last, id),
                );
                axis.cut(borders, &[family], rows)
            };
            let mut v4 = of_family(AddressPredicates::V4, u128::from(u32::MAX), &mut rows)?;
            let mut v6 = of_family(AddressPredicates::V6, u128::MAX, &mut rows)?;
            if v6.len() > MAX_INTERVALS6 {
                return Err(OverBudget::new(v6.len(), MAX_INTERVALS6));
            }
            if rows.len() == 1 {
                v4.clear();
                v6.clear();
            }
            Ok(AddressAxis { v4, v6, rows })
        };
        let remote = address_axis(rules::REMOTE)?;
        let local = address_axis(rules::LOCAL)?;
        let port_axis = |tests, count, is_source| {
            let axis = Axis::new(&ordered, tests, count);
            let mut rows = axis.rows(most_lines);
            let mut borders = Borders::new(LAST_PORT_KEY);
            predicates
                .ports
                .for_each_range(is_source, |id| axis.asks_for(id), &mut |first, last, id| {
                    borders.add(u128::from(first), u128::from(last), id);
                });
            let mut cuts = axis.cut(borders, &[], &mut rows)?;
            if rows.len() == 1 {
                cuts.clear();
            }
            Ok(PortAxis { cuts, rows })
        };
        let ports = port_axis(rules::PORTS, predicates.ports.len(), false)?;
        let sources = port_axis(rules::SOURCES, predicates.ports.source_len(), true)?;
        Ok(Self {
            ordered,
            remote,
            local,
            ports,
            sources,
        })
    }
}
