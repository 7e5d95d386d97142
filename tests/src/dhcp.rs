//! DHCP as nodes and guests of OpenStack have it: dnsmasq on the host, started as Calico's DHCP agent starts it, and a
//! guest's `dhclient`.

use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use crate::guest::{GATEWAY_V4, Guest, Vm};
use crate::host::Host;
use crate::netns::Netns;
use crate::wait;

/// How long dnsmasq may take to start.
const LIMIT: Duration = Duration::from_secs(10);
/// The DHCP agent's interface: it has the gateways' addresses, and no guest is behind it.
const AGENT_INTERFACE: &str = "ns-dhcp";

/// How guests get their IPv6 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipv6Mode {
    /// By DHCPv6.
    Dhcp,
    /// From the prefix of a router advertisement.
    Slaac,
}

/// A running dnsmasq. It ends with this value; when the test fails, its log is shown.
#[derive(Debug)]
pub struct Dnsmasq {
    child: Child,
    log: PathBuf,
}

impl Dnsmasq {
    /// Serves the VMs of a host on all its taps, which are no bridge: requests that come by a tap are taken for those of
    /// the agent's own interface.
    pub fn of_dhcp_agent(host: &Host, vms: &[&Vm], mode: Ipv6Mode) -> Self {
        host.namespace().ip(&format!(
            "link add {AGENT_INTERFACE} type veth peer name nobody
             link set nobody up
             link set {AGENT_INTERFACE} up arp off
             addr add {GATEWAY_V4}/24 dev {AGENT_INTERFACE}
             addr add fd00:65::1/64 dev {AGENT_INTERFACE} nodad"
        ));
        let mut hosts = String::new();
        for vm in vms {
            let (mac, name) = (vm.mac_text(), vm.name());
            writeln!(hosts, "{mac},{name},{}\n{mac},{name},[{}]", vm.v4(), vm.v6()).expect("write to memory");
        }
        let file = host.directory().join("dnsmasq.hosts");
        fs::write(&file, hosts).expect("write the hosts");
        let range = match mode {
            Ipv6Mode::Dhcp => "--dhcp-range=set:tag1,fd00:65::,static,off-link,64,86400s",
            Ipv6Mode::Slaac => "--dhcp-range=set:tag1,fd00:65::,ra-only,off-link,64,86400s",
        };
        let arguments = [
            &*format!("--interface={AGENT_INTERFACE}"),
            "--interface=tap*",
            &format!("--bridge-interface={AGENT_INTERFACE},tap*"),
            &format!("--dhcp-hostsfile={}", file.display()),
            "--dhcp-range=set:tag0,10.65.0.0,static,86400s",
            &format!("--dhcp-option=tag:tag0,option:router,{GATEWAY_V4}"),
            range,
        ];
        Self::start(host.namespace(), &host.directory().join("dnsmasq"), &arguments)
    }

    /// Lets a VM play server and router for everybody who listens.
    pub fn of_rogue(guest: &Guest, directory: &Path) -> Self {
        guest.namespace().ip("addr add fd00:66::1/64 dev eth0 nodad");
        let arguments = [
            "--interface=eth0",
            "--dhcp-range=10.65.0.200,10.65.0.210,3600s",
            "--dhcp-range=fd00:66::,ra-only,64,3600s",
            "--no-ping",
        ];
        Self::start(guest.namespace(), &directory.join("rogue"), &arguments)
    }

    /// `files` is the beginning of the paths of its files.
    fn start(namespace: &Netns, files: &Path, arguments: &[&str]) -> Self {
        let log = files.with_extension("log");
        let output = File::create(&log).expect("dnsmasq's log");
        let child = namespace
            .command("dnsmasq")
            .args([
                "--conf-file=/dev/null",
                "--keep-in-foreground",
                "--log-facility=-",
                "--log-dhcp",
            ])
            .args([
                "--no-hosts",
                "--no-resolv",
                "--except-interface=lo",
                "--bind-dynamic",
                "--user=root",
            ])
            .args(["--enable-ra", "--dhcp-authoritative", "--pid-file="])
            .arg(format!(
                "--dhcp-leasefile={}",
                files.with_extension("leases").display()
            ))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second descriptor"))
            .stderr(output)
            .spawn()
            .expect("dnsmasq starts (`cargo xtask setup`)");
        let mut dnsmasq = Self { child, log };
        wait::until("dnsmasq is started", LIMIT, || {
            let ended = dnsmasq.child.try_wait().expect("wait for dnsmasq");
            assert!(ended.is_none(), "dnsmasq ended: {ended:?}");
            dnsmasq.log().contains("started, version")
        });
        dnsmasq
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if thread::panicking() {
            eprintln!("--- log of dnsmasq ---\n{}---", self.log());
        }
    }
}

/// What a guest's `dhclient` does with its lease: the address on the interface, and the default route. Debian's own script
/// would write the machine's `/etc/resolv.conf`.
const SCRIPT: &str = r#"#!/bin/sh
set -e
case $reason in
BOUND)
    ip addr add "$new_ip_address/$new_subnet_mask" dev "$interface"
    ip route add default via "$new_routers"
    ;;
BOUND6)
    ip addr add "$new_ip6_address/128" dev "$interface" nodad
    ;;
esac
"#;

/// A guest's client, which holds its lease as long as this value lives.
#[derive(Debug)]
pub struct Dhclient {
    child: Child,
    log: PathBuf,
}

impl Dhclient {
    /// Asks for an address; `family` is `-4` or `-6`, and `directory` is for its files.
    pub fn start(guest: &Guest, family: &str, directory: &Path) -> Self {
        let file = |kind: &str| directory.join(format!("{}{family}.{kind}", guest.vm().name()));
        let (script, configuration, log) = (file("script"), file("conf"), file("log"));
        fs::write(&script, SCRIPT).expect("write the script");
        fs::set_permissions(&script, Permissions::from_mode(0o755)).expect("it can be run");
        fs::write(&configuration, "").expect("write the configuration");
        let output = File::create(&log).expect("dhclient's log");
        let child = guest
            .namespace()
            .command("dhclient")
            .args([family, "-d", "-1", "-v", "-sf"])
            .arg(script)
            .arg("-cf")
            .arg(configuration)
            .arg("-lf")
            .arg(file("leases"))
            .arg("-pf")
            .arg(file("pid"))
            .arg("eth0")
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second descriptor"))
            .stderr(output)
            .spawn()
            .expect("dhclient starts (`cargo xtask setup`)");
        Self { child, log }
    }
}

impl Drop for Dhclient {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("--- log of dhclient ---\n{log}---");
        }
    }
}
