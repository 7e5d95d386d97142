//! The compute node of a test: a namespace with an uplink to an outside network, never the real host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;

use tempfile::TempDir;

use crate::guest::{Guest, Vm};
use crate::netns::Netns;

/// The host's address on its uplink.
pub const HOST_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const HOST_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// A machine outside, behind the uplink; the host's default routes go through it.
pub const OUTSIDE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
/// The host's interface towards the outside.
pub const UPLINK: &str = "uplink0";
/// Where the agent pins: below the host's own bpffs.
pub const PIN_DIR: &str = "/sys/fs/bpf/calico-ebpf";

/// A host and the network behind its uplink.
#[derive(Debug)]
pub struct Host {
    namespace: Arc<Netns>,
    outside: Arc<Netns>,
    directory: TempDir,
}

impl Host {
    /// Makes the host with an uplink and without guests.
    pub fn new() -> Self {
        let namespace = Netns::host();
        let outside = Netns::guest();
        for side in [&namespace, &outside] {
            skip_duplicate_address_detection(side);
        }
        let outside_path = format!("/proc/{}/fd/{}", process::id(), outside.as_raw_fd());
        namespace.ip(&format!(
            "link add {UPLINK} address 52:54:00:00:00:01 type veth \
             peer name eth0 address 52:54:00:00:00:02 netns {outside_path}
             link set {UPLINK} up
             addr add {HOST_V4}/24 dev {UPLINK}
             addr add {HOST_V6}/64 dev {UPLINK} nodad"
        ));
        outside.ip(&format!(
            "link set eth0 up
             addr add {OUTSIDE_V4}/24 dev eth0
             addr add {OUTSIDE_V6}/64 dev eth0 nodad
             route add 10.65.0.0/16 via {HOST_V4}
             route add fd00:65::/32 via {HOST_V6}"
        ));
        outside.set_sysctl("net/ipv4/ping_group_range", "0 2147483647");
        namespace.set_sysctl("net/ipv4/ping_group_range", "0 2147483647");
        namespace.ip(&format!(
            "route add default via {OUTSIDE_V4}\nroute add default via {OUTSIDE_V6}"
        ));
        let directory = tempfile::Builder::new()
            .prefix("calico-ebpf-")
            .tempdir()
            .expect("temporary directory");
        Self {
            namespace: Arc::new(namespace),
            outside: Arc::new(outside),
            directory,
        }
    }

    pub fn namespace(&self) -> &Arc<Netns> {
        &self.namespace
    }

    /// The namespace of the machine behind the uplink.
    pub fn outside(&self) -> &Arc<Netns> {
        &self.outside
    }

    /// A directory that goes with the host.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// `RunDir` of the host's agent.
    pub fn run_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// Does what classic Felix does below its rules: forwards, answers ARP for everything and has a route and a
    /// permanent neighbour for each guest.
    pub fn forward_plainly(&self, guests: &[&Guest]) {
        let vms: Vec<_> = guests.iter().map(|guest| guest.vm()).collect();
        self.forward_plainly_to(&vms);
    }

    /// As [`Self::forward_plainly`], for taps without guests behind them, too.
    pub fn forward_plainly_to(&self, vms: &[&Vm]) {
        let global = [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ];
        self.namespace.set_sysctls(&global);
        for vm in vms {
            let (tap, mac) = (vm.interface(), vm.mac_text());
            self.namespace.set_sysctls(&[
                (&format!("net/ipv6/conf/{tap}/disable_ipv6"), "0"),
                (&format!("net/ipv4/neigh/{tap}/proxy_delay"), "0"),
                (&format!("net/ipv4/conf/{tap}/proxy_arp"), "1"),
            ]);
            self.namespace.ip(&format!(
                "route replace {}/32 dev {tap}
                 route replace {}/128 dev {tap}
                 neigh replace {} lladdr {mac} dev {tap} nud permanent",
                vm.v4(),
                vm.v6(),
                vm.v4()
            ));
        }
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

/// The host's address of the family of `address`.
pub fn host_address_like(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => HOST_V4.into(),
        IpAddr::V6(_) => HOST_V6.into(),
    }
}

/// The outside machine's address of the family of `address`.
pub fn outside_address_like(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => OUTSIDE_V4.into(),
        IpAddr::V6(_) => OUTSIDE_V6.into(),
    }
}

/// IPv6 addresses are usable at once on interfaces made from now on.
pub(crate) fn skip_duplicate_address_detection(namespace: &Netns) {
    namespace.set_sysctls(&[
        ("net/ipv6/conf/all/accept_dad", "0"),
        ("net/ipv6/conf/default/accept_dad", "0"),
    ]);
}
