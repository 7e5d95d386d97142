//! Felix's part of a table, read from the text of `iptables-save`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Beginnings of the names of Felix's chains, today's and those of its first versions. The DHCP agent's begin with
/// `calico-`.
const CHAIN_PREFIXES: [&str; 8] = [
    "cali-", "califw-", "calitw-", "califh-", "calith-", "calipi-", "calipo-", "felix-",
];
/// Beginning of the comment on each of Felix's rules; a hash follows.
const COMMENT_PREFIX: &str = "cali:";

/// One table of one family and back end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    pub name: String,
    /// Chains that somebody made; those of the kernel are not among them.
    pub chains: Vec<String>,
    pub rules: Vec<Rule>,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub chain: String,
    /// Everything behind the chain's name, as `iptables-save` writes it.
    pub body: String,
    /// Chain or target to which it leads.
    pub target: Option<String>,
    comment: Option<String>,
}

/// What of a table is Felix's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FelixPart {
    /// Rules in chains that are not Felix's: they lead to one of its chains, or bear its comment.
    pub hooks: Vec<Rule>,
    pub chains: Vec<String>,
    /// Number of rules in these chains.
    pub rules: usize,
}

/// Returns whether a chain is Felix's, by its name.
pub fn is_felix_chain(name: &str) -> bool {
    CHAIN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Parses the output of `iptables-save`.
pub fn parse(text: &str) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            tables.push(Table {
                name: name.to_owned(),
                ..Table::default()
            });
            continue;
        }
        let Some(table) = tables.last_mut() else { continue };
        if let Some(chain) = line.strip_prefix(':') {
            let mut words = chain.split(' ');
            if let (Some(name), Some("-")) = (words.next(), words.next()) {
                table.chains.push(name.to_owned());
            }
        } else if let Some(rule) = line.strip_prefix("-A ") {
            table.rules.push(rule_of(rule));
        }
    }
    tables
}

fn rule_of(text: &str) -> Rule {
    let (chain, body) = text.split_once(' ').unwrap_or((text, ""));
    let words = words_of(body);
    let after = |flags: &[&str]| {
        let mut pairs = words.windows(2);
        let found = pairs.find(|pair| flags.contains(&pair[0].as_str()));
        found.map(|pair| pair[1].clone())
    };
    Rule {
        chain: chain.to_owned(),
        body: body.to_owned(),
        target: after(&["-j", "-g"]),
        comment: after(&["--comment"]),
    }
}

/// Splits at blanks outside of double quotes; a backslash takes the next character as it is.
fn words_of(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quoted, mut open) = (String::new(), false, false);
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => (quoted, open) = (!quoted, true),
            '\\' => word.extend(characters.next()),
            ' ' if !quoted => {
                if open || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                open = false;
            }
            other => word.push(other),
        }
    }
    if open || !word.is_empty() {
        words.push(word);
    }
    words
}

impl Rule {
    fn is_felix(&self) -> bool {
        self.target.as_deref().is_some_and(is_felix_chain)
            || self
                .comment
                .as_deref()
                .and_then(|comment| comment.strip_prefix(COMMENT_PREFIX))
                .is_some_and(is_hash)
    }
}

fn is_hash(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !text.is_empty() && text.bytes().all(is_part)
}

impl Table {
    /// Returns what of it is Felix's.
    pub fn felix(&self) -> FelixPart {
        let (inside, outside): (Vec<&Rule>, Vec<&Rule>) =
            self.rules.iter().partition(|rule| is_felix_chain(&rule.chain));
        FelixPart {
            hooks: outside
                .into_iter()
                .filter(|rule| rule.is_felix())
                .cloned()
                .collect(),
            chains: self
                .chains
                .iter()
                .filter(|chain| is_felix_chain(chain))
                .cloned()
                .collect(),
            rules: inside.len(),
        }
    }

    /// Returns every chain to which packets get that enter `chain`.
    pub fn reached_from(&self, chain: &str) -> BTreeSet<&str> {
        let mut next: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for rule in &self.rules {
            next.entry(&rule.chain)
                .or_default()
                .extend(rule.target.as_deref());
        }
        let mut reached = BTreeSet::new();
        let mut open: Vec<&str> = next.get(chain).cloned().unwrap_or_default();
        while let Some(chain) = open.pop() {
            if reached.insert(chain) {
                open.extend(next.get(chain).into_iter().flatten());
            }
        }
        reached
    }
}

impl FelixPart {
    /// Returns whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.hooks.is_empty() && self.chains.is_empty()
    }

    /// Returns the input of `iptables-restore --noflush` that removes it from the table called `name`, all at once.
    pub fn removal(&self, name: &str) -> String {
        let mut text = format!("*{name}\n");
        let mut line = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").unwrap_or_default();
        for Rule { chain, body, .. } in &self.hooks {
            line(format_args!("-D {chain} {body}"));
        }
        // Chains lead to each other: all are empty before the first goes.
        for chain in &self.chains {
            line(format_args!("-F {chain}"));
        }
        for chain in &self.chains {
            line(format_args!("-X {chain}"));
        }
        text + "COMMIT\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = r#"# Generated by iptables-save v1.8.9
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
:cali-FORWARD - [0:0]
:cali-from-wl-dispatch - [0:0]
:cali-fw-tap1 - [0:0]
:cali-lost - [0:0]
:calico-dhcp - [0:0]
:calibre - [0:0]
-A INPUT -m comment --comment "not cali: at all" -j ACCEPT
-A FORWARD -m comment --comment "cali:wUHhoiAYhphO9Mso" -j cali-FORWARD
-A FORWARD -j DOCKER-USER
-A FORWARD -m comment --comment "cali:S93hcgKJrXEqnTfs" -m comment --comment "Policy \"explicitly\" accepted packet." -m mark --mark 0x10000/0x10000 -j ACCEPT
-A FORWARD -j calico-dhcp
-A cali-FORWARD -i tap+ -j cali-from-wl-dispatch
-A cali-from-wl-dispatch -i tap1 -g cali-fw-tap1
-A cali-fw-tap1 -j DROP
-A calico-dhcp -j ACCEPT
COMMIT
*raw
:PREROUTING ACCEPT [0:0]
COMMIT
"#;

    #[test]
    fn hooks_and_chains_of_felix_are_found_and_similar_names_are_not() {
        let tables = parse(SAVED);
        let part = tables[0].felix();
        let hooks: Vec<_> = part
            .hooks
            .iter()
            .map(|rule| rule.target.as_deref().unwrap())
            .collect();
        assert_eq!(hooks, ["cali-FORWARD", "ACCEPT"]);
        assert_eq!(
            part.chains,
            [
                "cali-FORWARD",
                "cali-from-wl-dispatch",
                "cali-fw-tap1",
                "cali-lost"
            ]
        );
        assert_eq!(part.rules, 3);
        assert!(tables[1].felix().is_empty());
    }

    #[test]
    fn removal_takes_hooks_first_and_empties_all_chains_before_it_removes_one() {
        let part = parse(SAVED)[0].felix();
        let text = part.removal("filter");
        let verbs: Vec<&str> = text.lines().map(|line| &line[..2]).collect();
        let expected = [
            "*f", "-D", "-D", "-F", "-F", "-F", "-F", "-X", "-X", "-X", "-X", "CO",
        ];
        assert_eq!(verbs, expected);
        assert!(text.contains(r#"-D FORWARD -m comment --comment "cali:S93hcgKJrXEqnTfs" -m comment --comment "Policy \"explicitly\" accepted packet." -m mark"#));
        assert!(!text.contains("calico-dhcp") && !text.contains("calibre"));
    }

    #[test]
    fn what_a_chain_leads_to_is_followed_over_jumps_and_gotos_and_loops_end() {
        let tables = parse(SAVED);
        let reached = tables[0].reached_from("FORWARD");
        assert!(reached.contains("cali-fw-tap1"), "{reached:?}");
        assert!(!reached.contains("cali-lost"), "{reached:?}");
        let looped = parse("*filter\n-A a -j b\n-A b -j a\n");
        assert_eq!(looped[0].reached_from("a").len(), 2);
    }

    #[test]
    fn text_that_is_no_rule_set_has_no_part_of_felix() {
        for text in [
            "",
            "-A FORWARD -j cali-FORWARD",
            "*",
            ":cali-x",
            "*filter\n-A ",
            "*f\n:x",
        ] {
            for table in parse(text) {
                assert!(table.felix().is_empty(), "{text}");
            }
        }
    }
}
