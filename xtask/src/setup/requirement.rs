//! What has to be on the machine, by Debian's package names and by what tells that it is there on any distribution.

use std::env;
use std::path::{Path, PathBuf};

/// A package and the sign of its presence.
pub(super) struct Requirement {
    /// Debian's name.
    pub(super) package: &'static str,
    sign: Sign,
}

enum Sign {
    Program(&'static str),
    File(&'static str),
}

impl Requirement {
    const fn program(package: &'static str, name: &'static str) -> Self {
        Self {
            package,
            sign: Sign::Program(name),
        }
    }

    const fn file(package: &'static str, path: &'static str) -> Self {
        Self {
            package,
            sign: Sign::File(path),
        }
    }

    /// Tells whether the program is on `PATH` (or in a folder for administrators), or the file exists.
    pub(super) fn is_met(&self) -> bool {
        match self.sign {
            Sign::Program(name) => find_program(name).is_some(),
            Sign::File(path) => Path::new(path).exists(),
        }
    }
}

/// Debian's compiler for the kernel side; present when [`crate::kernel_toolchain::Toolchain::find`] says so.
pub(super) const DEBIAN_COMPILER: &[&str] = &["rustc-web", "libstd-rust-web-dev-bpf"];

/// What builds bpf-linker.
pub(super) const LINKER_BUILD: &[Requirement] = &[
    Requirement::file("llvm-22-dev", "/usr/lib/llvm-22/bin/llvm-config"),
    Requirement::file("libpolly-22-dev", "/usr/lib/llvm-22/lib/libPolly.a"),
    Requirement::file("libzstd-dev", "/usr/include/zstd.h"),
    Requirement::file("zlib1g-dev", "/usr/include/zlib.h"),
    Requirement::file("libxml2-dev", "/usr/include/libxml2"),
    Requirement::program("g++", "c++"),
];

/// What builds the etcd client.
pub(super) const PROTOBUF: &[Requirement] = &[
    Requirement::program("protobuf-compiler", "protoc"),
    Requirement::file("libprotobuf-dev", "/usr/include/google/protobuf/descriptor.proto"),
];

/// What tests, demo and benchmarks run.
pub(super) const TEST_PROGRAMS: &[Requirement] = &[
    Requirement::program("iproute2", "tc"),
    Requirement::program("iputils-ping", "ping"),
    Requirement::program("iputils-arping", "arping"),
    Requirement::program("iputils-tracepath", "tracepath"),
    Requirement::program("traceroute", "traceroute"),
    Requirement::program("tcpdump", "tcpdump"),
    Requirement::program("curl", "curl"),
    Requirement::program("diffutils", "cmp"),
    Requirement::program("etcd-server", "etcd"),
    Requirement::program("iptables", "iptables-nft"),
    Requirement::program("ipset", "ipset"),
    Requirement::program("dnsmasq-base", "dnsmasq"),
    Requirement::program("isc-dhcp-client", "dhclient"),
    Requirement::program("ndisc6", "rdisc6"),
    Requirement::program("bird2", "bird"),
    Requirement::program("bpftool", "bpftool"),
    Requirement::program("systemd-container", "systemd-nspawn"),
    Requirement::file("systemd-sysv", "/sbin/init"),
    Requirement::program("rpm", "rpm"),
];

/// What runs another kernel.
pub(super) const MACHINE: &[Requirement] = &[
    Requirement::program("qemu-system-x86", "qemu-system-x86_64"),
    Requirement::program("xz-utils", "xz"),
];

/// What makes the disk of a node.
pub(super) const FUEL_KERNEL: &[Requirement] = &[
    Requirement::program("mmdebstrap", "mmdebstrap"),
    Requirement::program("e2fsprogs", "mke2fs"),
];

/// What builds libFuzzer.
pub(super) const FUZZ: &[Requirement] = &[Requirement::program("g++", "c++")];

/// What makes packages.
pub(super) const PACKAGING: &[Requirement] = &[
    Requirement::program("dpkg", "dpkg-deb"),
    Requirement::program("rpm", "rpmbuild"),
    Requirement::program("binutils", "strip"),
];

/// What looks at packages.
pub(super) const PACKAGE_CHECK: &[Requirement] = &[
    Requirement::program("lintian", "lintian"),
    Requirement::program("systemd", "systemd-analyze"),
];

/// What the documentation's tools run in: Debian takes `ensurepip` out of Python.
pub(super) const DOCS: &[Requirement] = &[Requirement::file("python3-venv", "/usr/share/doc/python3-venv")];

/// What judges Puppet's classes. The modules are those that a node of Fuel has.
pub(super) const PUPPET: &[Requirement] = &[
    Requirement::program("puppet", "puppet"),
    Requirement::program("ruby-rspec-core", "rspec"),
    Requirement::program("ruby-rspec-puppet", "rspec-puppet-init"),
    Requirement::file(
        "puppet-module-puppetlabs-stdlib",
        "/usr/share/puppet/modules/stdlib",
    ),
    Requirement::file(
        "puppet-module-puppetlabs-inifile",
        "/usr/share/puppet/modules/inifile",
    ),
    Requirement::file(
        "puppet-module-puppetlabs-firewall",
        "/usr/share/puppet/modules/firewall",
    ),
];

/// What makes and boots nodes to deploy.
pub(super) const NODES: &[Requirement] = &[
    Requirement::program("debootstrap", "debootstrap"),
    Requirement::program("systemd-container", "systemd-nspawn"),
    Requirement::program("dpkg-dev", "dpkg-scanpackages"),
    Requirement::program("openssh-client", "ssh-keygen"),
    Requirement::program("iproute2", "ip"),
];

/// What builds the Fuel plugin and looks it over.
pub(super) const FUEL_PLUGIN: &[Requirement] = &[
    Requirement::program("rpm", "rpmbuild"),
    Requirement::program("cpio", "cpio"),
    Requirement::program("createrepo-c", "createrepo_c"),
    Requirement::program("dpkg-dev", "dpkg-scanpackages"),
    Requirement::program("binutils", "ar"),
    Requirement::program("patchelf", "patchelf"),
    Requirement::file("python3-venv", "/usr/share/doc/python3-venv"),
    Requirement::program("puppet", "puppet"),
    Requirement::program("puppet-lint", "puppet-lint"),
    Requirement::program("ruby", "erb"),
    Requirement::program("nodejs", "node"),
    Requirement::program("yamllint", "yamllint"),
    Requirement::program("shellcheck", "shellcheck"),
];

/// What `lint` runs.
pub(super) const LINT: &[Requirement] = &[Requirement::program("shellcheck", "shellcheck")];

/// The lints of [`DEBIAN_COMPILER`]: clippy reads `core` only of its own version.
pub(super) const DEBIAN_CLIPPY: &[Requirement] =
    &[Requirement::file("rust-web-clippy", "/usr/bin/clippy-driver")];

/// Returns where a program is.
pub(super) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let administrators = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(administrators)
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_by_its_name_and_a_file_by_its_path() {
        assert!(Requirement::program("dash", "sh").is_met());
        assert!(Requirement::file("base-files", "/etc").is_met());
        assert!(!Requirement::program("none", "no-such-program-anywhere").is_met());
    }
}
