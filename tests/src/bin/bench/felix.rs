//! Netfilter rules in the structure that Felix gives them, from the policy of [`crate::rules`]: static chains in every
//! table, dispatch by interface, one chain per endpoint and direction with connection tracking first, mark bits for
//! accept and pass, ip sets for selectors, a comment on every rule.

use std::collections::HashSet;
use std::fmt::Write as _;

use crate::rules::{Peer, Policy};

const ACCEPT: &str = "0x10000/0x10000";
const PASS: &str = "0x20000/0x20000";
const FROM_WORKLOAD: &str = "0x40000/0x40000";
const ALL: &str = "0x0/0xf0000";
const EVERYBODY: &str = "everybody";

/// Returns the input of `ipset restore` for a host of so many endpoints.
pub(crate) fn sets(policy: &Policy, endpoints: usize) -> String {
    let mut text = String::new();
    for set in 0..policy.sets {
        write_set(&mut text, &set.to_string(), policy.members(set));
    }
    if policy.names_everybody() {
        let v4 = policy.everybody(endpoints).filter(std::net::IpAddr::is_ipv4);
        write_set(&mut text, EVERYBODY, v4);
    }
    text
}

fn write_set(text: &mut String, name: &str, members: impl Iterator<Item = std::net::IpAddr>) {
    let _ = writeln!(
        text,
        "create cali40s:bench{name} hash:net family inet maxelem 1048576"
    );
    for address in members {
        let _ = writeln!(text, "add cali40s:bench{name} {address}");
    }
}

/// Returns the input of `iptables-restore` for the taps `names`, which share `policy_sets` lists of rules by turns.
pub(crate) fn rules(policy: &Policy, names: &[impl AsRef<str>], policy_sets: usize) -> String {
    [raw(), mangle(), nat(), filter(policy, names, policy_sets)].concat()
}

/// Returns the input of `iptables-restore` that leaves no rules.
pub(crate) fn nothing() -> String {
    let tables = [
        ("raw", "PREROUTING OUTPUT"),
        ("mangle", "PREROUTING INPUT FORWARD OUTPUT POSTROUTING"),
        ("nat", "PREROUTING INPUT OUTPUT POSTROUTING"),
        ("filter", "INPUT FORWARD OUTPUT"),
    ];
    let mut text = String::new();
    for (table, chains) in tables {
        let _ = writeln!(text, "*{table}");
        for chain in chains.split(' ') {
            let _ = writeln!(text, ":{chain} ACCEPT [0:0]");
        }
        let _ = writeln!(text, "COMMIT");
    }
    text
}

/// One table in `iptables-restore` form.
struct Table {
    name: &'static str,
    chains: Vec<String>,
    known: HashSet<String>,
    rules: Vec<String>,
    hooks: Vec<String>,
}

impl Table {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            chains: Vec::new(),
            known: HashSet::new(),
            rules: Vec::new(),
            hooks: Vec::new(),
        }
    }

    fn hook(&mut self, rule: &str) {
        self.hooks.push(format!("-I {rule}"));
    }

    fn add(&mut self, chain: &str, rule: &str) {
        if self.known.insert(chain.to_owned()) {
            self.chains.push(chain.to_owned());
        }
        if !rule.is_empty() {
            let number = self.rules.len();
            self.rules.push(format!(
                "-A {chain} -m comment --comment \"cali:{number:016x}\" {rule}"
            ));
        }
    }

    fn text(&self) -> String {
        let mut text = format!("*{}\n", self.name);
        for chain in &self.chains {
            let _ = writeln!(text, ":{chain} - [0:0]");
        }
        for rule in self.hooks.iter().chain(&self.rules) {
            let _ = writeln!(text, "{rule}");
        }
        text + "COMMIT\n"
    }
}

fn raw() -> String {
    let mut table = Table::new("raw");
    table.hook("PREROUTING -j cali-PREROUTING");
    table.add("cali-from-host-endpoint", "");
    table.add("cali-PREROUTING", &format!("-j MARK --set-xmark {ALL}"));
    table.add(
        "cali-PREROUTING",
        &format!("-i tap+ -j MARK --set-xmark {FROM_WORKLOAD}"),
    );
    table.add(
        "cali-PREROUTING",
        &format!("-m mark --mark {FROM_WORKLOAD} -m rpfilter --validmark --invert -j DROP"),
    );
    table.add(
        "cali-PREROUTING",
        "-m mark --mark 0x0/0x40000 -j cali-from-host-endpoint",
    );
    table.add("cali-PREROUTING", &format!("-m mark --mark {ACCEPT} -j ACCEPT"));
    table.text()
}

fn mangle() -> String {
    let mut table = Table::new("mangle");
    table.hook("PREROUTING -j cali-PREROUTING");
    table.hook("POSTROUTING -j cali-POSTROUTING");
    table.add("cali-from-host-endpoint", "");
    table.add("cali-to-host-endpoint", "");
    table.add(
        "cali-PREROUTING",
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    );
    table.add("cali-PREROUTING", &format!("-m mark --mark {ACCEPT} -j ACCEPT"));
    table.add("cali-PREROUTING", "-j cali-from-host-endpoint");
    table.add("cali-POSTROUTING", &format!("-m mark --mark {ACCEPT} -j RETURN"));
    table.add("cali-POSTROUTING", "-j MARK --set-xmark 0x0/0xe0000");
    table.add(
        "cali-POSTROUTING",
        "-m conntrack --ctstate DNAT -j cali-to-host-endpoint",
    );
    table.text()
}

fn nat() -> String {
    let mut table = Table::new("nat");
    table.hook("PREROUTING -j cali-PREROUTING");
    table.hook("POSTROUTING -j cali-POSTROUTING");
    table.add("cali-fip-dnat", "");
    table.add("cali-fip-snat", "");
    table.add("cali-nat-outgoing", "");
    table.add("cali-PREROUTING", "-j cali-fip-dnat");
    table.add("cali-POSTROUTING", "-j cali-fip-snat");
    table.add("cali-POSTROUTING", "-j cali-nat-outgoing");
    table.text()
}

fn filter(rules: &Policy, names: &[impl AsRef<str>], policy_sets: usize) -> String {
    let mut table = Table::new("filter");
    table.hook("FORWARD -j cali-FORWARD");
    table.add("cali-from-hep-forward", "");
    table.add("cali-to-hep-forward", "");
    table.add("cali-cidr-block", "");
    table.add("cali-FORWARD", "-j MARK --set-xmark 0x0/0xe0000");
    table.add(
        "cali-FORWARD",
        "-m mark --mark 0x0/0x10000 -j cali-from-hep-forward",
    );
    table.add("cali-from-wl-dispatch", "");
    table.add("cali-to-wl-dispatch", "");
    table.add("cali-FORWARD", "-i tap+ -j cali-from-wl-dispatch");
    table.add("cali-FORWARD", "-o tap+ -j cali-to-wl-dispatch");
    table.add("cali-FORWARD", "-j cali-to-hep-forward");
    table.add("cali-FORWARD", "-j cali-cidr-block");
    table.add("cali-FORWARD", &format!("-m mark --mark {ACCEPT} -j ACCEPT"));
    for list in 0..policy_sets {
        let chains = [format!("cali-po-bench{list}"), format!("cali-pi-bench{list}")];
        policy(&mut table, &chains[0], rules, list, "--destination", "dst");
        policy(&mut table, &chains[1], rules, list, "--source", "src");
    }
    for chain in ["cali-pro-bench", "cali-pri-bench"] {
        table.add(chain, &format!("-j MARK --set-xmark {ACCEPT}"));
        table.add(chain, &format!("-m mark --mark {ACCEPT} -j RETURN"));
    }
    for (index, name) in names.iter().enumerate() {
        let (name, list) = (name.as_ref(), index % policy_sets);
        endpoint(
            &mut table,
            &format!("cali-fw-{name}"),
            &format!("cali-po-bench{list}"),
            "cali-pro-bench",
            true,
        );
        endpoint(
            &mut table,
            &format!("cali-tw-{name}"),
            &format!("cali-pi-bench{list}"),
            "cali-pri-bench",
            false,
        );
        table.add("cali-from-wl-dispatch", &format!("-i {name} -g cali-fw-{name}"));
        table.add("cali-to-wl-dispatch", &format!("-o {name} -g cali-tw-{name}"));
    }
    table.add("cali-from-wl-dispatch", "-j DROP");
    table.add("cali-to-wl-dispatch", "-j DROP");
    table.text()
}

/// Each rule is two, as Felix writes them: the match sets the mark, the mark returns.
fn policy(table: &mut Table, chain: &str, policy: &Policy, list: usize, side: &str, leg: &str) {
    for index in 0..policy.rules {
        let (peer, port) = policy.rule(index);
        let port = if index + 1 == policy.rules {
            usize::from(port)
        } else {
            usize::from(port) + list
        };
        let peer = match peer {
            Peer::Anyone => String::new(),
            Peer::Net(net) => format!("{side} {net} "),
            Peer::Set(set) => format!("-m set --match-set cali40s:bench{set} {leg} "),
            Peer::Everybody => format!("-m set --match-set cali40s:bench{EVERYBODY} {leg} "),
        };
        let protocol = policy.protocol;
        let matched = format!("-p {protocol} {peer}-m multiport --dports {port}");
        table.add(chain, &format!("{matched} -j MARK --set-xmark {ACCEPT}"));
        table.add(chain, &format!("-m mark --mark {ACCEPT} -j RETURN"));
    }
}

fn endpoint(table: &mut Table, chain: &str, policy: &str, profile: &str, from_workload: bool) {
    table.add(chain, "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
    table.add(chain, "-m conntrack --ctstate INVALID -j DROP");
    table.add(chain, "-j MARK --set-xmark 0x0/0x30000");
    if from_workload {
        table.add(chain, "-p udp -m multiport --dports 4789 -j DROP");
        table.add(chain, "-p 4 -j DROP");
    }
    table.add(chain, &format!("-m mark --mark 0x0/{} -j {policy}", &PASS[..7]));
    table.add(chain, &format!("-m mark --mark {ACCEPT} -j RETURN"));
    table.add(chain, &format!("-m mark --mark 0x0/{} -j DROP", &PASS[..7]));
    table.add(chain, &format!("-j {profile}"));
    table.add(chain, &format!("-m mark --mark {ACCEPT} -j RETURN"));
    table.add(chain, "-j DROP");
}
