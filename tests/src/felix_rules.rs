//! Classic Felix's iptables rules for one policy (all may send, web receives port 80, db receives tcp/5432): dispatch by interface, one chain per endpoint and
//! direction with connection tracking first, one chain per policy, the reverse path checked before.

use std::fmt::Write as _;

use crate::guest::Vm;
use crate::netns::Netns;

/// Mark bit that says "accepted by policy".
const ACCEPTED: &str = "0x10000/0x10000";
/// Programs that restore rules, per family, in order of preference.
const RESTORE: [(&str, &str, &str); 3] = [
    (
        "iptables-legacy",
        "iptables-legacy-restore",
        "ip6tables-legacy-restore",
    ),
    ("iptables-nft", "iptables-nft-restore", "ip6tables-nft-restore"),
    ("iptables", "iptables-restore", "ip6tables-restore"),
];

/// Rules of the policies: chain suffix, direction, matches that allow.
struct PolicyChain {
    name: &'static str,
    allows: &'static [&'static str],
}

const EGRESS: PolicyChain = PolicyChain {
    name: "cali-po-egress",
    allows: &[""],
};
const WEB: PolicyChain = PolicyChain {
    name: "cali-pi-web",
    allows: &[
        "-p tcp -m multiport --dports 80",
        "-p udp -m multiport --dports 80",
    ],
};
const DB: PolicyChain = PolicyChain {
    name: "cali-pi-db",
    allows: &["-p tcp -m multiport --dports 5432"],
};

/// Puts the rules into force for guests with their roles (`web`, `db` or any other) and returns the name of the
/// variant of iptables that took them.
///
/// # Errors
///
/// What each variant said.
pub fn apply(host: &Netns, guests: &[(&Vm, &str)]) -> Result<&'static str, String> {
    let rules = render(guests);
    let mut refusals = String::new();
    for (name, v4, v6) in RESTORE {
        let refusal = [v4, v6]
            .iter()
            .find_map(|program| host.try_feed(program, &["--noflush"], &rules).err());
        let Some(refusal) = refusal else { return Ok(name) };
        line(&mut refusals, &format!("{name}: {refusal}"));
    }
    Err(refusals)
}

fn render(guests: &[(&Vm, &str)]) -> String {
    let mut text = String::from("*raw\n:cali-PREROUTING - [0:0]\n-I PREROUTING -j cali-PREROUTING\n");
    text += "-A cali-PREROUTING -j MARK --set-xmark 0x0/0xf0000\n";
    text += "-A cali-PREROUTING -i tap+ -j MARK --set-xmark 0x40000/0x40000\n";
    text += "-A cali-PREROUTING -m mark --mark 0x40000/0x40000 -m rpfilter --validmark --invert -j DROP\nCOMMIT\n";
    text += "*mangle\n:cali-PREROUTING - [0:0]\n-I PREROUTING -j cali-PREROUTING\n";
    text += "-A cali-PREROUTING -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n";
    text += "*filter\n";
    for chain in ["cali-FORWARD", "cali-from-wl-dispatch", "cali-to-wl-dispatch"] {
        line(&mut text, &format!(":{chain} - [0:0]"));
    }
    line(&mut text, "-I FORWARD -j cali-FORWARD");
    line(&mut text, "-A cali-FORWARD -j MARK --set-xmark 0x0/0xe0000");
    line(&mut text, "-A cali-FORWARD -i tap+ -j cali-from-wl-dispatch");
    line(&mut text, "-A cali-FORWARD -o tap+ -j cali-to-wl-dispatch");
    line(
        &mut text,
        &format!("-A cali-FORWARD -m mark --mark {ACCEPTED} -j ACCEPT"),
    );
    for policy in [EGRESS, WEB, DB] {
        policy_chain(&mut text, &policy);
    }
    for (vm, name) in guests {
        let ingress = match *name {
            "web" => Some(WEB),
            "db" => Some(DB),
            _ => None,
        };
        endpoint_chain(&mut text, &format!("cali-fw-{}", vm.interface()), Some(EGRESS));
        endpoint_chain(&mut text, &format!("cali-tw-{}", vm.interface()), ingress);
        let tap = vm.interface();
        line(
            &mut text,
            &format!("-A cali-from-wl-dispatch -i {tap} -g cali-fw-{tap}"),
        );
        line(
            &mut text,
            &format!("-A cali-to-wl-dispatch -o {tap} -g cali-tw-{tap}"),
        );
    }
    line(&mut text, "-A cali-from-wl-dispatch -j DROP");
    line(&mut text, "-A cali-to-wl-dispatch -j DROP");
    text + "COMMIT\n"
}

fn policy_chain(text: &mut String, policy: &PolicyChain) {
    line(text, &format!(":{} - [0:0]", policy.name));
    for allow in policy.allows {
        line(
            text,
            &format!("-A {} {allow} -j MARK --set-xmark {ACCEPTED}", policy.name),
        );
        line(
            text,
            &format!("-A {} -m mark --mark {ACCEPTED} -j RETURN", policy.name),
        );
    }
}

fn endpoint_chain(text: &mut String, chain: &str, policy: Option<PolicyChain>) {
    line(text, &format!(":{chain} - [0:0]"));
    line(
        text,
        &format!("-A {chain} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
    );
    line(
        text,
        &format!("-A {chain} -m conntrack --ctstate INVALID -j DROP"),
    );
    line(text, &format!("-A {chain} -j MARK --set-xmark 0x0/0x30000"));
    if let Some(policy) = policy {
        line(
            text,
            &format!("-A {chain} -m mark --mark 0x0/0x20000 -j {}", policy.name),
        );
        line(text, &format!("-A {chain} -m mark --mark {ACCEPTED} -j RETURN"));
    }
    line(text, &format!("-A {chain} -j DROP"));
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("write to memory");
}
