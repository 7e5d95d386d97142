use super::*;

/// A `/proc/sys` of files.
struct Host {
    root: tempfile::TempDir,
    interfaces: Interfaces,
    names: WorkloadNames,
    state: StateFile,
}

impl Host {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let state = StateFile::read(root.path()).unwrap();
        let names = WorkloadNames::new(&["tap".to_owned()], &[]);
        let host = Self {
            root,
            interfaces: Interfaces::new(),
            names,
            state,
        };
        host.set(IP_FORWARD, "0");
        host.set(FORWARDING6, "0");
        host.set(ACCEPT_REDIRECTS, "1");
        host.set(DEFAULT_FORWARDING4, "0");
        host.set(DEFAULT_FORWARDING6, "0");
        host.set(DEFAULT_DISABLE6, "0");
        host.set(DEFAULT_RP_FILTER, "2");
        host
    }

    fn set(&self, path: &str, value: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{value}\n")).unwrap();
    }

    fn get(&self, path: &str) -> String {
        fs::read_to_string(self.root.path().join(path))
            .unwrap()
            .trim()
            .to_owned()
    }

    fn add_interface(&mut self, ifindex: u32, name: &str) -> Interface {
        for (key, value) in [
            ("ipv4/conf/{}/forwarding", DEFAULT_FORWARDING4),
            ("ipv6/conf/{}/forwarding", DEFAULT_FORWARDING6),
            ("ipv6/conf/{}/disable_ipv6", DEFAULT_DISABLE6),
        ] {
            self.set(&format!("net/{}", key.replace("{}", name)), &self.get(value));
        }
        for (key, value) in [
            ("ipv4/conf/{}/route_localnet", "0"),
            ("ipv4/conf/{}/proxy_arp", "0"),
            ("ipv4/conf/{}/rp_filter", "0"),
            ("ipv4/neigh/{}/proxy_delay", "80"),
            ("ipv6/conf/{}/accept_ra", "1"),
            ("ipv6/conf/{}/proxy_ndp", "0"),
        ] {
            self.set(&format!("net/{}", key.replace("{}", name)), value);
        }
        let interface = Interface {
            ifindex,
            name: name.to_owned(),
            mac: None,
            mtu: 1500,
            up: true,
        };
        self.interfaces.insert(ifindex, interface.clone());
        interface
    }

    fn apply_host(&mut self) -> Vec<&'static str> {
        let sysctls = Sysctls::below(self.root.path());
        sysctls
            .apply_host(&Config::default(), &self.interfaces, &self.names, &mut self.state)
            .unwrap()
    }
}

#[test]
fn new_interfaces_are_closed_after_the_global_switches() {
    let mut host = Host::new();
    let written = host.apply_host();
    assert_eq!(written, [IP_FORWARD, FORWARDING6, DEFAULT_DISABLE6]);
    assert_eq!(host.get(DEFAULT_DISABLE6), "1");
    assert!(host.apply_host().is_empty());
}

#[test]
fn somebody_who_opens_the_defaults_is_noticed() {
    let mut host = Host::new();
    host.apply_host();
    let sysctls = Sysctls::below(host.root.path());
    assert!(!sysctls.host_has_drifted(&Config::default()));
    host.set(DEFAULT_FORWARDING4, "1");
    assert!(sysctls.host_has_drifted(&Config::default()));
}

#[test]
fn tap_is_opened_last_and_gets_the_hosts_reverse_path_filter() {
    let settings = tap_settings(&Config::default(), "tap1", "2", Gate::Open);
    let position = |path: &str| settings.iter().position(|setting| setting.path == path).unwrap();
    assert_eq!(position("net/ipv6/conf/tap1/disable_ipv6"), settings.len() - 1);
    assert!(position("net/ipv4/conf/tap1/forwarding") > position("net/ipv4/conf/tap1/rp_filter"));
    assert_eq!(settings[position("net/ipv4/conf/tap1/rp_filter")].value, "2");
    let spoofing = tap_settings(&Config::default(), "tap1", "2", Gate::OpenToSpoofing);
    assert!(
        spoofing
            .iter()
            .any(|setting| setting.path.ends_with("rp_filter") && setting.value == "0")
    );
}

#[test]
fn tap_without_programs_is_closed_for_both_families() {
    let settings = tap_settings(&Config::default(), "tap1", "1", Gate::Closed);
    let pairs: Vec<_> = settings
        .iter()
        .map(|setting| (setting.path.as_str(), setting.value.as_str()))
        .collect();
    assert_eq!(
        pairs,
        [
            ("net/ipv4/conf/tap1/forwarding", "0"),
            ("net/ipv6/conf/tap1/disable_ipv6", "1")
        ]
    );
}

#[test]
fn new_interface_that_is_no_workload_gets_the_hosts_defaults() {
    let mut host = Host::new();
    host.add_interface(1, "eth0");
    host.apply_host();
    host.add_interface(2, "eth1");
    let sysctls = Sysctls::below(host.root.path());
    sysctls
        .apply_new_interfaces(&host.interfaces, &host.names, &mut host.state)
        .unwrap();
    assert_eq!(host.get("net/ipv6/conf/eth1/disable_ipv6"), "0");
}

#[test]
fn restore_leaves_what_would_be_there_without_the_agent() {
    let mut host = Host::new();
    let before = host.add_interface(1, "tap1");
    host.set("net/ipv6/conf/tap1/forwarding", "1");
    host.apply_host();
    let later = host.add_interface(2, "tap2");
    let sysctls = Sysctls::below(host.root.path());
    for tap in [&before, &later] {
        sysctls
            .apply_tap(&Config::default(), tap, Gate::Open, &mut host.state)
            .unwrap();
    }
    assert_eq!(host.get("net/ipv4/conf/tap2/proxy_arp"), "1");
    assert!(sysctls.restore(&host.interfaces, &host.state).is_empty());
    assert_eq!(host.get(IP_FORWARD), "0");
    assert_eq!(host.get(DEFAULT_DISABLE6), "0");
    assert_eq!(host.get("net/ipv6/conf/tap1/forwarding"), "1");
    assert_eq!(host.get("net/ipv6/conf/tap1/accept_ra"), "1");
    assert_eq!(host.get("net/ipv4/neigh/tap2/proxy_delay"), "80");
    assert_eq!(host.get("net/ipv6/conf/tap2/disable_ipv6"), "0");
    assert_eq!(host.get("net/ipv4/conf/tap2/forwarding"), "0");
}

#[test]
fn a_host_that_felix_takes_over_keeps_forwarding_and_gets_its_defaults_back() {
    let mut host = Host::new();
    let open = host.add_interface(1, "tap1");
    host.apply_host();
    host.add_interface(2, "tap2");
    let sysctls = Sysctls::below(host.root.path());
    sysctls
        .apply_tap(&Config::default(), &open, Gate::Open, &mut host.state)
        .unwrap();
    assert_eq!(host.get("net/ipv6/conf/tap2/disable_ipv6"), "1");
    let failed = sysctls.restore_defaults(&host.interfaces, &host.names, &host.state);
    assert!(failed.is_empty(), "{failed:?}");
    for path in [
        IP_FORWARD,
        FORWARDING6,
        "net/ipv4/conf/tap1/forwarding",
        "net/ipv4/conf/tap1/proxy_arp",
    ] {
        assert_eq!(host.get(path), "1", "{path}");
    }
    for path in [
        DEFAULT_DISABLE6,
        "net/ipv6/conf/tap1/disable_ipv6",
        "net/ipv6/conf/tap2/disable_ipv6",
    ] {
        assert_eq!(host.get(path), "0", "{path}");
    }
}
