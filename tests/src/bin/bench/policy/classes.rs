//! From an address to its class, each look-up waiting for the one before: our tables and the kernel's LPM tries with the
//! same members.

use anyhow::Context;
use aya::Ebpf;
use aya::maps::Array;
use aya::maps::lpm_trie::{Key, LpmTrie};
use calico_ebpf_common::bench::{CHAIN_LENGTH, Chain};

use super::Run;
use super::figures::{Figure, Goal};
use crate::bed::{self, Bed, run_program};
use crate::rules::{FIRST_MEMBER, Last, MEMBERS6, Mix, Policy, STEP, STEP6, member};

/// What the tries say of each member.
const CLASS: u32 = 3;

/// Measures the rows of this file.
pub(super) fn measure(run: &Run<'_>) -> anyhow::Result<Vec<Figure>> {
    let families = [
        ("v4", false, 0.08, ["bench_chain_table4", "bench_chain_trie4"]),
        ("v6", true, 0.12, ["bench_chain_table6", "bench_chain_trie6"]),
    ];
    let mut figures = Vec::new();
    for (family, v6, goal, programs) in families {
        let name = format!("class_lookup_100k/{family}");
        if !run.wants(&name) {
            continue;
        }
        run.say(&name);
        let policy = Policy {
            rules: 11,
            members: run.sizes.members,
            mix: Mix::Sets,
            last: Last::Everybody,
            v6,
            ..Policy::default()
        };
        let mut object = Bed {
            v6,
            ..Bed::new(policy)
        }
        .load()?;
        fill_trie(&mut object, &policy)?;
        let mut rounds = Vec::new();
        for _ in 0..run.sizes.rounds {
            let empty = look_up(run, &mut object, &policy, "bench_chain_empty")?;
            let table = look_up(run, &mut object, &policy, programs[0])?;
            let trie = look_up(run, &mut object, &policy, programs[1])?;
            rounds.push([table - empty, trie - empty]);
        }
        let what = "one look-up of a member by chance, waiting for the one before";
        let figure = Figure::new(&name, what, "BPF LPM trie with the same members", rounds);
        figures.push(figure.goal(Goal::RatioAtMost(goal)));
    }
    Ok(figures)
}

/// Gives the trie of the family every member.
pub(super) fn fill_trie(object: &mut Ebpf, policy: &Policy) -> anyhow::Result<()> {
    let map = if policy.v6 { "BENCH_TRIE6" } else { "BENCH_TRIE4" };
    let map = object.map_mut(map).context("no trie")?;
    if policy.v6 {
        let mut trie: LpmTrie<_, [u8; 16], u32> = LpmTrie::try_from(map)?;
        for number in 0..policy.members {
            if let std::net::IpAddr::V6(address) = member(true, number) {
                trie.insert(&Key::new(128, address.octets()), CLASS, 0)?;
            }
        }
    } else {
        let mut trie: LpmTrie<_, [u8; 4], u32> = LpmTrie::try_from(map)?;
        for number in 0..policy.members {
            if let std::net::IpAddr::V4(address) = member(false, number) {
                trie.insert(&Key::new(32, address.octets()), CLASS, 0)?;
            }
        }
    }
    Ok(())
}

/// Returns nanoseconds a look-up.
fn look_up(run: &Run<'_>, object: &mut Ebpf, policy: &Policy, name: &str) -> anyhow::Result<f64> {
    let chain = if policy.v6 {
        Chain {
            high: MEMBERS6,
            step: STEP6,
            members: policy.members,
            ..Chain::default()
        }
    } else {
        Chain {
            first: u64::from(FIRST_MEMBER),
            step: u64::from(STEP),
            members: policy.members,
            ..Chain::default()
        }
    };
    let map = object.map_mut("BENCH_CHAIN").context("no map BENCH_CHAIN")?;
    let mut array: Array<_, Chain> = Array::try_from(map)?;
    array.set(0, chain, 0)?;
    // As many look-ups as others have packets, but enough to go through all members.
    let repeats = (run.sizes.repeats / 32).max(policy.members / CHAIN_LENGTH);
    let (nanoseconds, answer) = run_program(bed::program(object, name)?, &bed::frame(policy.v6), repeats)?;
    anyhow::ensure!(
        answer != 0,
        "{name}: the last member was not found: table and members do not belong together"
    );
    Ok(nanoseconds / f64::from(CHAIN_LENGTH))
}
