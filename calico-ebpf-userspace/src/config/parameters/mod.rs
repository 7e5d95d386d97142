//! Every parameter that is known: one table for resolution, command line and documentation.

mod acted;
mod ignored;
#[cfg(test)]
mod page;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use super::text::{self, BadText};
use super::values::Config;

/// One parameter.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// Felix's name, or ours where Felix has none. Compared without case.
    pub name: &'static str,
    /// What values it takes and where they go.
    pub kind: Kind,
    /// Text of the default. Empty or `none`: nothing.
    pub default: &'static str,
    /// What it is for, as a sentence with its unit.
    pub doc: &'static str,
    pub handling: Handling,
    /// Whether it is taken from flags, environment and file only, never from the datastore.
    pub local_only: bool,
    /// Whether a bad value stops the agent instead of giving way to the default.
    pub fatal: bool,
    /// Whether the value is kept out of every output.
    pub secret: bool,
}

/// What becomes of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handling {
    /// The agent acts on it.
    Acted,
    /// Known from Felix and accepted, without effect here.
    Ignored(&'static str),
}

/// The values of a parameter, and where a valid one goes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Flag(fn(&mut Config, bool)),
    /// A TCP port, 1 to 65535.
    Port(fn(&mut Config, u16)),
    /// 0 to 255 within bounds.
    Byte(u8, u8, fn(&mut Config, u8)),
    /// Smallest, largest.
    Number(u32, u32, fn(&mut Config, u32)),
    /// A number with exactly one bit set.
    Bit(fn(&mut Config, u32)),
    /// Plain numbers are seconds.
    Seconds(fn(&mut Config, Duration)),
    /// Plain numbers are milliseconds.
    Millis(fn(&mut Config, Duration)),
    /// One of these, in any case.
    Choice(&'static [&'static str], fn(&mut Config, &str)),
    Text(fn(&mut Config, Option<&str>)),
    Hostname(fn(&mut Config, String)),
    Region(fn(&mut Config, Option<String>)),
    Path(fn(&mut Config, Option<PathBuf>)),
    Interfaces(fn(&mut Config, Vec<String>)),
    Endpoints(fn(&mut Config, Vec<String>)),
    Ports(fn(&mut Config, Vec<String>)),
    Address(fn(&mut Config, Option<IpAddr>)),
    Address4(fn(&mut Config, Option<Ipv4Addr>)),
    Address6(fn(&mut Config, Option<Ipv6Addr>)),
}

impl Kind {
    /// Reads `text` and stores its value. `none` in any case, and an empty text, stand for the zero value.
    ///
    /// # Errors
    /// Fails when the text is no value of this kind; `config` is then unchanged.
    pub fn apply(self, text: &str, config: &mut Config) -> Result<(), BadText> {
        let text = text.trim();
        let is_none = text.is_empty() || text.eq_ignore_ascii_case("none");
        match self {
            Self::Flag(set) => set(config, if is_none { false } else { text::flag(text)? }),
            Self::Port(set) => set(config, port(text)?),
            Self::Byte(min, max, set) => set(config, byte(text, min, max)?),
            Self::Number(min, max, set) => {
                set(
                    config,
                    if is_none && min == 0 {
                        0
                    } else {
                        text::number(text, min, max)?
                    },
                );
            }
            Self::Bit(set) => set(config, bit(text)?),
            Self::Seconds(set) => set(config, span(is_none, text, Duration::from_secs(1))?),
            Self::Millis(set) => set(config, span(is_none, text, Duration::from_millis(1))?),
            Self::Choice(choices, set) => set(config, choice(text, choices)?),
            Self::Text(set) => set(config, (!is_none).then_some(text)),
            Self::Hostname(set) => set(config, text::hostname(if is_none { "" } else { text })?),
            Self::Region(set) => set(config, (!is_none).then(|| text::region(text)).transpose()?),
            Self::Path(set) => set(config, (!is_none).then(|| PathBuf::from(text))),
            Self::Interfaces(set) => set(config, text::interfaces(if is_none { "" } else { text })?),
            Self::Endpoints(set) => set(config, text::endpoints(if is_none { "" } else { text })?),
            Self::Ports(set) => set(config, text::ports(if is_none { "" } else { text })?),
            Self::Address(set) => set(config, address(is_none, text, "an IP address")?),
            Self::Address4(set) => set(config, address(is_none, text, "an IPv4 address")?),
            Self::Address6(set) => set(config, address(is_none, text, "an IPv6 address")?),
        }
        Ok(())
    }

    /// Returns the values in words, for the documentation.
    pub fn describe(self) -> String {
        match self {
            Self::Flag(_) => "true, false".to_owned(),
            Self::Port(_) => "port".to_owned(),
            Self::Byte(min, max, _) => format!("{min} to {max}"),
            Self::Number(min, u32::MAX, _) => format!("number from {min}"),
            Self::Number(min, max, _) => format!("{min} to {max}"),
            Self::Bit(_) => "one bit".to_owned(),
            Self::Seconds(_) => "seconds".to_owned(),
            Self::Millis(_) => "milliseconds".to_owned(),
            Self::Choice(choices, _) => choices.join(", "),
            Self::Text(_) => "text".to_owned(),
            Self::Hostname(_) => "host name".to_owned(),
            Self::Region(_) => "DNS label".to_owned(),
            Self::Path(_) => "path".to_owned(),
            Self::Interfaces(_) => "list of names".to_owned(),
            Self::Endpoints(_) => "list of addresses".to_owned(),
            Self::Ports(_) => "list of ports".to_owned(),
            Self::Address(_) => "IP address".to_owned(),
            Self::Address4(_) => "IPv4 address".to_owned(),
            Self::Address6(_) => "IPv6 address".to_owned(),
        }
    }
}

fn port(text: &str) -> Result<u16, BadText> {
    let port = text.parse::<u16>().ok().filter(|port| *port != 0);
    port.ok_or_else(|| BadText::new("a port from 1 to 65535"))
}

fn byte(text: &str, min: u8, max: u8) -> Result<u8, BadText> {
    let number = text
        .parse::<u8>()
        .ok()
        .filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| BadText::new(format!("a whole number from {min} to {max}")))
}

fn bit(text: &str) -> Result<u32, BadText> {
    let mark = text::number(text, 1, u32::MAX)
        .ok()
        .filter(|mark| mark.is_power_of_two());
    mark.ok_or_else(|| BadText::new("a number with exactly one bit set, such as 0x8000"))
}

fn span(is_none: bool, text: &str, unit: Duration) -> Result<Duration, BadText> {
    if is_none {
        Ok(Duration::ZERO)
    } else {
        text::duration(text, unit)
    }
}

fn choice(text: &str, choices: &'static [&'static str]) -> Result<&'static str, BadText> {
    let found = choices.iter().find(|choice| choice.eq_ignore_ascii_case(text));
    found
        .copied()
        .ok_or_else(|| BadText::new(format!("one of {}", choices.join(", "))))
}

fn address<A: std::str::FromStr>(is_none: bool, text: &str, expected: &str) -> Result<Option<A>, BadText> {
    if is_none {
        return Ok(None);
    }
    text.parse().ok().map(Some).ok_or_else(|| BadText::new(expected))
}

/// Returns every parameter, those that the agent acts on first.
pub fn all() -> impl Iterator<Item = &'static Parameter> {
    acted::PARAMETERS.iter().chain(ignored::PARAMETERS)
}

/// Returns the parameter of this name, in any case. A `FelixConfiguration` spec leaves the unit out of a name that
/// has one (`reportingInterval` for `ReportingIntervalSecs`), so that form is found, too.
pub fn find(name: &str) -> Option<&'static Parameter> {
    let named = |wanted: &str| all().find(|parameter| parameter.name.eq_ignore_ascii_case(wanted));
    named(name)
        .or_else(|| named(&format!("{name}Secs")))
        .or_else(|| named(&format!("{name}Millis")))
}

/// Makes a parameter that the agent acts on.
const fn acted(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Parameter {
    let handling = Handling::Acted;
    Parameter {
        name,
        kind,
        default,
        doc,
        handling,
        local_only: false,
        fatal: false,
        secret: false,
    }
}

impl Parameter {
    /// Takes it from flags, environment and file only.
    const fn local(mut self) -> Self {
        self.local_only = true;
        self
    }

    /// Makes a bad value stop the agent.
    const fn fatal(mut self) -> Self {
        self.fatal = true;
        self
    }

    /// Keeps its value out of every output.
    const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_default_is_a_valid_value() {
        for parameter in all().filter(|parameter| parameter.name != "FelixHostname") {
            let result = parameter.kind.apply(parameter.default, &mut Config::default());
            assert_eq!(result, Ok(()), "{}", parameter.name);
        }
    }

    #[test]
    fn all_defaults_together_are_the_default_configuration() {
        let mut config = Config::default();
        config.interface_prefixes.clear();
        config.health_port = 1;
        for parameter in
            all().filter(|parameter| !["FelixHostname", "EtcdEndpoints"].contains(&parameter.name))
        {
            parameter.kind.apply(parameter.default, &mut config).unwrap();
        }
        assert_eq!(config, Config::default());
    }

    #[test]
    fn no_name_occurs_twice() {
        let mut names = BTreeSet::new();
        for parameter in all() {
            assert!(
                names.insert(parameter.name.to_ascii_lowercase()),
                "{}",
                parameter.name
            );
        }
    }

    #[test]
    fn names_are_found_in_any_case_and_in_the_form_of_a_spec() {
        assert_eq!(find("IPV6SUPPORT").map(|found| found.name), Some("Ipv6Support"));
        assert_eq!(
            find("reportingInterval").map(|found| found.name),
            Some("ReportingIntervalSecs")
        );
        assert!(find("NoSuchThing").is_none());
    }

    /// The parameters of contract 3.6 that OpenStack installations set.
    const OF_OPENSTACK: &str = "FelixHostname DatastoreType EtcdAddr EtcdScheme EtcdEndpoints EtcdKeyFile \
        EtcdCertFile EtcdCaFile OpenstackRegion InterfacePrefix InterfaceExclude MetadataAddr MetadataPort \
        DefaultEndpointToHostAction ChainInsertMode IptablesFilterAllowAction IptablesMangleAllowAction \
        IptablesFilterDenyAction EndpointReportingEnabled EndpointReportingDelaySecs ReportingIntervalSecs \
        ReportingTTLSecs Ipv6Support IPForwarding RemoveExternalRoutes DeviceRouteProtocol \
        DeviceRouteSourceAddress DeviceRouteSourceAddressIPv6 IPv4NormalRoutePriority IPv6NormalRoutePriority \
        IPv4ElevatedRoutePriority IPv6ElevatedRoutePriority LiveMigrationRouteConvergenceTime \
        RouteRefreshInterval InterfaceRefreshInterval IpsetsRefreshInterval IptablesRefreshInterval MaxIpsetSize \
        FailsafeInboundHostPorts FailsafeOutboundHostPorts AllowVXLANPacketsFromWorkloads \
        AllowIPIPPacketsFromWorkloads WorkloadSourceSpoofing DisableConntrackInvalidCheck FloatingIPs \
        IpInIpEnabled VXLANEnabled WireguardEnabled LogSeverityScreen LogSeverityFile LogSeveritySys LogFilePath \
        LogPrefix HealthEnabled HealthPort HealthHost PrometheusMetricsEnabled PrometheusMetricsPort \
        PrometheusMetricsHost UsageReportingEnabled DebugMemoryProfilePath IgnoreLooseRPF ClusterType \
        ClusterGUID CalicoVersion BPFEnabled";

    #[test]
    fn every_parameter_that_openstack_installations_set_is_known() {
        for name in OF_OPENSTACK.split_whitespace() {
            assert_eq!(find(name).map(|found| found.name), Some(name));
        }
    }

    #[test]
    fn every_sentence_ends_with_a_full_stop() {
        for parameter in all() {
            assert!(
                parameter.doc.ends_with('.'),
                "{}: {}",
                parameter.name,
                parameter.doc
            );
        }
    }

    #[test]
    fn none_is_the_zero_value() {
        let mut config = Config::default();
        for name in [
            "MetadataAddr",
            "ReportingIntervalSecs",
            "InterfaceExclude",
            "Ipv6Support",
        ] {
            find(name).unwrap().kind.apply("None", &mut config).unwrap();
        }
        assert_eq!(config.metadata_addr, None);
        assert_eq!(config.reporting_interval, Duration::ZERO);
        assert!(config.interface_exclude.is_empty());
        assert!(!config.ipv6_support);
    }
}
