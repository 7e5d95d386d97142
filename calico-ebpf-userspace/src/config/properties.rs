//! What holds for any text of a configuration file: for random tests and fuzzing.

use std::path::Path;

use super::layers::{Layers, Setting, from_file};
use super::parameters;
use super::resolve::resolve;
use super::values::Config;

const SECRET: &str = "8dfa1418-d5c9";

/// Checks a text as a file of settings, and its first line as the value of every parameter: it is read or refused
/// with a reason.
///
/// # Panics
///
/// When something else is true.
pub fn check(text: &str) {
    let path = Path::new("felix.cfg");
    match from_file(path, text) {
        Ok(settings) => check_settings(text, settings),
        Err(error) => assert!(error.to_string().contains("felix.cfg"), "{error}"),
    }
    check_value(text.lines().next().unwrap_or_default());
}

fn check_settings(text: &str, settings: Vec<Setting>) {
    let lines = text.matches(['\n', '\r']).count() + 1;
    for setting in &settings {
        let line = setting.place.strip_prefix("felix.cfg:");
        let line: usize = line.expect("the file").parse().expect("a line");
        assert!((1..=lines).contains(&line), "{setting:?}");
    }
    let secret = Setting {
        name: "EtcdPassword".to_owned(),
        value: SECRET.to_owned(),
        place: "FELIX_EtcdPassword".to_owned(),
    };
    let layers = Layers {
        system_hostname: "compute-1".to_owned(),
        file: settings,
        environment: vec![secret],
        ..Layers::default()
    };
    match resolve(&layers) {
        Ok(resolved) => {
            assert_eq!(resolved.values.len(), parameters::all().count());
            assert_eq!(resolved.config.etcd_password.as_deref(), Some(SECRET));
            assert!(
                !format!("{:?} {:?}", resolved.values, resolved.warnings).contains(SECRET)
                    || text.contains(SECRET)
            );
            check_config(&resolved.config);
        }
        Err(error) => assert!(
            !error.to_string().contains(SECRET) || text.contains(SECRET),
            "{error}"
        ),
    }
}

fn check_value(text: &str) {
    for parameter in parameters::all() {
        let mut config = Config::default();
        match parameter.kind.apply(text, &mut config) {
            Ok(()) => check_config(&config),
            Err(bad) => assert!(!bad.expected.is_empty(), "{}: {text:?}", parameter.name),
        }
    }
}

fn check_config(config: &Config) {
    for name in config.interface_prefixes.iter().chain(&config.interface_exclude) {
        assert!(
            (1..=15).contains(&name.len()) && !name.contains(['/', ' ', ',']),
            "{name:?}"
        );
    }
    for endpoint in &config.etcd_endpoints {
        assert!(endpoint.starts_with("http"), "{endpoint:?}");
    }
    assert!(
        !config.felix_hostname.contains(['/', ' ', '\n']),
        "{:?}",
        config.felix_hostname
    );
    if let Some(region) = &config.openstack_region {
        assert!((1..=46).contains(&region.len()), "{region:?}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_line() -> impl Strategy<Value = String> {
        let names: Vec<&str> = parameters::all().map(|parameter| parameter.name).collect();
        let values = [
            "true",
            "none",
            "30",
            "1m30s",
            "-1",
            "0x8000",
            "tap,cali",
            "tcp:22,udp:68",
            "http://a:1",
            "Enabled",
            "DROP",
            "",
        ];
        let value = prop_oneof![
            prop::sample::select(values.to_vec()).prop_map(str::to_owned),
            "[ -~]{0,30}"
        ];
        prop_oneof![
            4 => (prop::sample::select(names), value).prop_map(|(name, value)| format!("{name} = {value}\n")),
            1 => "(\\[global\\]|\\[|#.{0,9}|;|=|[ -~]{0,20}|\\PC{0,9})\\r?\\n?",
        ]
    }

    proptest! {
        #[test]
        fn any_lines_are_read_or_refused(lines in prop::collection::vec(any_line(), 0..8)) {
            check(&lines.concat());
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,60}") {
            check(&text);
        }
    }
}
