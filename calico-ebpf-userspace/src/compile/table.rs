//! One version of the policy table of a host.

mod engines;
mod sets;

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use calico_ebpf_common::address::{AddressEntry, Class, address_entry4, address_entry6};
use calico_ebpf_common::endpoint::{SLOT_NONE, Slot, endpoint_at};
use calico_ebpf_common::fall_back;
use calico_ebpf_common::line::{Line, Lines};
use calico_ebpf_common::policy::{Cell, Question, verdict};
use calico_ebpf_common::port::{PortTables, port_class, source_port_class};
use calico_ebpf_common::root::Root;

use self::engines::Engines;
use self::sets::{Policies, Room, WrittenSets, count, write_policies};
use super::amend::{Amendable, Buckets, Built, class_room};
use super::cells::OverBudget;
use super::classes::AddressClasses;
use super::endpoints::{
    EndpointProblems, Placed, address_owners, place_endpoints, write_endpoints, write_interfaces,
};
use super::exact::{Exact, ExactTables, NoArrangement, arrange, words};
use super::input::TableInput;
use super::lower::{LoweredDirection, Predicates, lower_direction};
use super::nats::Nats;
use super::ports::{PortClasses, Runs};
use super::prefixes::{TooManyIntervals, write_tree4, write_tree6};
use super::reference::Direction;
use super::rule_ids::{RuleIds, RuleKey};
use super::writer::LineWriter;
use crate::calc::effective::PacketFacts;
use crate::model::name::ResourceKey;
use crate::report::{PolicySetReport, TableReport};

/// A version of the table, ready to be written.
#[derive(Clone, Debug)]
pub struct BuiltTable {
    /// The [`Root`] first. Line numbers inside count from the begin of the whole table.
    pub lines: Vec<Line>,
    /// In order of their ids, which count from 1.
    pub policy_sets: Arc<Vec<PolicySetReport>>,
    /// Policy set of each endpoint that has a place in the table.
    pub endpoint_sets: BTreeMap<ResourceKey, u32>,
    pub report: TableReport,
    /// Directions of policy sets that deny everything, because there is no room for their rules.
    pub over_budget: Vec<OverBudgetSet>,
    /// Endpoints that are not served in full, and why.
    pub endpoint_problems: Vec<(ResourceKey, String)>,
    /// Rule counters that must be zeroed before the version comes into force.
    pub new_rules: Vec<u32>,
    /// First line of the endpoints.
    pub endpoints: u32,
    /// What changes of single addresses need; `None` when there was no room to grow.
    pub amendable: Option<Amendable>,
}

/// One direction of a policy set that denies everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverBudgetSet {
    pub policy_set: u32,
    pub direction: Direction,
    pub why: OverBudget,
}

/// Why there is no new version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    #[error(
        "the policy table needs {lines} lines, there is room for {max_lines} (BPFPolicyTableLines is twice that)"
    )]
    TooLarge { lines: u64, max_lines: u32 },
    #[error(transparent)]
    Intervals(#[from] TooManyIntervals),
    #[error(transparent)]
    Exact(#[from] NoArrangement),
}

/// Compiles a version of the table. Equal input gives equal lines.
///
/// # Errors
/// The table does not fit. `ids` then keeps all numbers given so far.
pub fn build(input: &TableInput<'_>, ids: &mut RuleIds) -> Result<BuiltTable, TableError> {
    let mut problems = EndpointProblems::new();
    let placed = place_endpoints(input, &mut problems);
    let mut owners = address_owners(input, &placed);
    let nats = Nats::collect(&placed, &owners, &mut problems);
    owners.extend(nats.slots());
    let mut policies = Policies::default();
    let set_of: Vec<usize> = placed
        .iter()
        .map(|place| policies.set(&place.endpoint.policy))
        .collect();

    let mut predicates = Predicates::default();
    let mut used = HashSet::new();
    let lowered: Vec<LoweredDirection> = policies
        .directions
        .iter()
        .map(|(direction, policy)| {
            lower_direction(*direction, policy, &mut predicates, |rule, action| {
                let number = ids.number(&RuleKey { rule, action });
                used.insert(number);
                number
            })
        })
        .collect();
    let owned: Vec<IpAddr> = owners.keys().copied().collect();
    let mut engines = engines::compile(input, &predicates, &lowered, &owned);
    let (written, room) = loop {
        let plan = Plan {
            input,
            placed: &placed,
            owners: &owners,
            nats: &nats,
            policies: &policies,
            set_of: &set_of,
            lowered: &lowered,
            engines: &engines,
        };
        match plan.write_somehow() {
            Err(TableError::TooLarge { lines, max_lines }) if engines.make_room(lines, max_lines) => {}
            written => break written?,
        }
    };
    let Engines {
        addresses,
        ports,
        compiled,
        apart,
        shared,
    } = engines;
    problems.extend(written.problems);

    let mut report = TableReport {
        lines: as_u32(written.lines.len()),
        max_lines: input.max_lines,
        address_classes: as_u32(addresses.memberships.len() - 1),
        port_classes: as_u32(ports.signatures.len()),
        exact_addresses: as_u32(addresses.exact4.len() + addresses.exact6.len()),
        prefixes: as_u32(addresses.prefixes),
        ..TableReport::default()
    };
    count(&policies, &compiled, &written.sets, &mut report);
    let new_rules = ids.settle(&used);
    let mut policy_sets = policies.describe(&written.sets.sizes, &compiled, ids);
    let mut endpoint_sets = BTreeMap::new();
    for (place, set) in placed.iter().zip(&set_of) {
        policy_sets[*set].endpoints.push(place.key.to_string());
        endpoint_sets.insert(place.key.clone(), policy_sets[*set].id);
    }
    let amendable = (room == Room::ToGrow).then(|| {
        Amendable::new(Built {
            predicates: predicates.addresses.sets(),
            shared,
            apart,
            class_room: class_room(addresses.memberships.len() - 1),
            ports,
            directions: written.sets.directions,
            buckets: Buckets {
                root: written.root,
                v4: written.exact.v4,
                v6: written.exact.v6,
            },
            addresses,
        })
    });
    Ok(BuiltTable {
        lines: written.lines,
        policy_sets: Arc::new(policy_sets),
        endpoint_sets,
        report,
        over_budget: written.sets.over_budget,
        endpoint_problems: problems,
        new_rules,
        endpoints: written.root.endpoints,
        amendable,
    })
}

/// Everything that a version is laid out from.
struct Plan<'a> {
    input: &'a TableInput<'a>,
    placed: &'a [Placed<'a>],
    owners: &'a BTreeMap<IpAddr, Slot>,
    nats: &'a Nats,
    policies: &'a Policies<'a>,
    /// Policy set of each of `placed`.
    set_of: &'a [usize],
    lowered: &'a [LoweredDirection],
    engines: &'a Engines,
}

impl Plan<'_> {
    /// Writes with room to grow, or else without: what has none is written anew with each change.
    fn write_somehow(&self) -> Result<(Written, Room), TableError> {
        match self.write(Room::ToGrow) {
            Err(TableError::TooLarge { .. }) => Ok((self.write(Room::Tight)?, Room::Tight)),
            written => Ok((written?, Room::ToGrow)),
        }
    }

    fn write(&self, growth: Room) -> Result<Written, TableError> {
        let input = self.input;
        let mut problems = EndpointProblems::new();
        let mut writer = LineWriter::new(input.base_line, input.max_lines);
        let first_line = writer.push_one(&Root::default());
        let mut root = Root {
            epoch: input.epoch,
            ..Root::default()
        };
        let exact = write_addresses(&mut writer, &mut root, &self.engines.addresses, self.owners)?;
        root.ports = write_ports(&mut writer, &self.engines.ports);
        let mut sets = write_policies(
            &mut writer,
            self.policies,
            self.lowered,
            &self.engines.compiled,
            growth,
        );
        for (place, set) in self.placed.iter().zip(self.set_of) {
            for direction in self.policies.sets[*set] {
                sets.directions[direction].slots.insert(place.slot);
            }
        }
        let nats = self.nats.write(&mut writer, &mut root);
        let endpoint_set_lines: Vec<[u32; 2]> = self.set_of.iter().map(|set| sets.lines[*set]).collect();
        (root.endpoints, root.endpoint_count) = write_endpoints(
            &mut writer,
            self.placed,
            &endpoint_set_lines,
            &nats,
            &mut problems,
        );
        (root.interfaces, root.interfaces_mask) = write_interfaces(&mut writer, self.placed, &mut problems);
        writer.set(first_line, &root);
        if writer.count() > u64::from(input.max_lines) {
            return Err(TableError::TooLarge {
                lines: writer.count(),
                max_lines: input.max_lines,
            });
        }
        Ok(Written {
            lines: writer.into_lines(),
            root,
            exact,
            sets,
            problems,
        })
    }
}

/// A version as it was laid out.
struct Written {
    lines: Vec<Line>,
    root: Root,
    exact: ExactTables,
    sets: WrittenSets,
    problems: EndpointProblems,
}

fn as_u32(number: impl TryInto<u32>) -> u32 {
    number.try_into().unwrap_or(u32::MAX)
}

fn write_addresses(
    writer: &mut LineWriter,
    root: &mut Root,
    classes: &AddressClasses,
    owners: &BTreeMap<IpAddr, Slot>,
) -> Result<ExactTables, TableError> {
    let slot = |address: IpAddr| owners.get(&address).copied().unwrap_or(SLOT_NONE);
    let with_slot4 = |&(address, class): &(u32, Class)| {
        let slot = slot(IpAddr::V4(address.into()));
        Exact { address, class, slot }
    };
    let with_slot6 = |&(address, class): &(u128, Class)| {
        let slot = slot(IpAddr::V6(address.into()));
        Exact { address, class, slot }
    };
    let v4: Vec<Exact<u32>> = classes.exact4.iter().map(with_slot4).collect();
    let v6: Vec<Exact<u128>> = classes.exact6.iter().map(with_slot6).collect();
    let exact = arrange(&v4, &v6)?;
    root.exact4 = writer.push(&exact.v4);
    root.exact4_mask = as_u32(exact.v4.len() - 1);
    root.exact6 = writer.push(&exact.v6);
    root.exact6_mask = as_u32(exact.v6.len() - 1);
    root.seed = [as_u32(exact.seed & 0xffff_ffff), as_u32(exact.seed >> 32)];
    root.prefixes4 = write_tree4(writer, &classes.intervals4)?;
    root.prefixes6 = write_tree6(writer, &classes.intervals6)?;
    Ok(exact)
}

fn write_ports(writer: &mut LineWriter, classes: &PortClasses) -> u32 {
    let mut tables = PortTables {
        protocols: writer.halves(&classes.protocols),
        ..PortTables::default()
    };
    for (line, runs) in tables.destination.iter_mut().zip(&classes.destination) {
        *line = runs.as_ref().map_or(0, |runs| writer.halves(&spread(runs)));
    }
    for (line, runs) in tables.source.iter_mut().zip(&classes.source) {
        *line = runs.as_ref().map_or(0, |runs| writer.halves(&spread(runs)));
    }
    writer.push_one(&tables)
}

/// Returns the class of each of the 65,536 values.
fn spread(runs: &Runs) -> Vec<u16> {
    let mut classes = Vec::with_capacity(1 << 16);
    for (index, (_, class)) in runs.iter().enumerate() {
        let end = runs.get(index + 1).map_or(1 << 16, |next| usize::from(next.0));
        classes.resize(end, *class);
    }
    classes
}

/// The lines of a version where they stand in the whole table.
#[derive(Clone, Copy, Debug)]
pub struct PlacedLines<'a> {
    pub lines: &'a [Line],
    pub base_line: u32,
}

impl Lines for PlacedLines<'_> {
    fn line(&self, index: u32) -> Option<&Line> {
        self.lines.get(index.checked_sub(self.base_line)? as usize)
    }
}

/// What the compiled table says about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompiledJudgement {
    pub allow: bool,
    /// Egress cell of the source; `None` without a local source.
    pub egress: Option<Cell>,
    /// Ingress cell of the target; `None` without a local target or when egress denied.
    pub ingress: Option<Cell>,
    pub source: AddressEntry,
    pub destination: AddressEntry,
}

/// Judges a packet by the look-ups that the programs use: egress of the endpoint at slot `source`, then ingress of the
/// one at `target`. Returns `None` with addresses of two families or with broken tables.
pub fn judge_compiled(
    lines: &PlacedLines<'_>,
    facts: &PacketFacts,
    source: Slot,
    target: Slot,
) -> Option<CompiledJudgement> {
    let root: &Root = lines.line(lines.base_line)?.read_as();
    let entry = |address: IpAddr| match address {
        IpAddr::V4(address) => address_entry4(lines, root, address.to_bits()),
        IpAddr::V6(address) => address_entry6(lines, root, words(address.to_bits())),
    };
    if facts.source.is_ipv4() != facts.destination.is_ipv4() {
        return None;
    }
    let source_entry = entry(facts.source)?;
    let destination_entry = entry(facts.destination)?;
    let value = facts.icmp.map_or(facts.destination_port, |(kind, code)| {
        u16::from(kind) << 8 | u16::from(code)
    });
    let question = Question {
        local_class: source_entry.class,
        remote_class: destination_entry.class,
        port_class: port_class(lines, root, facts.protocol, value)?,
        source_port_class: source_port_class(lines, root, facts.protocol, facts.source_port)?,
    };
    let ports = fall_back::ports(facts.protocol, value, facts.source_port);
    let decided = |cell: Cell, remote: IpAddr, local: IpAddr| {
        if cell.fall_back_line().is_none() {
            return cell;
        }
        let rows = match (remote, local) {
            (IpAddr::V4(remote), IpAddr::V4(local)) => {
                fall_back::address_rows4(lines, cell, remote.to_bits(), local.to_bits())
            }
            (IpAddr::V6(remote), IpAddr::V6(local)) => {
                fall_back::address_rows6(lines, cell, words(remote.to_bits()), words(local.to_bits()))
            }
            _ => fall_back::NO_ROWS,
        };
        fall_back::verdict(lines, cell, rows, ports)
    };
    let egress = endpoint_at(lines, root, source).map(|endpoint| {
        let cell = verdict(lines, endpoint.egress_set, question);
        decided(cell, facts.destination, facts.source)
    });
    let allowed = egress.is_none_or(Cell::allows);
    let question = Question {
        local_class: destination_entry.class,
        remote_class: source_entry.class,
        ..question
    };
    let target = if allowed {
        endpoint_at(lines, root, target)
    } else {
        None
    };
    let ingress = target.map(|endpoint| {
        let cell = verdict(lines, endpoint.ingress_set, question);
        decided(cell, facts.source, facts.destination)
    });
    Some(CompiledJudgement {
        allow: allowed && ingress.is_none_or(Cell::allows),
        egress,
        ingress,
        source: source_entry,
        destination: destination_entry,
    })
}

#[cfg(test)]
mod tests;
