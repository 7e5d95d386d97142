//! Clouds that Neutron's drivers of two generations wrote: every rule of every security group is probed with packets, from the
//! right side and from the wrong side.
//!
//! First with the cloud as it was recorded. Then the rules that were shown to decide by themselves are taken out of their
//! groups, and the next ones are in the open: `allow anything` hides what else a group says. This goes on until each rule
//! was alone.

mod aim;
mod arrival;
mod cloud;
mod corners;
mod flavour;
mod floating;
mod judge;
mod ledger;
mod volley;

use calico_ebpf_tests::manifests::HOSTNAME;
use calico_ebpf_tests::recording::{CARACAL, GroupRule, Recording, TRAIN};

use self::aim::{Aim, Probes};
use self::cloud::Cloud;
use self::flavour::{Meaning, meaning};
use self::judge::Judge;
use self::ledger::Ledger;

/// The other host of the recordings.
const OTHER_HOST: &str = "compute2.example.org";
/// More layers than any recording has.
const LAYERS: usize = 8;

#[test]
fn every_rule_that_neutron_train_wrote_allows_what_it_says_and_nothing_else() {
    probe_every_rule(TRAIN);
}

#[test]
fn every_rule_that_neutron_2024_1_wrote_allows_what_it_says_and_nothing_else() {
    probe_every_rule(CARACAL);
}

fn probe_every_rule(file: &str) {
    let recording = Recording::load(file);
    let mut cloud = Cloud::start(&recording, HOSTNAME);
    let mut ledger = Ledger::new(cloud.rules());
    probe_as_recorded(&cloud, &mut ledger);
    for _ in 0..LAYERS {
        let shown = probe_alone(&cloud, &mut ledger);
        if shown.is_empty() {
            break;
        }
        cloud.take_out(&shown);
    }
    cloud.stop();
    let other = Cloud::start(&recording, OTHER_HOST);
    probe_as_recorded(&other, &mut ledger);
    floating::probe(&other, &mut ledger);
    other.stop();
    ledger.close(file);
}

/// Every rule at every port of its group, with everything else in force.
fn probe_as_recorded(cloud: &Cloud, ledger: &mut Ledger) {
    let judge = Judge::new(&cloud.objects_without(&[]), cloud.hostname());
    let mut shots = Vec::new();
    for rule in cloud.rules() {
        let ports = cloud.ports().iter().enumerate();
        for (port, _) in ports.filter(|(_, local)| local.recorded.groups().contains(&rule.group)) {
            let aim = Aim {
                cloud,
                judge: &judge,
                rule,
                port,
                floating: None,
            };
            if !aim.is_possible() {
                continue;
            }
            let mut probes = aim.probes(None);
            ledger.complain(probes.refused);
            if probes.wrong.is_empty() {
                probes.wrong = aim.elsewhere();
                ledger.count_elsewhere(&probes.wrong);
            }
            ledger.count(rule, &probes.right, &probes.wrong);
            shots.extend(probes.right.into_iter().chain(probes.wrong));
        }
    }
    ledger.complain(volley::fire(cloud, &shots));
}

/// Rules by themselves: nothing else in force allows what they allow. Returns those that were shown, and their twins.
fn probe_alone(cloud: &Cloud, ledger: &mut Ledger) -> Vec<GroupRule> {
    let judge = Judge::new(&cloud.objects_without(&[]), cloud.hostname());
    let (mut shown, mut shots) = (Vec::new(), Vec::new());
    for rule in cloud.rules() {
        if shown.contains(rule) {
            continue;
        }
        let is_twin = |other: &&GroupRule| {
            (&other.group, other.direction, &other.value) == (&rule.group, rule.direction, &rule.value)
        };
        let twins: Vec<_> = cloud.rules().iter().filter(is_twin).cloned().collect();
        let others = Judge::new(&cloud.objects_without(&twins), cloud.hostname());
        let aim = Aim {
            cloud,
            judge: &judge,
            rule,
            port: cloud.port_of_group(&rule.group),
            floating: None,
        };
        let probes = aim.probes(Some(&others));
        if is_shown(rule, &probes) {
            ledger.count_alone(&twins, &probes);
            shots.extend(probes.right.into_iter().chain(probes.wrong));
            shown.extend(twins);
        }
    }
    ledger.complain(volley::fire(cloud, &shots));
    shown
}

/// Returns whether probes show what a rule does by itself.
fn is_shown(rule: &GroupRule, probes: &Probes) -> bool {
    match meaning(rule, 0) {
        Meaning::Allows(_) => !probes.right.is_empty(),
        Meaning::Never(_) => !probes.wrong.is_empty(),
        // Policy has no say.
        Meaning::Answers(_) => true,
    }
}
