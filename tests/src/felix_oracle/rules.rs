//! Policies of any kind as Felix would write them: a chain for each policy and profile, one for each endpoint and
//! direction, marks for "accepted" and "passed", sets for addresses.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use calico_ebpf_userspace::calc::effective::{
    DirectionPolicy, EffectiveEntity, EffectivePort, EffectiveRule, EffectiveState, SetId,
};
use calico_ebpf_userspace::model::rule::{Action, IcmpMatch, IpVersion};
use ipnet::IpNet;

/// Protocols with ports: TCP, UDP, DCCP, SCTP and `UDPLite`.
const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];
/// Protocol number of the packets that always pass: when one has arrived, all before it have been judged.
pub(super) const SENTINEL: u8 = 253;
/// A rule with so many alternatives is none that a test needs.
const MOST_ALTERNATIVES: usize = 400;

/// A policy has no form as rules of iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotExpressible(pub &'static str);

/// What both families' tools are fed with.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// For `ipset restore`.
    pub(super) sets: String,
    /// For `iptables-restore` and `ip6tables-restore`.
    pub(super) filter: [String; 2],
}

/// Writes the policies of all endpoints.
pub(super) fn render(state: &EffectiveState) -> Result<Rules, NotExpressible> {
    let mut sets = Sets::default();
    let mut filter = [String::new(), String::new()];
    for (text, version) in filter.iter_mut().zip([IpVersion::V4, IpVersion::V6]) {
        let mut family = Family {
            version,
            state,
            sets: &mut sets,
            chains: Vec::new(),
            rules: String::new(),
        };
        family.endpoints()?;
        text.push_str("*filter\n:FORWARD DROP [0:0]\n");
        for chain in &family.chains {
            line(text, &format!(":{chain} - [0:0]"));
        }
        text.push_str(&family.rules);
        text.push_str("COMMIT\n");
    }
    Ok(Rules {
        sets: sets.text,
        filter,
    })
}

/// Sets that were written, by family and members.
#[derive(Default)]
struct Sets {
    names: BTreeMap<(bool, Vec<IpNet>), String>,
    text: String,
}

impl Sets {
    fn name(&mut self, version: IpVersion, nets: Vec<IpNet>) -> String {
        let is_v6 = version == IpVersion::V6;
        let next = format!("oracle{}", self.names.len());
        if let Some(known) = self.names.get(&(is_v6, nets.clone())) {
            return known.clone();
        }
        let family = if is_v6 { "inet6" } else { "inet" };
        line(&mut self.text, &format!("create {next} hash:net family {family}"));
        for net in &nets {
            // A set of nets takes none of length 0.
            if net.prefix_len() == 0 {
                for half in net.subnets(1).into_iter().flatten() {
                    line(&mut self.text, &format!("add {next} {half} -exist"));
                }
            } else {
                line(&mut self.text, &format!("add {next} {net} -exist"));
            }
        }
        self.names.insert((is_v6, nets), next.clone());
        next
    }
}

struct Family<'a> {
    version: IpVersion,
    state: &'a EffectiveState,
    sets: &'a mut Sets,
    chains: Vec<String>,
    rules: String,
}

impl Family<'_> {
    fn endpoints(&mut self) -> Result<(), NotExpressible> {
        self.chains = ["cali-FORWARD", "cali-from", "cali-to"].map(str::to_owned).into();
        self.add("FORWARD", "-j cali-FORWARD");
        self.add("cali-FORWARD", &format!("-p {SENTINEL} -j ACCEPT"));
        self.add("cali-FORWARD", "-j MARK --set-xmark 0x0/0x30000");
        self.add("cali-FORWARD", "-i tap+ -j cali-from");
        self.add("cali-FORWARD", "-o tap+ -j cali-to");
        self.add("cali-FORWARD", "-m mark --mark 0x10000/0x10000 -j ACCEPT");
        for endpoint in self.state.endpoints.values() {
            let tap = &endpoint.interface_name;
            let (from, to) = (format!("cali-fw-{tap}"), format!("cali-tw-{tap}"));
            self.add("cali-from", &format!("-i {tap} -g {from}"));
            self.add("cali-to", &format!("-o {tap} -g {to}"));
            self.direction(&from, &endpoint.policy.egress)?;
            self.direction(&to, &endpoint.policy.ingress)?;
        }
        self.add("cali-from", "-j DROP");
        self.add("cali-to", "-j DROP");
        Ok(())
    }

    fn direction(&mut self, chain: &str, policy: &DirectionPolicy) -> Result<(), NotExpressible> {
        self.chains.push(chain.to_owned());
        self.add(chain, "-j MARK --set-xmark 0x0/0x30000");
        for tier in &policy.tiers {
            self.add(chain, "-j MARK --set-xmark 0x0/0x20000");
            for policy in &tier.policies {
                let list = self.list(&policy.rules)?;
                self.add(chain, &format!("-m mark --mark 0x0/0x20000 -j {list}"));
                self.add(chain, "-m mark --mark 0x10000/0x10000 -j RETURN");
            }
            if !tier.default_pass {
                self.add(chain, "-m mark --mark 0x0/0x20000 -j DROP");
            }
        }
        self.add(chain, "-j MARK --set-xmark 0x0/0x20000");
        for profile in &policy.profiles {
            let Some(rules) = &profile.rules else { break };
            let list = self.list(rules)?;
            self.add(chain, &format!("-j {list}"));
            self.add(chain, "-m mark --mark 0x10000/0x10000 -j RETURN");
            // There is no next tier behind the profiles.
            self.add(chain, "-m mark --mark 0x20000/0x20000 -j DROP");
        }
        self.add(chain, "-j DROP");
        Ok(())
    }

    fn list(&mut self, rules: &[EffectiveRule]) -> Result<String, NotExpressible> {
        let chain = format!("cali-po-{}", self.chains.len());
        self.chains.push(chain.clone());
        for rule in rules {
            for matches in self.alternatives(rule)? {
                match rule.action {
                    Action::Allow => {
                        self.add(&chain, &format!("{matches} -j MARK --set-xmark 0x10000/0x10000"));
                        self.add(&chain, "-m mark --mark 0x10000/0x10000 -j RETURN");
                    }
                    Action::Pass => {
                        self.add(&chain, &format!("{matches} -j MARK --set-xmark 0x20000/0x20000"));
                        self.add(&chain, "-m mark --mark 0x20000/0x20000 -j RETURN");
                    }
                    Action::Deny => self.add(&chain, &format!("{matches} -j DROP")),
                    // Counted, and nothing else.
                    Action::Log => self.add(&chain, &matches),
                }
            }
        }
        Ok(chain)
    }

    /// Returns matches one of which must hold; none if the rule never does.
    fn alternatives(&mut self, rule: &EffectiveRule) -> Result<Vec<String>, NotExpressible> {
        if rule.ip_version.is_some_and(|wanted| wanted != self.version) {
            return Ok(Vec::new());
        }
        let source = self.addresses(&rule.source, "src");
        let destination = self.addresses(&rule.destination, "dst");
        let (Some(source), Some(destination)) = (source, destination) else {
            return Ok(Vec::new());
        };
        let addresses = format!("{source}{destination}");
        if !asks_ports(&rule.source) && !asks_ports(&rule.destination) {
            let protocol = self.protocol(rule)?;
            return Ok(protocol
                .map(|protocol| format!("{protocol}{addresses}"))
                .into_iter()
                .collect());
        }
        if rule.icmp.is_some() || rule.not_icmp.is_some() {
            return Ok(Vec::new());
        }
        let mut all = Vec::new();
        for number in WITH_PORTS {
            if rule.protocol.is_some_and(|wanted| wanted.0 != number)
                || rule.not_protocol.is_some_and(|unwanted| unwanted.0 == number)
            {
                continue;
            }
            let mut found = vec![format!("-p {number}{addresses}")];
            for (entity, side) in [(&rule.source, "src"), (&rule.destination, "dst")] {
                for choices in self.port_choices(entity, side, number) {
                    found = found
                        .iter()
                        .flat_map(|before| choices.iter().map(move |choice| format!("{before}{choice}")))
                        .collect();
                }
            }
            all.append(&mut found);
            if all.len() > MOST_ALTERNATIVES {
                return Err(NotExpressible("a rule with very many alternatives"));
            }
        }
        Ok(all)
    }

    /// Returns the match of a protocol, or `None` if there is none.
    fn protocol(&self, rule: &EffectiveRule) -> Result<Option<String>, NotExpressible> {
        let (icmp, word, option) = match self.version {
            IpVersion::V4 => (1, "icmp", "--icmp-type"),
            IpVersion::V6 => (58, "icmp6", "--icmpv6-type"),
        };
        let wanted = rule.protocol.map(|protocol| protocol.0);
        let unwanted = rule.not_protocol.map(|protocol| protocol.0);
        let is_about_icmp = rule.icmp.is_some() || rule.not_icmp.is_some();
        let wanted = match wanted {
            Some(number) if is_about_icmp && number != icmp => return Ok(None),
            None if is_about_icmp => Some(icmp),
            other => other,
        };
        if wanted.is_some() && wanted == unwanted {
            return Ok(None);
        }
        let mut text = match (wanted, unwanted) {
            (Some(number), _) => format!("-p {number}"),
            (None, Some(number)) => format!("! -p {number}"),
            (None, None) => String::new(),
        };
        for (negation, icmp) in [("", rule.icmp), ("! ", rule.not_icmp)] {
            let Some(IcmpMatch { kind, code }) = icmp else {
                continue;
            };
            if kind == u8::MAX && self.version == IpVersion::V4 {
                return Err(NotExpressible("iptables takes ICMP type 255 for any"));
            }
            let code = code.map_or(String::new(), |code| format!("/{code}"));
            let written = write!(text, " -m {word} {negation}{option} {kind}{code}");
            written.expect("write to memory");
        }
        Ok(Some(text))
    }

    /// Returns the matches of an address, or `None` if none passes.
    fn addresses(&mut self, entity: &EffectiveEntity, side: &str) -> Option<String> {
        let mut text = String::new();
        let mut add = |negation: &str, name: &str| {
            let written = write!(text, " -m set {negation}--match-set {name} {side}");
            written.expect("write to memory");
        };
        if let Some(nets) = &entity.nets {
            let nets = self.own(nets.iter());
            if nets.is_empty() {
                return None;
            }
            add("", &self.sets.name(self.version, nets));
        }
        let unwanted = self.own(entity.not_nets.iter());
        if !unwanted.is_empty() {
            add("! ", &self.sets.name(self.version, unwanted));
        }
        for set in &entity.sets {
            add("", &self.members(set));
        }
        for set in &entity.not_sets {
            add("! ", &self.members(set));
        }
        Some(text)
    }

    /// Returns lists of matches: one of each list must hold.
    fn port_choices(&mut self, entity: &EffectiveEntity, side: &str, protocol: u8) -> Vec<Vec<String>> {
        let option = if side == "src" { "--sports" } else { "--dports" };
        let ports = |negation: &str, first: u16, last: u16| {
            let range = if first == last {
                first.to_string()
            } else {
                format!("{first}:{last}")
            };
            format!(" -m multiport {negation}{option} {range}")
        };
        let mut all = Vec::new();
        if let Some(list) = &entity.ports {
            let mut choices = Vec::new();
            for port in list {
                match port {
                    EffectivePort::Range(first, last) => choices.push(ports("", *first, *last)),
                    EffectivePort::Member {
                        set,
                        protocol: wanted,
                        port,
                    } if wanted.0 == protocol => {
                        let set = self.members(set);
                        choices.push(format!(
                            "{} -m set --match-set {set} {side}",
                            ports("", *port, *port)
                        ));
                    }
                    EffectivePort::Member { .. } => {}
                }
            }
            all.push(choices);
        }
        for port in &entity.not_ports {
            match port {
                EffectivePort::Range(first, last) => all.push(vec![ports("! ", *first, *last)]),
                EffectivePort::Member {
                    set,
                    protocol: wanted,
                    port,
                } if wanted.0 == protocol => {
                    let set = self.members(set);
                    all.push(vec![
                        ports("! ", *port, *port),
                        format!(" -m set ! --match-set {set} {side}"),
                    ]);
                }
                EffectivePort::Member { .. } => {}
            }
        }
        all
    }

    /// Returns the name of a set of the state; one that is not there is empty.
    fn members(&mut self, set: &SetId) -> String {
        let members = self.state.sets.get(set);
        let nets = self.own(members.into_iter().flat_map(|members| members.iter()));
        self.sets.name(self.version, nets)
    }

    /// Returns the nets of this family.
    fn own<'n>(&self, nets: impl Iterator<Item = &'n IpNet>) -> Vec<IpNet> {
        let is_v4 = self.version == IpVersion::V4;
        nets.filter(|net| net.addr().is_ipv4() == is_v4)
            .map(IpNet::trunc)
            .collect()
    }

    fn add(&mut self, chain: &str, rule: &str) {
        line(&mut self.rules, &format!("-A {chain} {rule}"));
    }
}

fn asks_ports(entity: &EffectiveEntity) -> bool {
    entity.ports.is_some() || !entity.not_ports.is_empty()
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("write to memory");
}
