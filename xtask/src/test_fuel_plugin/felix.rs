//! A package in Felix's place. Felix itself comes from Mirantis' or Calico's archives, which are not to be had: the plugin
//! has a slot for it. This one has its name, its service and its hooks, and no policy.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Result;

use crate::{command, workspace};

const CONTROL: &str = "Package: calico-felix
Version: 0~stand-in
Architecture: all
Maintainer: calico-ebpf tests <tests@localhost>
Description: stands in for Felix in tests
 Puts up the chains that Felix puts up, and stays.
";

const POSTINST: &str = "#!/bin/sh
set -eu
systemctl daemon-reload
systemctl enable --no-block --now calico-felix
";

const PRERM: &str = "#!/bin/sh
set -eu
systemctl disable --now calico-felix
";

const UNIT: &str = "[Unit]
Description=stands in for Felix

[Service]
ExecStart=/usr/bin/calico-felix

[Install]
WantedBy=multi-user.target
";

const PROGRAM: &str = r#"#!/bin/sh
set -eu
grep -q '^EtcdEndpoints' /etc/calico/felix.cfg
hook() {
    "$1" -t "$2" -N "cali-$3" 2>/dev/null || true
    "$1" -t "$2" -C "$3" -j "cali-$3" 2>/dev/null || "$1" -t "$2" -I "$3" -j "cali-$3"
}
for iptables in iptables ip6tables; do
    hook "$iptables" raw PREROUTING
    for chain in INPUT FORWARD OUTPUT; do
        hook "$iptables" filter "$chain"
    done
done
# Known by its name: not exec.
while :; do
    sleep 3600 &
    wait
done
"#;

/// Packs it into a folder.
pub(super) fn pack(folder: &Path) -> Result<()> {
    let tree = workspace::target_dir()?.join("fuel-plugin-test/felix");
    drop(fs::remove_dir_all(&tree));
    let files = [
        ("DEBIAN/control", CONTROL, 0o644),
        ("DEBIAN/postinst", POSTINST, 0o755),
        ("DEBIAN/prerm", PRERM, 0o755),
        ("usr/bin/calico-felix", PROGRAM, 0o755),
        ("lib/systemd/system/calico-felix.service", UNIT, 0o644),
    ];
    for (name, text, mode) in files {
        let path = tree.join(name);
        fs::create_dir_all(path.parent().unwrap_or(&tree))?;
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    fs::set_permissions(&tree, fs::Permissions::from_mode(0o755))?;
    command::run(
        command::command("dpkg-deb")
            .args(["--root-owner-group", "-Zgzip", "-b"])
            .arg(&tree)
            .arg(folder.join("calico-felix_0~stand-in_all.deb")),
    )
}
