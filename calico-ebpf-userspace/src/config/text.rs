//! From the text of a parameter to its value.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

/// What a text should have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}")]
pub struct BadText {
    /// Completes the sentence "expected ...".
    pub expected: String,
}

impl BadText {
    /// Makes the error of a text that is not `expected`.
    pub fn new(expected: impl Into<String>) -> Self {
        Self {
            expected: expected.into(),
        }
    }
}

/// Reads a truth value as Felix does.
///
/// # Errors
/// Fails for anything but `true`, `t`, `yes`, `y`, `1`, `false`, `f`, `no`, `n`, `0` in any case.
pub fn flag(text: &str) -> Result<bool, BadText> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "yes" | "y" | "1" => Ok(true),
        "false" | "f" | "no" | "n" | "0" => Ok(false),
        _ => Err(BadText::new("true or false")),
    }
}

/// Reads a number within bounds, both included; decimal, or hexadecimal after `0x`.
///
/// # Errors
/// Fails for other texts and for numbers out of bounds.
pub fn number(text: &str, min: u32, max: u32) -> Result<u32, BadText> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse::<u32>().ok(),
    };
    parsed
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| BadText::new(format!("a whole number from {min} to {max}")))
}

/// Reads a span of time: a plain number counts `unit`s, and may have a fraction; anything else is a duration as Go
/// writes it (`30s`, `1m30s`, `500ms`).
///
/// # Errors
/// Fails for other texts and for negative numbers.
pub fn duration(text: &str, unit: Duration) -> Result<Duration, BadText> {
    let expected = || {
        let name = if unit == Duration::from_secs(1) {
            "seconds"
        } else {
            "milliseconds"
        };
        BadText::new(format!(
            "a number of {name}, such as 30 or 0.5, or a duration such as 90s, 1m30s or 500ms"
        ))
    };
    let plain = || {
        let units: f64 = text.parse().ok()?;
        Duration::try_from_secs_f64(units * unit.as_secs_f64()).ok()
    };
    plain().or_else(|| go_duration(text)).ok_or_else(expected)
}

/// Reads a duration as Go's `time.ParseDuration` does, without signs.
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = 0.0_f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit() && character != '.')?;
        let amount: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|character: char| character.is_ascii_digit() || character == '.');
        let (unit, after) = rest.split_at(letters.unwrap_or(rest.len()));
        total += amount
            * match unit {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = after;
    }
    Duration::try_from_secs_f64(total).ok()
}

/// Splits a list at its commas; spaces around the entries do not count, and an empty text is an empty list.
pub fn list(text: &str) -> Vec<String> {
    text.split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Reads a list of interface names or name prefixes.
///
/// # Errors
/// Fails when an entry is longer than the kernel's 15 characters or holds a slash or a space.
pub fn interfaces(text: &str) -> Result<Vec<String>, BadText> {
    let names = list(text);
    let is_name = |name: &String| {
        name.len() <= 15
            && !name
                .chars()
                .any(|character| character == '/' || character.is_whitespace())
    };
    if names.iter().all(is_name) {
        Ok(names)
    } else {
        Err(BadText::new(
            "interface names of 1 to 15 characters, separated by commas",
        ))
    }
}

/// Reads a list of etcd endpoints.
///
/// # Errors
/// Fails when an entry is no `http://` or `https://` address, or has a user name in it.
pub fn endpoints(text: &str) -> Result<Vec<String>, BadText> {
    let endpoints = list(text);
    let is_url = |endpoint: &String| {
        let rest = endpoint
            .strip_prefix("http://")
            .or_else(|| endpoint.strip_prefix("https://"));
        // A password in an address would be in every report.
        rest.is_some_and(|authority| !authority.trim_end_matches('/').is_empty() && !authority.contains('@'))
    };
    if endpoints.iter().all(is_url) {
        Ok(endpoints)
    } else {
        Err(BadText::new(
            "addresses such as http://127.0.0.1:2379, separated by commas",
        ))
    }
}

/// Checks a list of ports as Felix writes them: `tcp:22`, `tcp:10.0.0.0/8:22`, `tcp:[fd00::/8]:22`, or a bare port,
/// which is TCP.
///
/// # Errors
/// Fails when an entry is none of these.
pub fn ports(text: &str) -> Result<Vec<String>, BadText> {
    let entries = list(text);
    if entries.iter().all(|entry| is_port_entry(entry)) {
        Ok(entries)
    } else {
        Err(BadText::new(
            "ports such as tcp:22, udp:68 or tcp:10.0.0.0/8:22, separated by commas",
        ))
    }
}

fn is_port_entry(entry: &str) -> bool {
    let (front, port) = match entry.rsplit_once(':') {
        Some((front, port)) => (Some(front), port),
        None => (None, entry),
    };
    if port.parse::<u16>().is_err() {
        return false;
    }
    let Some(front) = front else { return true };
    let (protocol, net) = match front.split_once(':') {
        Some((protocol, net)) => (protocol, Some(net)),
        None => (front, None),
    };
    let is_net = |net: &str| {
        let net = net.trim_start_matches('[').trim_end_matches(']');
        net.parse::<IpNet>().is_ok() || net.parse::<IpAddr>().is_ok()
    };
    matches!(protocol.to_ascii_lowercase().as_str(), "tcp" | "udp" | "sctp") && net.is_none_or(is_net)
}

/// Reads a host name as it stands in datastore keys.
///
/// # Errors
/// Fails for an empty text and for characters outside letters, digits, `-`, `_` and `.`.
pub fn hostname(text: &str) -> Result<String, BadText> {
    let is_allowed = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    if !text.is_empty() && text.chars().all(is_allowed) {
        Ok(text.to_owned())
    } else {
        Err(BadText::new(
            "a host name of letters, digits, '-', '_' and '.', equal to Nova's host",
        ))
    }
}

/// Reads an OpenStack region: a DNS label, short enough for a namespace name (contract 1.1).
///
/// # Errors
/// Fails for other texts.
pub fn region(text: &str) -> Result<String, BadText> {
    let longest = 63 - "openstack-region-".len();
    let is_allowed =
        |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '-';
    let is_label = !text.is_empty()
        && text.len() <= longest
        && text.chars().all(is_allowed)
        && !text.starts_with('-')
        && !text.ends_with('-');
    if is_label {
        Ok(text.to_owned())
    } else {
        Err(BadText::new(format!(
            "a lower-case DNS label of 1 to {longest} characters"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn seconds_may_have_a_fraction_and_go_durations_have_units() {
        assert_eq!(duration("30", SECOND), Ok(Duration::from_secs(30)));
        assert_eq!(duration("30.5", SECOND), Ok(Duration::from_millis(30_500)));
        assert_eq!(duration("1m30s", SECOND), Ok(Duration::from_secs(90)));
        assert_eq!(duration("500ms", SECOND), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5h", SECOND), Ok(Duration::from_mins(90)));
        assert_eq!(
            duration("250", Duration::from_millis(1)),
            Ok(Duration::from_millis(250))
        );
    }

    #[test]
    fn what_is_no_span_of_time_is_refused() {
        for text in ["", "-1", "soon", "3x", "s", "1m2", "nan", "inf"] {
            assert!(duration(text, SECOND).is_err(), "{text}");
        }
    }

    #[test]
    fn truth_values_are_read_in_any_case() {
        assert_eq!(flag("TRUE"), Ok(true));
        assert_eq!(flag("no"), Ok(false));
        assert!(flag("maybe").is_err());
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal_and_bounded() {
        assert_eq!(number("0x8000", 0, u32::MAX), Ok(0x8000));
        assert_eq!(number("9091", 1, 65_535), Ok(9091));
        assert!(number("0", 1, 65_535).is_err());
        assert!(number("65536", 1, 65_535).is_err());
    }

    #[test]
    fn port_lists_take_protocol_net_and_port() {
        assert!(ports("tcp:22, udp:68,tcp:10.0.0.0/8:22,tcp:[fd00::/8]:179,6443").is_ok());
        assert_eq!(ports(""), Ok(vec![]));
        assert!(ports("icmp:22").is_err());
        assert!(ports("tcp:70000").is_err());
        assert!(ports("tcp:nowhere:22").is_err());
    }

    #[test]
    fn names_that_cannot_be_in_a_key_are_refused() {
        assert!(hostname("compute-1.example.org").is_ok());
        assert!(hostname("").is_err());
        assert!(hostname("a/b").is_err());
        assert!(region("north").is_ok());
        assert!(region("North").is_err());
        assert!(interfaces("tap,cali").is_ok());
        assert!(interfaces("a-name-that-is-too-long").is_err());
        assert!(endpoints("http://10.0.0.1:2379,https://etcd:2379").is_ok());
        assert!(endpoints("10.0.0.1:2379").is_err());
        assert!(endpoints("http://user:word@10.0.0.1:2379").is_err());
    }
}
