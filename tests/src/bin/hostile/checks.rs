//! What must hold under attack.

use serde::Serialize;

use crate::case::Outcome;
use crate::quota::Share;
use crate::talk::seen::{Loss, Sort};
use crate::talk::{HELD, NEW};

/// Part of its bare rate that the attacker has to keep: who slows it down slows its host down.
const LEAST_RATE: f64 = 0.5;
/// Part of the new connections that the machine has to begin: below it was too slow to show anything.
const LEAST_BEGUN: f64 = 0.95;

/// One thing that must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    pub(crate) what: &'static str,
    pub(crate) expected: String,
    pub(crate) seen: String,
    pub(crate) ok: bool,
}

impl Check {
    fn new(what: &'static str, expected: &str, seen: String, ok: bool) -> Self {
        let expected = expected.to_owned();
        Self {
            what,
            expected,
            seen,
            ok,
        }
    }
}

/// Returns everything that must hold, and whether it does.
pub(crate) fn checks(outcome: &Outcome) -> Vec<Check> {
    let mut checks = connections(outcome);
    checks.push(rate(outcome));
    checks.extend(quotas(outcome));
    checks
}

/// Losses count whenever they are: the attack's flows are still there when it has ended.
fn connections(outcome: &Outcome) -> Vec<Check> {
    let seen = &outcome.seen;
    let begun = seen.total(|counts| counts.begun);
    let [held_lost, new_lost] = [Sort::Held, Sort::New].map(|sort| {
        let lost = |(of, loss): (Sort, Loss)| of == sort && loss != Loss::Refused;
        seen.total(|counts| counts.losses_where(lost))
    });
    let refused = seen.total(|counts| counts.losses_where(|(_, loss)| loss == Loss::Refused));
    let a_second = per(seen.attack.begun, outcome.attack);
    vec![
        Check::new(
            "held connections that lived",
            &format!("all {HELD}"),
            format!("{} of {HELD}", seen.held),
            seen.held == HELD && held_lost == 0,
        ),
        Check::new(
            "every byte that was said was heard, and right",
            "yes",
            if seen.is_whole == Some(true) { "yes" } else { "no" }.to_owned(),
            seen.is_whole == Some(true),
        ),
        Check::new(
            "new connections that were begun under attack",
            &format!("{NEW} a second"),
            format!("{a_second:.1} a second"),
            a_second >= f64::from(NEW) * LEAST_BEGUN,
        ),
        Check::new(
            "new connections that were lost",
            "none",
            format!("{new_lost} of {begun}"),
            new_lost == 0,
        ),
        Check::new(
            "new connections that were refused",
            "none",
            format!("{refused} of {begun}"),
            refused == 0,
        ),
    ]
}

fn rate(outcome: &Outcome) -> Check {
    let [here, bare] = [outcome.sent, outcome.bare].map(|sent| sent.packets_per_second());
    Check::new(
        "the attacker's rate by its bare rate",
        &format!("above {LEAST_RATE}"),
        format!("{:.2}", here / bare),
        here > bare * LEAST_RATE,
    )
}

fn quotas(outcome: &Outcome) -> Vec<Check> {
    let is_attacker = |share: &&Share| share.interface == outcome.attacker;
    let (own, others): (Vec<&Share>, Vec<&Share>) = outcome.shares.iter().partition(is_attacker);
    let is_filled = |share: &&Share| {
        let flows = share.flows;
        flows.is_some_and(|flows| flows.is_full() && flows.refused > 0)
    };
    let has_room = |share: &&Share| {
        let flows = share.flows;
        flows.is_some_and(|flows| !flows.is_full() && flows.refused == 0)
    };
    let [own_words, others_words] = [&own, &others].map(|shares| {
        let words: Vec<_> = shares.iter().map(|share| words(share)).collect();
        words.join("; ")
    });
    vec![
        Check::new(
            "the attacker's own quota of flows is what fills",
            "full, and more refused",
            own_words,
            own.len() == 1 && own.iter().all(is_filled),
        ),
        Check::new(
            "the others' quotas have room",
            "room, and nothing refused",
            others_words,
            others.len() == 2 && others.iter().all(has_room),
        ),
    ]
}

fn words(share: &Share) -> String {
    let Share { interface, flows } = share;
    flows.map_or_else(
        || format!("{interface}: `calico-ebpf endpoints` tells no quota of flows, so this agent has none"),
        |flows| {
            format!(
                "{interface}: half-open {} of {}, confirmed {} of {}, {} refused",
                flows.half_open, flows.half_open_limit, flows.confirmed, flows.confirmed_limit, flows.refused
            )
        },
    )
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
pub(crate) fn per(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::Flows;
    use crate::sender::Sent;
    use crate::talk::seen::{Counts, Phase, Seen};

    /// What a run sees when all is well.
    fn good() -> Outcome {
        let sent = |packets| Sent {
            packets,
            seconds: 1.0,
            cpu_seconds: 1.0,
        };
        let share = |number: u8, flows: Flows| Share {
            interface: format!("tap{number}"),
            flows: Some(flows),
        };
        let quiet = Flows {
            confirmed: 600,
            confirmed_limit: 1000,
            half_open: 3,
            half_open_limit: 100,
            refused: 0,
        };
        let flooded = Flows {
            half_open: 100,
            refused: 1,
            ..quiet
        };
        Outcome {
            seen: Seen {
                held: HELD,
                attack: Counts {
                    begun: 1000,
                    ..Counts::default()
                },
                is_whole: Some(true),
                ..Seen::default()
            },
            attack: 10.0,
            sent: sent(51),
            bare: sent(100),
            shares: vec![share(1, quiet), share(2, quiet), share(3, flooded)],
            attacker: "tap3".to_owned(),
            ..Outcome::default()
        }
    }

    fn failed(outcome: &Outcome) -> Vec<&'static str> {
        let failed = checks(outcome).into_iter().filter(|check| !check.ok);
        failed.map(|check| check.what).collect()
    }

    /// Fails unless this change makes exactly this check fail.
    #[track_caller]
    fn expect_failure(what: &str, change: impl FnOnce(&mut Outcome)) {
        let mut outcome = good();
        change(&mut outcome);
        assert_eq!(failed(&outcome), [what]);
    }

    #[test]
    fn a_run_without_losses_passes_and_each_loss_fails_its_own_check() {
        assert_eq!(failed(&good()), [""; 0]);
        let lose = |sort, loss| {
            move |outcome: &mut Outcome| {
                outcome.seen.lose(Phase::Around, sort, loss, String::new);
            }
        };
        let held = "held connections that lived";
        expect_failure(held, |outcome| outcome.seen.held -= 1);
        expect_failure(held, lose(Sort::Held, Loss::Damaged));
        expect_failure(
            "new connections that were lost",
            lose(Sort::New, Loss::Unanswered),
        );
        expect_failure(
            "new connections that were refused",
            lose(Sort::New, Loss::Refused),
        );
        expect_failure("every byte that was said was heard, and right", |outcome| {
            outcome.seen.is_whole = None;
        });
        expect_failure("new connections that were begun under attack", |outcome| {
            outcome.seen.attack.begun = 900;
        });
        expect_failure("the attacker's rate by its bare rate", |outcome| {
            outcome.sent.packets = 50;
        });
    }

    #[test]
    fn only_the_attackers_quota_may_fill_and_an_agent_without_quotas_fails() {
        let flows = |outcome: &mut Outcome, index: usize, change: fn(&mut Flows)| {
            change(outcome.shares[index].flows.as_mut().expect("it is told"));
        };
        let own = "the attacker's own quota of flows is what fills";
        let others = "the others' quotas have room";
        expect_failure(own, |outcome| flows(outcome, 2, |flows| flows.half_open = 50));
        expect_failure(own, |outcome| flows(outcome, 2, |flows| flows.refused = 0));
        expect_failure(others, |outcome| flows(outcome, 0, |flows| flows.refused = 1));
        expect_failure(others, |outcome| {
            flows(outcome, 1, |flows| flows.confirmed = 1000);
        });
        let mut without = good();
        for share in &mut without.shares {
            share.flows = None;
        }
        assert_eq!(failed(&without), [own, others]);
        let words = &checks(&without)[6].seen;
        assert!(words.contains("tells no quota of flows"), "{words}");
    }
}
