//! External addresses: who has them, and their lines.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use calico_ebpf_common::endpoint::Slot;
use calico_ebpf_common::line::Line;
use calico_ebpf_common::nat::{FIRST_NAT_SLOT, MAX_ENDPOINT_NATS, MAX_NATS, NAT_LOWEST, Nat, halves, tag_of};
use calico_ebpf_common::root::Root;

use super::endpoints::{EndpointProblems, Placed};
use super::writer::{LineWriter, line_of};

/// The translations of a host: those of one endpoint lie together, lowest addresses first.
pub(super) struct Nats {
    nats: Vec<(IpAddr, Nat)>,
}

/// One translation, and which of the placed endpoints it is of.
#[derive(Clone, Copy)]
struct Candidate {
    external: IpAddr,
    internal: IpAddr,
    place: usize,
}

impl Nats {
    /// Collects what endpoints ask for. The lowest internal address has an external one that is asked for twice
    /// (contract 3.5); an address that `owners` has already is not translated.
    pub(super) fn collect(
        placed: &[Placed<'_>],
        owners: &BTreeMap<IpAddr, Slot>,
        problems: &mut EndpointProblems,
    ) -> Self {
        let mut winners: BTreeMap<IpAddr, Candidate> = BTreeMap::new();
        for candidate in candidates(placed) {
            let mut lose = |loser: &Candidate, why: &str| {
                let text = format!(
                    "floating address {} is not translated to {}: {why}",
                    loser.external, loser.internal
                );
                problems.push((placed[loser.place].key.clone(), text));
            };
            if owners.contains_key(&candidate.external) {
                lose(&candidate, "it is an address of this host or of a port");
                continue;
            }
            let Some(winner) = winners.get(&candidate.external).copied() else {
                winners.insert(candidate.external, candidate);
                continue;
            };
            // As text, as Felix compares them: both agents choose the same.
            let rank = |candidate: &Candidate| {
                let owner = owners.get(&candidate.internal).copied();
                (
                    candidate.internal.to_string(),
                    owner != Some(placed[candidate.place].slot),
                )
            };
            let (loser, winner) = if rank(&candidate) < rank(&winner) {
                (winner, candidate)
            } else {
                (candidate, winner)
            };
            winners.insert(winner.external, winner);
            if (loser.internal, loser.place) != (winner.internal, winner.place) {
                lose(&loser, &format!("it leads to {}", winner.internal));
            }
        }
        let mut chosen: Vec<Candidate> = winners.into_values().collect();
        chosen.sort_by_key(|candidate| {
            (
                placed[candidate.place].slot,
                candidate.internal.to_string(),
                candidate.external.to_string(),
            )
        });
        Self::number(&chosen, placed, problems)
    }

    /// Takes as many as there is room for. A tag that an endpoint has already is left out: its flows could not be
    /// told apart.
    fn number(chosen: &[Candidate], placed: &[Placed<'_>], problems: &mut EndpointProblems) -> Self {
        let mut nats: Vec<(IpAddr, Nat)> = Vec::new();
        let mut tags: BTreeSet<(Slot, u16)> = BTreeSet::new();
        let mut internals: BTreeSet<(Slot, IpAddr)> = BTreeSet::new();
        let mut counts: BTreeMap<Slot, u32> = BTreeMap::new();
        for candidate in chosen {
            let place = &placed[candidate.place];
            let external = halves(candidate.external);
            let tag = tag_of(external);
            let count = counts.entry(place.slot).or_default();
            let full = *count == MAX_ENDPOINT_NATS || nats.len() == MAX_NATS as usize;
            if full || !tags.insert((place.slot, tag)) {
                let text = format!("floating address {} has no place", candidate.external);
                problems.push((place.key.clone(), text));
                continue;
            }
            *count += 1;
            let lowest = internals.insert((place.slot, candidate.internal));
            let nat = Nat {
                external,
                internal: halves(candidate.internal),
                slot: place.slot,
                tag,
                flags: if lowest { NAT_LOWEST } else { 0 },
                ..Nat::default()
            };
            nats.push((candidate.external, nat));
        }
        Self { nats }
    }

    /// Returns the external addresses with the slots that stand for them.
    pub(super) fn slots(&self) -> impl Iterator<Item = (IpAddr, Slot)> {
        self.nats
            .iter()
            .zip(FIRST_NAT_SLOT..)
            .map(|((external, _), slot)| (*external, slot))
    }

    /// Writes the lines and where they are.
    pub(super) fn write(&self, writer: &mut LineWriter, root: &mut Root) -> WrittenNats {
        let mut written = WrittenNats::default();
        if self.nats.is_empty() {
            return written;
        }
        let lines: Vec<Line> = self.nats.iter().map(|(_, nat)| line_of(nat)).collect();
        root.nats = writer.push(&lines);
        root.nat_count = u32::try_from(lines.len()).unwrap_or(u32::MAX);
        for ((_, nat), line) in self.nats.iter().zip(root.nats..) {
            written.by_slot.entry(nat.slot).or_insert((line, 0)).1 += 1;
        }
        written
    }
}

/// Where the lines of each endpoint's external addresses are.
#[derive(Default)]
pub(super) struct WrittenNats {
    by_slot: BTreeMap<Slot, (u32, u32)>,
}

impl WrittenNats {
    /// Returns the first line of an endpoint's, and their number.
    pub(super) fn lines_of(&self, slot: Slot) -> (u32, u32) {
        self.by_slot.get(&slot).copied().unwrap_or_default()
    }
}

fn candidates(placed: &[Placed<'_>]) -> impl Iterator<Item = Candidate> {
    placed.iter().enumerate().flat_map(|(place, placed)| {
        placed.endpoint.ip_nats.iter().map(move |nat| Candidate {
            external: nat.external,
            internal: nat.internal,
            place,
        })
    })
}
