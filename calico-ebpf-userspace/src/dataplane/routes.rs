//! Kernel routes to workloads: what BIRD exports, and what the stack follows for packets that it forwards.
//!
//! A route is on a tap, in the main table, with protocol `DeviceRouteProtocol`. Routes on other interfaces, and those
//! of the kernel and of BIRD, are never touched.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};

use super::diff::{Delta, diff};
use crate::config::values::Config;

/// Metric that the kernel gives to IPv6 routes without one.
const DEFAULT_METRIC6: u32 = 1024;
/// For this long, routes of an interface that was just seen are left alone: the endpoint may not be known yet.
const GRACE: Duration = Duration::from_secs(10);

/// What tells one route from another in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    pub prefix: IpNet,
    pub ifindex: u32,
    pub metric: u32,
}

/// The rest of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteBody {
    pub protocol: u8,
    /// IPv6 knows no scopes.
    pub link_scope: bool,
    pub unicast: bool,
    pub has_gateway: bool,
    pub source: Option<IpAddr>,
}

/// Routes by their identity.
pub type RouteTable = BTreeMap<RouteKey, RouteBody>;

/// A prefix and the tap that it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoutePlace {
    pub prefix: IpNet,
    pub ifindex: u32,
    /// Whether the route must beat that of another host, because the workload has just come from there.
    pub elevated: bool,
}

/// Returns the routes for prefixes that belong to taps. Where two taps have the same prefix, the highest interface
/// number wins.
pub fn desired_routes(config: &Config, places: impl IntoIterator<Item = RoutePlace>) -> RouteTable {
    let mut owners: BTreeMap<IpNet, RoutePlace> = BTreeMap::new();
    for place in places {
        let owner = owners.entry(place.prefix.trunc()).or_insert(place);
        if place.ifindex > owner.ifindex {
            *owner = place;
        }
    }
    owners
        .into_iter()
        .map(|(prefix, place)| desired_route(config, RoutePlace { prefix, ..place }))
        .collect()
}

fn desired_route(config: &Config, place: RoutePlace) -> (RouteKey, RouteBody) {
    let RoutePlace {
        prefix,
        ifindex,
        elevated,
    } = place;
    let source = match prefix {
        IpNet::V4(_) => config.device_route_source_address.map(IpAddr::from),
        IpNet::V6(_) => config.device_route_source_address_ipv6.map(IpAddr::from),
    };
    let metric = metric_of(config, &prefix, elevated);
    let metric = if metric == 0 && prefix.addr().is_ipv6() {
        DEFAULT_METRIC6
    } else {
        metric
    };
    let body = RouteBody {
        protocol: config.device_route_protocol,
        link_scope: prefix.addr().is_ipv4(),
        unicast: true,
        has_gateway: false,
        source,
    };
    (
        RouteKey {
            prefix,
            ifindex,
            metric,
        },
        body,
    )
}

fn metric_of(config: &Config, prefix: &IpNet, elevated: bool) -> u32 {
    match (prefix, elevated) {
        (IpNet::V4(_), false) => config.ipv4_normal_route_priority,
        (IpNet::V4(_), true) => config.ipv4_elevated_route_priority,
        (IpNet::V6(_), false) => config.ipv6_normal_route_priority,
        (IpNet::V6(_), true) => config.ipv6_elevated_route_priority,
    }
}

/// Returns whether a route of the kernel is ours and has the metric of a workload that has just arrived.
pub fn is_elevated(config: &Config, key: &RouteKey, body: &RouteBody) -> bool {
    body.protocol == config.device_route_protocol
        && key.metric == metric_of(config, &key.prefix, true)
        && key.metric != metric_of(config, &key.prefix, false)
}

/// Reads the main table's routes over `interfaces` from the kernel.
///
/// # Errors
/// When the netlink request fails.
pub async fn read_back(
    netlink: &rtnetlink::Handle,
    interfaces: &BTreeSet<u32>,
) -> Result<RouteTable, rtnetlink::Error> {
    let mut table = RouteTable::new();
    for request in [
        RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
        RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
    ] {
        let mut routes = Box::pin(netlink.route().get(request).execute());
        while let Some(message) = routes.try_next().await? {
            table.extend(route_of(&message).filter(|(key, _)| interfaces.contains(&key.ifindex)));
        }
    }
    Ok(table)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the attributes that matter are named"
)]
fn route_of(message: &RouteMessage) -> Option<(RouteKey, RouteBody)> {
    let header = &message.header;
    // A default route has no destination attribute.
    let unspecified = if header.address_family == AddressFamily::Inet {
        IpAddr::from([0_u8; 4])
    } else {
        IpAddr::from([0_u8; 16])
    };
    let mut table = u32::from(header.table);
    let (mut destination, mut ifindex, mut metric) = (unspecified, None, 0);
    let (mut has_gateway, mut source) = (false, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(address) => destination = ip_of(address)?,
            RouteAttribute::Oif(number) => ifindex = Some(*number),
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => has_gateway = true,
            RouteAttribute::PrefSource(address) => source = ip_of(address),
            _ => {}
        }
    }
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) {
        return None;
    }
    let prefix = IpNet::new(destination, header.destination_prefix_length).ok()?;
    let body = RouteBody {
        protocol: header.protocol.into(),
        link_scope: destination.is_ipv4() && header.scope == RouteScope::Link,
        unicast: header.kind == RouteType::Unicast,
        has_gateway,
        source,
    };
    Some((
        RouteKey {
            prefix,
            ifindex: ifindex?,
            metric,
        },
        body,
    ))
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(address) = address {
        return Some((*address).into());
    }
    let RouteAddress::Inet6(address) = address else {
        return None;
    };
    Some((*address).into())
}

/// Returns the change to make now. Of the routes that are not desired, only those are removed that are ours or, with
/// `RemoveExternalRoutes`, somebody's who is neither the kernel nor BIRD.
pub fn plan(config: &Config, desired: &RouteTable, actual: &RouteTable) -> Delta<RouteKey, RouteBody> {
    let mut delta = diff(desired, actual);
    delta.remove.retain(|key| {
        let protocol = actual.get(key).map_or(0, |body| body.protocol);
        protocol == config.device_route_protocol
            || config.remove_external_routes && !is_never_ours(RouteProtocol::from(protocol))
    });
    delta
}

fn is_never_ours(protocol: RouteProtocol) -> bool {
    matches!(
        protocol,
        RouteProtocol::Kernel | RouteProtocol::Bird | RouteProtocol::IcmpRedirect | RouteProtocol::Ra
    )
}

/// Keeps the kernel's routes to workloads as desired.
#[derive(Debug, Default)]
pub struct Routes {
    /// Routes of this run: they may be removed at once.
    placed: BTreeSet<RouteKey>,
    first_seen: BTreeMap<u32, Instant>,
}

/// What is left to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// What could not be written, for people.
    pub dirty: Vec<String>,
    /// When something that was left for later may be looked at.
    pub again_at: Option<Instant>,
}

impl Routes {
    /// Makes the routes over `taps` as desired: adds first, then removes.
    ///
    /// # Errors
    /// When the routes cannot be read; a route that cannot be written is told in the result.
    pub async fn reconcile(
        &mut self,
        netlink: &rtnetlink::Handle,
        config: &Config,
        taps: &BTreeSet<u32>,
        desired: &RouteTable,
        now: Instant,
    ) -> Result<Unfinished, rtnetlink::Error> {
        let actual = read_back(netlink, taps).await?;
        let delta = plan(config, desired, &actual);
        self.note_interfaces(taps, now);
        let mut unfinished = Unfinished::default();
        for (key, body) in delta.put {
            match put(netlink, &key, &body, &actual).await {
                Ok(()) => {
                    tracing::info!(prefix = %key.prefix, ifindex = key.ifindex, "route added");
                    self.placed.insert(key);
                }
                Err(error) => unfinished.dirty.push(format!("route {}: {error}", key.prefix)),
            }
        }
        let prefixes: BTreeSet<IpNet> = desired.keys().map(|key| key.prefix).collect();
        for key in delta.remove {
            let grace_end = self.grace_end(&key, now);
            // What has another route is known.
            if let Some(until) = grace_end.filter(|_| !prefixes.contains(&key.prefix)) {
                unfinished.again_at = Some(unfinished.again_at.map_or(until, |at| at.min(until)));
                continue;
            }
            let Some(body) = actual.get(&key) else { continue };
            match netlink.route().del(message_of(&key, body)).execute().await {
                Ok(()) => tracing::info!(prefix = %key.prefix, ifindex = key.ifindex, "route removed"),
                Err(error) if is_gone(&error) => {}
                Err(error) => unfinished.dirty.push(format!("route {}: {error}", key.prefix)),
            }
        }
        Ok(unfinished)
    }

    fn note_interfaces(&mut self, taps: &BTreeSet<u32>, now: Instant) {
        self.first_seen.retain(|ifindex, _| taps.contains(ifindex));
        self.placed.retain(|key| taps.contains(&key.ifindex));
        for ifindex in taps {
            self.first_seen.entry(*ifindex).or_insert(now);
        }
    }

    fn grace_end(&self, key: &RouteKey, now: Instant) -> Option<Instant> {
        if self.placed.contains(key) {
            return None;
        }
        let until = *self.first_seen.get(&key.ifindex)? + GRACE;
        (until > now).then_some(until)
    }
}

/// Writes one route. A route of the same prefix and metric is replaced only if it is on one of our taps.
async fn put(
    netlink: &rtnetlink::Handle,
    key: &RouteKey,
    body: &RouteBody,
    actual: &RouteTable,
) -> Result<(), rtnetlink::Error> {
    let ours_to_replace = actual
        .keys()
        .any(|other| other.prefix == key.prefix && other.metric == key.metric);
    let request = netlink.route().add(message_of(key, body));
    if ours_to_replace {
        request.replace().execute().await
    } else {
        request.execute().await
    }
}

/// Removes one of our routes.
///
/// # Errors
/// When the kernel refuses; a route that is gone already is no error.
pub async fn remove(
    netlink: &rtnetlink::Handle,
    key: &RouteKey,
    body: &RouteBody,
) -> Result<(), rtnetlink::Error> {
    match netlink.route().del(message_of(key, body)).execute().await {
        Err(error) if !is_gone(&error) => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn is_gone(error: &rtnetlink::Error) -> bool {
    let rtnetlink::Error::NetlinkError(message) = error else {
        return false;
    };
    matches!(
        message.raw_code().abs(),
        libc::ESRCH | libc::ENOENT | libc::ENODEV
    )
}

fn message_of(key: &RouteKey, body: &RouteBody) -> RouteMessage {
    let scope = if body.link_scope {
        RouteScope::Link
    } else {
        RouteScope::Universe
    };
    let mut message = match key.prefix {
        IpNet::V4(prefix) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix(prefix.network(), prefix.prefix_len())
            .build(),
        IpNet::V6(prefix) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .destination_prefix(prefix.network(), prefix.prefix_len())
            .build(),
    };
    message.header.scope = scope;
    message.header.protocol = RouteProtocol::from(body.protocol);
    message.attributes.push(RouteAttribute::Oif(key.ifindex));
    if key.metric != 0 {
        message.attributes.push(RouteAttribute::Priority(key.metric));
    }
    match body.source {
        Some(IpAddr::V4(address)) => {
            message
                .attributes
                .push(RouteAttribute::PrefSource(RouteAddress::Inet(address)));
        }
        Some(IpAddr::V6(address)) => {
            message
                .attributes
                .push(RouteAttribute::PrefSource(RouteAddress::Inet6(address)));
        }
        None => {}
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn place(prefix: &str, ifindex: u32) -> RoutePlace {
        RoutePlace {
            prefix: net(prefix),
            ifindex,
            elevated: false,
        }
    }

    fn route(prefix: &str, ifindex: u32, protocol: u8) -> (RouteKey, RouteBody) {
        let (key, body) = desired_route(&Config::default(), place(prefix, ifindex));
        (key, RouteBody { protocol, ..body })
    }

    #[test]
    fn route_is_link_scope_with_felix_protocol_and_metric() {
        let table = desired_routes(
            &Config::default(),
            [place("10.65.0.2/32", 5), place("fd00::2/128", 5)],
        );
        let four = RouteKey {
            prefix: net("10.65.0.2/32"),
            ifindex: 5,
            metric: 1024,
        };
        let body = RouteBody {
            protocol: 3,
            link_scope: true,
            unicast: true,
            has_gateway: false,
            source: None,
        };
        assert_eq!(table[&four], body);
        let six = RouteKey {
            prefix: net("fd00::2/128"),
            ifindex: 5,
            metric: 1024,
        };
        assert!(!table[&six].link_scope);
    }

    #[test]
    fn highest_interface_number_wins_a_shared_address() {
        let table = desired_routes(
            &Config::default(),
            [place("10.65.0.2/32", 7), place("10.65.0.2/32", 5)],
        );
        assert_eq!(table.keys().map(|key| key.ifindex).collect::<Vec<_>>(), [7]);
    }

    #[test]
    fn routes_of_a_workload_that_has_just_arrived_have_another_metric() {
        let config = Config::default();
        for prefix in ["10.65.0.2/32", "fd00::2/128"] {
            let [normal, elevated] = [false, true].map(|elevated| {
                desired_route(
                    &config,
                    RoutePlace {
                        elevated,
                        ..place(prefix, 5)
                    },
                )
            });
            assert_eq!((normal.0.metric, elevated.0.metric), (1024, 512));
            assert!(is_elevated(&config, &elevated.0, &elevated.1));
            assert!(!is_elevated(&config, &normal.0, &normal.1));
        }
    }

    #[test]
    fn pair_prefix_is_routed_as_a_network() {
        let table = desired_routes(&Config::default(), [place("10.65.0.9/24", 5)]);
        assert_eq!(table.keys().next().unwrap().prefix, net("10.65.0.0/24"));
    }

    #[test]
    fn kernel_and_bird_routes_on_taps_stay() {
        let actual = RouteTable::from([route("fe80::/64", 5, 2), route("10.9.0.0/24", 5, 12)]);
        assert!(
            plan(&Config::default(), &RouteTable::new(), &actual)
                .remove
                .is_empty()
        );
    }

    #[test]
    fn foreign_routes_on_taps_go_only_with_remove_external_routes() {
        let actual = RouteTable::from([route("10.9.0.0/24", 5, 4), route("10.8.0.0/24", 5, 3)]);
        let mut config = Config::default();
        assert_eq!(plan(&config, &RouteTable::new(), &actual).remove.len(), 2);
        config.remove_external_routes = false;
        let left = plan(&config, &RouteTable::new(), &actual).remove;
        assert_eq!(
            left.iter().map(|key| key.prefix).collect::<Vec<_>>(),
            [net("10.8.0.0/24")]
        );
    }

    #[test]
    fn routes_of_the_last_run_have_ten_seconds_of_grace() {
        let now = Instant::now();
        let mut routes = Routes::default();
        routes.note_interfaces(&BTreeSet::from([5]), now);
        let (old, _) = route("10.65.0.2/32", 5, 3);
        assert_eq!(routes.grace_end(&old, now), Some(now + GRACE));
        assert_eq!(routes.grace_end(&old, now + GRACE), None);
        routes.placed.insert(old);
        assert_eq!(routes.grace_end(&old, now), None);
    }
}
