//! What was probed of which rule.

use calico_ebpf_tests::recording::GroupRule;

use super::aim::Probes;
use super::flavour::{Meaning, meaning};
use super::volley::Shot;

/// One rule's account.
struct Account {
    rule: GroupRule,
    /// Whether it was probed from the right side, from the wrong side, and by itself.
    right: bool,
    wrong: bool,
    alone: bool,
}

impl Account {
    fn meaning(&self) -> Meaning {
        meaning(&self.rule, 0)
    }

    /// Returns whether the rule was probed from each side it has, by itself and with the others.
    fn is_settled(&self) -> bool {
        match self.meaning() {
            Meaning::Allows(_) | Meaning::Answers(_) => self.right && self.wrong && self.alone,
            Meaning::Never(_) => self.wrong && self.alone,
        }
    }

    fn words(&self) -> String {
        let GroupRule {
            group,
            direction,
            index,
            value,
        } = &self.rule;
        format!("{group} {}[{index}] {value}", direction.as_str())
    }
}

/// The accounts of all rules, and what went wrong.
pub(super) struct Ledger {
    accounts: Vec<Account>,
    right: usize,
    wrong: usize,
    elsewhere: usize,
    /// Probes of floating addresses, from the right and from the wrong side.
    floating: [usize; 2],
    complaints: Vec<String>,
}

impl Ledger {
    pub(super) fn new(rules: &[GroupRule]) -> Self {
        let open = |rule: &GroupRule| Account {
            rule: rule.clone(),
            right: false,
            wrong: false,
            alone: false,
        };
        Self {
            accounts: rules.iter().map(open).collect(),
            right: 0,
            wrong: 0,
            elsewhere: 0,
            floating: [0; 2],
            complaints: Vec::new(),
        }
    }

    /// Counts probes of a rule beside others.
    pub(super) fn count(&mut self, rule: &GroupRule, right: &[Shot], wrong: &[Shot]) {
        self.right += right.len();
        self.wrong += wrong.len();
        let account = self.account(rule);
        account.right |= !right.is_empty();
        account.wrong |= !wrong.is_empty();
    }

    /// Counts probes of the wrong side that are of another port.
    pub(super) fn count_elsewhere(&mut self, wrong: &[Shot]) {
        self.elsewhere += wrong.len();
    }

    /// Counts probes of a floating address.
    pub(super) fn count_floating(&mut self, right: usize, wrong: usize) {
        self.right += right;
        self.wrong += wrong;
        self.floating[0] += right;
        self.floating[1] += wrong;
    }

    /// Counts probes of a rule by itself. Those which say the same are shown with it.
    pub(super) fn count_alone(&mut self, twins: &[GroupRule], probes: &Probes) {
        self.right += probes.right.len();
        self.wrong += probes.wrong.len();
        for twin in twins {
            let account = self.account(twin);
            account.right |= !probes.right.is_empty();
            account.wrong |= !probes.wrong.is_empty();
            account.alone = true;
        }
    }

    pub(super) fn complain(&mut self, complaints: Vec<String>) {
        self.complaints.extend(complaints);
    }

    /// Prints the sum and fails when something is missing or went wrong.
    #[expect(clippy::print_stdout, reason = "what the test shows beside passing")]
    pub(super) fn close(&self, file: &str) {
        let of = |wanted: fn(&Meaning) -> bool| -> Vec<&Account> {
            self.accounts
                .iter()
                .filter(|account| wanted(&account.meaning()))
                .collect()
        };
        let never = of(|meaning| matches!(meaning, Meaning::Never(_)));
        let answers = of(|meaning| matches!(meaning, Meaning::Answers(_)));
        let skipped: Vec<_> = self
            .accounts
            .iter()
            .filter(|account| !account.is_settled())
            .collect();
        let (right, wrong) = (self.right, self.wrong);
        println!(
            "{file}: rules={}, probes={} (right={right}, wrong={wrong}, of these at a port without the group={}), \
             floating-right={}, floating-wrong={}, matches-nothing={}, answers-only={}, skipped={}",
            self.accounts.len(),
            right + wrong,
            self.elsewhere,
            self.floating[0],
            self.floating[1],
            never.len(),
            answers.len(),
            skipped.len()
        );
        for (what, accounts) in [
            ("matches nothing", &never),
            ("answers only", &answers),
            ("skipped", &skipped),
        ] {
            for account in accounts {
                println!("  {what}: {}", account.words());
            }
        }
        assert!(
            self.complaints.is_empty(),
            "{} of {} probes:\n{}",
            self.complaints.len(),
            right + wrong,
            self.complaints.join("\n")
        );
        assert_eq!(skipped.len(), 0);
        assert!(
            self.floating.iter().all(|probes| *probes > 0),
            "the floating address of {file} was not probed from both sides: {:?}",
            self.floating
        );
    }

    fn account(&mut self, rule: &GroupRule) -> &mut Account {
        let mut accounts = self.accounts.iter_mut();
        accounts
            .find(|account| account.rule == *rule)
            .expect("a rule of the recording")
    }
}
