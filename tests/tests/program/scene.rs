//! Two workloads on a host, and somebody far away.

use std::net::IpAddr;

use calico_ebpf_tests::manifests::{Object, allow_everything};
use calico_ebpf_tests::packets::Path;
use calico_ebpf_tests::programs::Dataplane;

/// Addresses of one family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Family {
    pub(crate) a: IpAddr,
    pub(crate) b: IpAddr,
    /// No workload of this host.
    pub(crate) far: IpAddr,
    pub(crate) host: IpAddr,
}

impl Family {
    pub(crate) fn a_to_b(&self, source_port: u16, target_port: u16) -> Path {
        Path::new((self.a, source_port), (self.b, target_port))
    }

    pub(crate) fn a_to_far(&self, source_port: u16, target_port: u16) -> Path {
        Path::new((self.a, source_port), (self.far, target_port))
    }

    pub(crate) fn far_to_a(&self, source_port: u16, target_port: u16) -> Path {
        Path::new((self.far, source_port), (self.a, target_port))
    }

    pub(crate) fn a_to_host(&self, source_port: u16, target_port: u16) -> Path {
        Path::new((self.a, source_port), (self.host, target_port))
    }
}

/// Returns the addresses of both families.
pub(crate) fn families() -> [Family; 2] {
    let family = |[a, b, far, host]: [&str; 4]| Family {
        a: a.parse().expect("an address"),
        b: b.parse().expect("an address"),
        far: far.parse().expect("an address"),
        host: host.parse().expect("an address"),
    };
    [
        family(["10.0.0.1", "10.0.0.2", "192.0.2.9", "192.0.2.1"]),
        family(["fd00::1", "fd00::2", "2001:db8::9", "2001:db8::1"]),
    ]
}

/// Makes workloads a and b under these policies.
pub(crate) fn under(policies: &[Object]) -> Dataplane {
    fill(Dataplane::new(), policies)
}

/// As [`under`], with settings of the programs.
pub(crate) fn under_with(settings: &[(&str, u32)], policies: &[Object]) -> Dataplane {
    fill(Dataplane::with_settings(settings), policies)
}

pub(crate) fn fill(mut dataplane: Dataplane, policies: &[Object]) -> Dataplane {
    dataplane.workload("a", &["10.0.0.1/32", "fd00::1/128"]);
    dataplane.workload("b", &["10.0.0.2/32", "fd00::2/128"]);
    dataplane.change_host(|host| {
        let addresses = families().map(|family| family.host);
        host.host_addresses.extend(addresses);
        host.host_addresses
            .extend(["fe80::1", "127.0.0.1", "::1"].map(|text| text.parse::<IpAddr>().expect("an address")));
    });
    dataplane.put_all(policies);
    dataplane
}

/// Workloads that may say everything to everybody.
pub(crate) fn open() -> Dataplane {
    under(&[allow_everything()])
}
