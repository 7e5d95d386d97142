//! Which packets tell whether a rule is in force: from the right side and from the wrong side.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use calico_ebpf_tests::recording::{GroupRule, RecordedPort};
use calico_ebpf_userspace::compile::reference::Direction;
use ipnet::IpNet;

use super::cloud::{Cloud, End, source_port};
use super::flavour::{Flavour, Meaning, beside, meaning};
use super::judge::Judge;
use super::volley::{Shot, token};

/// Far end of a probe.
#[derive(Clone, Copy, Debug)]
struct Far {
    end: End,
    address: IpAddr,
}

/// A rule at a port.
pub(super) struct Aim<'a> {
    pub(super) cloud: &'a Cloud,
    pub(super) judge: &'a Judge,
    pub(super) rule: &'a GroupRule,
    pub(super) port: usize,
    /// What is sent to instead of the port's fixed address, for rules about what comes in.
    pub(super) floating: Option<IpAddr>,
}

/// Probes for a rule.
#[derive(Default)]
pub(super) struct Probes {
    /// Packets that the rule allows.
    pub(super) right: Vec<Shot>,
    /// Packets like them that no rule of the port allows.
    pub(super) wrong: Vec<Shot>,
    /// What of the rule cannot be probed here, and why.
    pub(super) refused: Vec<String>,
}

impl Aim<'_> {
    /// Returns whether the port has an address of the rule's family.
    pub(super) fn is_possible(&self) -> bool {
        self.own_address().is_some()
    }

    /// Makes the probes of a rule. Where `alone` is given, of its right side those only that nothing but the rule allows: what
    /// `alone` knows of is everything but the rule.
    pub(super) fn probes(&self, alone: Option<&Judge>) -> Probes {
        let Some(own) = self.own_address() else {
            return Probes::default();
        };
        match meaning(self.rule, self.cloud.next_number()) {
            Meaning::Allows(flavours) => self.of_rule(own, &flavours, alone),
            Meaning::Never(flavour) => {
                let mut probes = Probes::default();
                probes.wrong.extend(self.denied(own, flavour, self.anywhere()));
                probes
            }
            Meaning::Answers(flavour) => self.answers(own, flavour),
        }
    }

    /// The same packets as a rule allows, at the port without groups. For rules beside which everything is allowed, too.
    pub(super) fn elsewhere(&self) -> Vec<Shot> {
        let bare = Aim {
            port: self.cloud.bare(),
            ..*self
        };
        let own = bare.own_address().expect("it has both families");
        let Meaning::Allows(flavours) = meaning(self.rule, self.cloud.next_number()) else {
            return Vec::new();
        };
        let far = self.right_fars(own).first().copied();
        let shots = flavours.iter().zip(far);
        shots
            .filter_map(|(flavour, far)| bare.denied(own, *flavour, far))
            .collect()
    }

    fn of_rule(&self, own: IpAddr, flavours: &[Flavour], alone: Option<&Judge>) -> Probes {
        let mut probes = Probes::default();
        let fars = self.right_fars(own);
        for (far, flavour) in fars
            .iter()
            .flat_map(|far| flavours.iter().map(move |flavour| (*far, *flavour)))
        {
            let far = self.fresh(far);
            if !self.allows(self.judge, own, flavour, far) {
                probes.refused.push(self.words(own, flavour, far));
            } else if alone.is_none_or(|others| !self.allows(others, own, flavour, far)) {
                probes.right.push(self.shot(own, flavour, far, true));
            }
        }
        for flavour in flavours {
            if self.has_remote() {
                probes.wrong.extend(self.denied(own, *flavour, self.anywhere()));
            }
            let others = beside(self.rule, *flavour, self.cloud.next_number());
            let by_flavour = fars.first().and_then(|far| {
                let mut denied = others
                    .iter()
                    .filter_map(|other| self.denied(own, *other, self.fresh(*far)));
                denied.next()
            });
            probes.wrong.extend(by_flavour);
        }
        probes
    }

    /// An answer passes with the flow of its question and not without, whatever policy says of it.
    fn answers(&self, own: IpAddr, flavour: Flavour) -> Probes {
        let far = self.anywhere();
        let question = |asking: IpAddr, asked: IpAddr, number: usize| {
            let flavour = match flavour {
                Flavour::Icmp(58, 129, _) => Flavour::Icmp(58, 128, 0),
                Flavour::Icmp(..) | Flavour::Ports(..) | Flavour::Plain(_) => Flavour::Ports(17, 53),
            };
            flavour.packet(asking, asked, source_port(number), &token(number))
        };
        let answer = |far: Far, asked: bool| {
            let mut shot = self.shot(own, flavour, far, asked);
            let (from, to) = self.ends(own, far.address);
            let question = question(to, from, shot.number);
            if let Flavour::Icmp(protocol, kind, code) = flavour
                && (protocol, kind) != (58, 129)
            {
                let path = calico_ebpf_tests::packets::Path::new((from, 0), (to, 0));
                shot.packet = path.error_about(&question, [kind, code], 128);
            }
            shot.opener = asked.then_some(question);
            shot
        };
        Probes {
            right: vec![answer(far, true)],
            wrong: vec![answer(self.fresh(far), false)],
            refused: Vec::new(),
        }
    }

    fn denied(&self, own: IpAddr, flavour: Flavour, far: Far) -> Option<Shot> {
        (!self.allows(self.judge, own, flavour, far)).then(|| self.shot(own, flavour, far, false))
    }

    fn allows(&self, judge: &Judge, own: IpAddr, flavour: Flavour, far: Far) -> bool {
        let interface = |end| match end {
            End::Port(index) => Some(self.cloud.ports()[index].port.interface()),
            End::Outside => None,
        };
        let (from, to) = self.ends(own, far.address);
        let facts = flavour.facts(from, to, 1024);
        let (near, far) = (interface(End::Port(self.port)), interface(far.end));
        match self.rule.direction {
            Direction::Ingress => judge.allows(far, near, &facts),
            Direction::Egress => judge.allows(near, far, &facts),
        }
    }

    fn shot(&self, own: IpAddr, flavour: Flavour, far: Far, arrives: bool) -> Shot {
        let (from, to) = self.ends(own, far.address);
        let near = End::Port(self.port);
        let ends = match self.rule.direction {
            Direction::Ingress => [far.end, near],
            Direction::Egress => [near, far.end],
        };
        let to = match self.rule.direction {
            Direction::Ingress => self.floating.unwrap_or(to),
            Direction::Egress => to,
        };
        Shot {
            what: self.words(own, flavour, far),
            ..Shot::new(self.cloud, ends, flavour, [from, to], arrives)
        }
    }

    fn words(&self, own: IpAddr, flavour: Flavour, far: Far) -> String {
        let (from, to) = self.ends(own, far.address);
        let GroupRule {
            group,
            direction,
            index,
            value,
        } = self.rule;
        let port = &self.cloud.ports()[self.port].port;
        format!(
            "{flavour:?} from {from} to {to} at {} for {group} {}[{index}] {value}",
            port.interface(),
            direction.as_str()
        )
    }

    fn ends(&self, own: IpAddr, far: IpAddr) -> (IpAddr, IpAddr) {
        match self.rule.direction {
            Direction::Ingress => (far, own),
            Direction::Egress => (own, far),
        }
    }

    pub(super) fn own_address(&self) -> Option<IpAddr> {
        self.cloud.ports()[self.port].address(self.rule.value["ipVersion"] == 4)
    }

    fn has_remote(&self) -> bool {
        self.rule.remote_group().is_some() || self.rule.remote_nets().iter().any(|net| net.prefix_len() > 0)
    }

    /// Returns far ends that the rule names: a member on this host and one on another, an address of its nets, or anybody.
    fn right_fars(&self, own: IpAddr) -> Vec<Far> {
        if let Some(group) = self.rule.remote_group() {
            return self.members(group, own);
        }
        let nets = self.rule.remote_nets();
        match nets.first() {
            Some(net) if net.prefix_len() > 0 => vec![Far {
                end: End::Outside,
                address: inside(net, self.cloud.next_number()),
            }],
            _ => vec![self.anywhere()],
        }
    }

    fn members(&self, group: &str, own: IpAddr) -> Vec<Far> {
        let is_v4 = own.is_ipv4();
        let is_member = |port: &RecordedPort| port.groups().contains(group);
        let mut locals = self.cloud.ports().iter().enumerate();
        let local = locals.find_map(|(index, local)| {
            let address = local.address(is_v4)?;
            (index != self.port && is_member(&local.recorded)).then_some(Far {
                end: End::Port(index),
                address,
            })
        });
        let remote = self.cloud.remotes().iter().find_map(|port| {
            let addresses = port.addresses();
            let address = addresses.into_iter().find(|address| address.is_ipv4() == is_v4)?;
            is_member(port).then_some(Far {
                end: End::Outside,
                address,
            })
        });
        local.into_iter().chain(remote).collect()
    }

    /// Returns a far end behind the uplink that no rule names, another one each time.
    fn anywhere(&self) -> Far {
        let number = u16::try_from(self.cloud.next_number()).expect("few probes");
        let [high, low] = number.to_be_bytes();
        let address = if self.rule.value["ipVersion"] == 4 {
            Ipv4Addr::new(172, 16, high, low).into()
        } else {
            Ipv6Addr::new(0x2001, 0xdb8, 0xbeef, 0, 0, 0, 0, number).into()
        };
        Far {
            end: End::Outside,
            address,
        }
    }

    /// Returns a far end like this one that no probe had, unless the rule names the far end.
    fn fresh(&self, far: Far) -> Far {
        if self.has_remote() { far } else { self.anywhere() }
    }
}

/// Returns an address of a net that nobody has in a recording.
fn inside(net: &IpNet, number: usize) -> IpAddr {
    let offset = 64 + number % 100;
    match net {
        IpNet::V4(net) if net.prefix_len() == 32 => net.addr().into(),
        IpNet::V6(net) if net.prefix_len() == 128 => net.addr().into(),
        IpNet::V4(net) => {
            let [a, b, c, _] = net.network().octets();
            Ipv4Addr::new(a, b, c, u8::try_from(offset).expect("below 164")).into()
        }
        IpNet::V6(net) => {
            let [a, b, c, ..] = net.network().segments();
            let last = u16::try_from(offset).expect("below 164");
            Ipv6Addr::new(a, b, c, 0xffff, 0, 0, 0, last).into()
        }
    }
}
