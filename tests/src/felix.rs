//! What Felix leaves on a host, in the structure of its own renderer: chains and hooks of all tables and both families,
//! sets, routes, neighbours and settings (contract 3). All may send; each guest receives the TCP ports that it is given.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Stdio};

use crate::guest::Vm;
use crate::netns::Netns;

/// Back end of iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Iptables {
    Legacy,
    Nft,
}

impl Iptables {
    fn program(self, v6: bool, verb: &str) -> String {
        let family = if v6 { "ip6tables" } else { "iptables" };
        let backend = match self {
            Self::Legacy => "legacy",
            Self::Nft => "nft",
        };
        format!("{family}-{backend}-{verb}")
    }
}

/// One guest as Felix sees it.
#[derive(Clone, Debug)]
pub struct Port {
    pub vm: Vm,
    /// TCP ports that are open from everywhere.
    pub open: Vec<u16>,
    /// Floating addresses.
    pub floating: Vec<IpAddr>,
}

/// A Felix that has written its rules for some guests.
#[derive(Clone, Debug)]
pub struct Felix {
    pub iptables: Iptables,
    pub ports: Vec<Port>,
    /// Metric of IPv4 routes; Felix before 3.32 gives none.
    pub metric: Option<u32>,
}

/// A process by Felix's name, in a host's namespace. It ends with this value.
#[derive(Debug)]
pub struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Felix {
    /// Starts a process that bears Felix's name.
    pub fn process(host: &Netns) -> Process {
        let mut command = host.command("sleep");
        let command = command
            .arg0("/usr/bin/calico-felix")
            .arg("1000")
            .stdin(Stdio::null());
        Process(command.spawn().expect("sleep starts"))
    }

    /// Writes settings, sets, rules, routes and neighbours.
    pub fn write(&self, host: &Netns) {
        self.write_settings(host);
        host.feed("ipset", &["restore", "-exist"], SETS);
        for v6 in [false, true] {
            host.feed(
                &self.iptables.program(v6, "restore"),
                &["--noflush"],
                &self.rules(v6),
            );
        }
        self.write_routes(host);
    }

    /// Names of the chain of each direction for a guest.
    pub fn chains_of(vm: &Vm) -> [String; 2] {
        ["cali-fw-", "cali-tw-"].map(|prefix| prefix.to_owned() + &vm.interface())
    }

    /// Runs lines of `iptables-restore` for one family.
    pub fn amend(&self, host: &Netns, v6: bool, lines: &str) {
        host.feed(&self.iptables.program(v6, "restore"), &["--noflush"], lines);
    }

    fn write_settings(&self, host: &Netns) {
        host.set_sysctls(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ]);
        for port in &self.ports {
            let tap = port.vm.interface();
            let settings = [
                ("ipv6/conf/{}/accept_ra", "0"),
                ("ipv4/conf/{}/route_localnet", "1"),
                ("ipv4/neigh/{}/proxy_delay", "0"),
                ("ipv4/conf/{}/proxy_arp", "1"),
                ("ipv4/conf/{}/forwarding", "1"),
                ("ipv6/conf/{}/proxy_ndp", "1"),
                ("ipv6/conf/{}/forwarding", "1"),
            ];
            for (path, value) in settings {
                host.set_sysctl(&format!("net/{}", path.replace("{}", &tap)), value);
            }
            let rp_filter = host.sysctl("net/ipv4/conf/default/rp_filter");
            host.set_sysctl(&format!("net/ipv4/conf/{tap}/rp_filter"), &rp_filter);
        }
    }

    /// Writes the routes first, then takes away what it does not know, as Felix does.
    fn write_routes(&self, host: &Netns) {
        let metric = self
            .metric
            .map_or(String::new(), |metric| format!("metric {metric}"));
        for port in &self.ports {
            let (tap, mac) = (port.vm.interface(), port.vm.mac_text());
            let v4 = port.floating.iter().filter(|address| address.is_ipv4());
            for address in v4.copied().chain([port.vm.v4().into()]) {
                host.ip(&format!(
                    "route replace {address}/32 dev {tap} scope link proto boot {metric}
                     neigh replace {address} lladdr {mac} dev {tap} nud permanent"
                ));
                let others = host.stdout(
                    "ip",
                    &["-4", "route", "show", &format!("{address}/32"), "dev", &tap],
                );
                for other in others.lines() {
                    let is_own = match self.metric {
                        Some(metric) => other.contains(&format!("metric {metric}")),
                        None => !other.contains("metric"),
                    };
                    if !is_own {
                        host.ip(&format!("route del {} dev {tap}", other.trim()));
                    }
                }
            }
            host.ip(&format!(
                "route replace {}/128 dev {tap} proto boot",
                port.vm.v6()
            ));
        }
    }

    fn rules(&self, v6: bool) -> String {
        let mut rules = Rules::default();
        Self::raw(&mut rules);
        Self::mangle(&mut rules);
        self.nat(&mut rules, v6);
        self.filter(&mut rules, v6);
        rules.text
    }

    fn raw(rules: &mut Rules) {
        rules.table("raw", &["cali-PREROUTING", "cali-OUTPUT", "cali-rpf-skip"]);
        rules.hook("PREROUTING", "-j cali-PREROUTING");
        rules.hook("OUTPUT", "-j cali-OUTPUT");
        rules.add("cali-PREROUTING", "-j MARK --set-xmark 0x0/0xf0000");
        rules.add("cali-PREROUTING", "-i tap+ -j MARK --set-xmark 0x40000/0x40000");
        rules.add(
            "cali-PREROUTING",
            "-m mark --mark 0x40000/0x40000 -j cali-rpf-skip",
        );
        rules.add(
            "cali-PREROUTING",
            "-m mark --mark 0x40000/0x40000 -m rpfilter --validmark --invert -j DROP",
        );
        rules.add("cali-OUTPUT", "-j MARK --set-xmark 0x0/0xf0000");
        rules.commit();
    }

    fn mangle(rules: &mut Rules) {
        rules.table("mangle", &["cali-PREROUTING", "cali-POSTROUTING"]);
        rules.hook("PREROUTING", "-j cali-PREROUTING");
        rules.hook("POSTROUTING", "-j cali-POSTROUTING");
        rules.add(
            "cali-PREROUTING",
            "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        );
        rules.add("cali-POSTROUTING", "-m mark --mark 0x10000/0x10000 -j RETURN");
        rules.commit();
    }

    fn nat(&self, rules: &mut Rules, v6: bool) {
        rules.table(
            "nat",
            &[
                "cali-PREROUTING",
                "cali-OUTPUT",
                "cali-POSTROUTING",
                "cali-fip-dnat",
            ],
        );
        rules.hook("PREROUTING", "-j cali-PREROUTING");
        rules.hook("OUTPUT", "-j cali-OUTPUT");
        rules.hook("POSTROUTING", "-j cali-POSTROUTING");
        rules.add("cali-PREROUTING", "-j cali-fip-dnat");
        if !v6 {
            rules.add(
                "cali-PREROUTING",
                "-d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 127.0.0.1:8775",
            );
        }
        rules.add("cali-OUTPUT", "-j cali-fip-dnat");
        for port in &self.ports {
            for external in port.floating.iter().filter(|address| address.is_ipv6() == v6) {
                let internal = port.vm.address_like(*external);
                rules.add(
                    "cali-fip-dnat",
                    &format!("-d {external} -j DNAT --to-destination {internal}"),
                );
            }
        }
        rules.commit();
    }

    fn filter(&self, rules: &mut Rules, v6: bool) {
        let mut chains = vec![
            "cali-INPUT".to_owned(),
            "cali-FORWARD".to_owned(),
            "cali-OUTPUT".to_owned(),
            "cali-wl-to-host".to_owned(),
            "cali-from-wl-dispatch".to_owned(),
            "cali-to-wl-dispatch".to_owned(),
            "cali-po-_egress".to_owned(),
        ];
        for port in &self.ports {
            chains.push(format!("cali-pi-{}", port.vm.name()));
            chains.extend(Self::chains_of(&port.vm));
        }
        rules.table("filter", &chains.iter().map(String::as_str).collect::<Vec<_>>());
        rules.hook("INPUT", "-j cali-INPUT");
        rules.hook("FORWARD", "-j cali-FORWARD");
        rules.hook("OUTPUT", "-j cali-OUTPUT");
        rules.appended("FORWARD", "-m mark --mark 0x10000/0x10000 -j ACCEPT");
        rules.add("cali-INPUT", "-i tap+ -g cali-wl-to-host");
        if v6 {
            rules.add(
                "cali-wl-to-host",
                "-p ipv6-icmp -m icmp6 --icmpv6-type 135 -j ACCEPT",
            );
            rules.add(
                "cali-wl-to-host",
                "-p ipv6-icmp -m icmp6 --icmpv6-type 136 -j ACCEPT",
            );
        }
        rules.add("cali-wl-to-host", "-j cali-from-wl-dispatch");
        rules.add("cali-wl-to-host", "-j DROP");
        rules.add("cali-FORWARD", "-j MARK --set-xmark 0x0/0xe0000");
        rules.add("cali-FORWARD", "-i tap+ -j cali-from-wl-dispatch");
        rules.add("cali-FORWARD", "-o tap+ -j cali-to-wl-dispatch");
        rules.add("cali-OUTPUT", "-o tap+ -j RETURN");
        rules.allow("cali-po-_egress", "");
        let set = if v6 { SET6 } else { SET4 };
        for port in &self.ports {
            let policy = format!("cali-pi-{}", port.vm.name());
            // Nobody is in the set.
            rules.allow(&policy, &format!("-m set --match-set {set} src"));
            for open in &port.open {
                rules.allow(&policy, &format!("-p tcp -m multiport --dports {open}"));
            }
            let [from, to] = Self::chains_of(&port.vm);
            for (chain, policy) in [(&from, "cali-po-_egress"), (&to, policy.as_str())] {
                rules.add(chain, "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
                rules.add(chain, "-m conntrack --ctstate INVALID -j DROP");
                rules.add(chain, "-j MARK --set-xmark 0x0/0x30000");
                rules.add(chain, &format!("-m mark --mark 0x0/0x20000 -j {policy}"));
                rules.add(chain, "-m mark --mark 0x10000/0x10000 -j RETURN");
                rules.add(chain, "-j DROP");
            }
            let tap = port.vm.interface();
            rules.add("cali-from-wl-dispatch", &format!("-i {tap} -g {from}"));
            rules.add("cali-to-wl-dispatch", &format!("-o {tap} -g {to}"));
        }
        rules.add("cali-from-wl-dispatch", "-j DROP");
        rules.add("cali-to-wl-dispatch", "-j DROP");
        rules.commit();
    }
}

const SET4: &str = "cali40s:5y5I3VdRZfDU01O--xXAPx";
const SET6: &str = "cali60s:5y5I3VdRZfDU01O--xXAPx";
const SETS: &str = "create cali40s:5y5I3VdRZfDU01O--xXAPx hash:net family inet maxelem 1048576
create cali60s:5y5I3VdRZfDU01O--xXAPx hash:net family inet6 maxelem 1048576
create cali40all-ipam-pools hash:net family inet maxelem 1048576
add cali40all-ipam-pools 10.65.0.0/16
";

/// Rules with the comment that Felix gives to each.
#[derive(Debug, Default)]
struct Rules {
    text: String,
    number: u32,
}

impl Rules {
    fn table(&mut self, name: &str, chains: &[&str]) {
        self.line(&format!("*{name}"));
        for chain in chains {
            self.line(&format!(":{chain} - [0:0]"));
        }
    }

    fn hook(&mut self, chain: &str, rule: &str) {
        self.rule("-I", chain, rule);
    }

    fn appended(&mut self, chain: &str, rule: &str) {
        self.rule("-A", chain, rule);
    }

    fn add(&mut self, chain: &str, rule: &str) {
        self.rule("-A", chain, rule);
    }

    fn allow(&mut self, chain: &str, matches: &str) {
        self.add(chain, &format!("{matches} -j MARK --set-xmark 0x10000/0x10000"));
        self.add(chain, "-m mark --mark 0x10000/0x10000 -j RETURN");
    }

    fn rule(&mut self, verb: &str, chain: &str, rule: &str) {
        self.number += 1;
        let hash = format!(
            "{:016x}",
            u64::from(self.number).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        );
        self.line(&format!(
            "{verb} {chain} -m comment --comment \"cali:{hash}\" {rule}"
        ));
    }

    fn commit(&mut self) {
        self.line("COMMIT");
    }

    fn line(&mut self, line: &str) {
        writeln!(self.text, "{line}").expect("write to memory");
    }
}

/// Rules that are not Felix's, some with similar names, in every table of both families.
pub fn write_foreign_rules(host: &Netns, iptables: Iptables) {
    for v6 in [false, true] {
        let text = ["raw", "mangle", "nat", "filter"].map(|table| {
            format!(
                "*{table}\n:calico-dhcp - [0:0]\n:calibre - [0:0]\n:cali - [0:0]\n\
                 -A calico-dhcp -m comment --comment \"not cali: at all\" -j RETURN\n\
                 -A OUTPUT -j calico-dhcp\n-A OUTPUT -j calibre\nCOMMIT\n"
            )
        });
        host.feed(&iptables.program(v6, "restore"), &["--noflush"], &text.concat());
    }
    host.feed(
        "ipset",
        &["restore"],
        "create calibration hash:net\nadd calibration 198.51.100.0/24\n",
    );
}

/// Returns every rule and set of a host as text, without counters.
pub fn rules_of(host: &Netns) -> String {
    let mut text = String::new();
    for iptables in [Iptables::Legacy, Iptables::Nft] {
        for v6 in [false, true] {
            let program = iptables.program(v6, "save");
            writeln!(text, "{program}:").expect("write to memory");
            let saved = host.stdout(&program, &[""; 0]);
            let lines = saved.lines().filter(|line| !line.starts_with('#'));
            for line in lines {
                let line = line.split(" [").next().unwrap_or_default();
                writeln!(text, "{line}").expect("write to memory");
            }
        }
    }
    text + &host.stdout("ipset", &["list", "-name"])
}
