//! A compute node that packages are installed on: this machine's Debian behind an overlay, with an init of its own,
//! in the network of a test's host. What happens inside is real: dpkg, its maintainer scripts, systemd, the unit.

use std::fmt::Debug;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::host::Host;
use crate::manifests::{HOSTNAME, Manifests};
use crate::netns::Netns;
use crate::wait;

/// How long a boot, or a start of the service, may take.
const LIMIT: Duration = Duration::from_mins(1);

/// How long the last processes may take to leave their control group.
const GROUP_LIMIT: Duration = Duration::from_secs(2);

/// In the host's own `/run`, which goes with its mount namespace.
const ROOT: &str = "/run/node/root";

/// Services of this machine that would change more than the node.
const MASKED: &[&str] = &[
    "systemd-sysctl.service",
    "systemd-modules-load.service",
    "systemd-udevd.service",
    "systemd-udev-trigger.service",
    "systemd-tmpfiles-clean.timer",
    "systemd-timesyncd.service",
];

/// Mounts a root of its own over this machine's; what is written to it is in memory. Policies against the start of
/// services are those of an image that this machine was made from, not of a node.
const MAKE_ROOT: &str = "
    mkdir -p /run/node/upper /run/node/work /run/node/root
    mount -t overlay -o lowerdir=/,upperdir=/run/node/upper,workdir=/run/node/work node /run/node/root
    rm -f /run/node/root/usr/sbin/policy-rc.d
";

/// Starts the node's init in a control group of its own, in the form that does not depend on this machine's.
const BOOT: &str = "
    group=/sys/fs/cgroup/calico-ebpf-node-$$
    mount -t cgroup2 none /sys/fs/cgroup
    mkdir \"$group\"
    echo $$ > \"$group/cgroup.procs\"
    exec systemd-nspawn \"$@\"
";

/// Removes the control group when all processes in it have ended.
const REMOVE_GROUP: &str = "
    mount -t cgroup2 none /sys/fs/cgroup
    group=/sys/fs/cgroup/calico-ebpf-node-$1
    find \"$group\" -depth -type d -exec rmdir {} +
";

/// The node. Its processes end with this value.
#[derive(Debug)]
pub struct Node {
    namespace: Arc<Netns>,
    nspawn: Child,
    init: u32,
}

impl Node {
    /// Boots a node that is to read `manifests`; `packages` is the directory of what can be installed on it.
    ///
    /// # Panics
    ///
    /// When its init is not up within a minute.
    pub fn boot(host: &Host, manifests: &Manifests, packages: &std::path::Path) -> Self {
        let namespace = Arc::clone(host.namespace());
        namespace.stdout("sh", &["-euc", MAKE_ROOT]);
        let configuration = format!(
            "[global]\nFelixHostname = {HOSTNAME}\nDatastoreType = file\nDatastoreDir = /srv/manifests\n\
             BPFMapSizeConntrack = 16384\nBPFPolicyTableLines = 65536\n"
        );
        write_into_root(&namespace, "etc/calico/felix.cfg", &configuration);
        for unit in MASKED {
            namespace.stdout(
                "ln",
                &["-sf", "/dev/null", &format!("{ROOT}/etc/systemd/system/{unit}")],
            );
        }
        let log = fs::File::create(host.directory().join("node.log")).expect("the node's log");
        let mut nspawn = namespace.command("unshare");
        nspawn
            .args(["--mount", "sh", "-euc", BOOT, "sh"])
            .args(["--quiet", "--register=no", "--keep-unit", "--directory", ROOT])
            .args(["--machine=node", "--capability=all", "--system-call-filter=bpf"])
            .args([
                "--resolv-conf=off",
                "--timezone=off",
                "--link-journal=no",
                "--console=pipe",
            ])
            .arg(format!(
                "--bind-ro={}:/srv/manifests",
                manifests.directory().display()
            ))
            .arg(format!("--bind-ro={}:/srv/packages", packages.display()))
            .args(["--boot", "systemd.unit=sysinit.target"])
            // The node writes sysctls, as one that is no container does.
            .env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second descriptor"))
            .stderr(log);
        let child = nspawn
            .spawn()
            .expect("systemd-nspawn starts (package systemd-container)");
        let mut node = Self {
            namespace,
            nspawn: child,
            init: 0,
        };
        let log = host.directory().join("node.log");
        let up = wait::poll(LIMIT, || {
            node.init = node.find_init()?;
            let state = node.output(&["systemctl", "is-system-running"]);
            let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
            ["running", "degraded"].contains(&state.as_str()).then_some(())
        });
        assert!(
            up.is_some(),
            "the node is not up within {LIMIT:?}: {}",
            fs::read_to_string(log).unwrap_or_default()
        );
        node
    }

    /// Installs, upgrades or downgrades by a package in the node's `/srv/packages`, and waits until the service is
    /// ready.
    ///
    /// # Panics
    ///
    /// When dpkg fails, or the service is not ready within a minute.
    pub fn install(&self, package: &str) {
        let before = self.main_process();
        let path = format!("/srv/packages/{package}");
        self.stdout(&["dpkg", "--force-confold", "--install", &path]);
        let ready = wait::poll(LIMIT, || {
            let is_new = self.main_process() != before;
            (is_new && self.is_active()).then_some(())
        });
        assert!(
            ready.is_some(),
            "the service is not ready: {}",
            self.service_log()
        );
    }

    /// Whether the service says that it is ready.
    pub fn is_active(&self) -> bool {
        self.property("ActiveState") == "active"
    }

    /// Process number of the service's agent inside of the node, 0 when none runs.
    pub fn main_process(&self) -> u32 {
        self.property("MainPID").parse().unwrap_or_default()
    }

    /// What the service said.
    pub fn service_log(&self) -> String {
        let output = self.output(&["journalctl", "--no-pager", "--unit=calico-ebpf.service"]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs the installed command line with JSON output.
    pub fn query(&self, subcommand: &[&str]) -> Value {
        let text = self.stdout(&[&["calico-ebpf"], subcommand, &["-o", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{subcommand:?}: {error}: {text}"))
    }

    /// Runs a command on the node and returns its standard output.
    ///
    /// # Panics
    ///
    /// When it fails.
    pub fn stdout(&self, command: &[&str]) -> String {
        let output = self.output(command);
        assert!(
            output.status.success(),
            "{command:?}: {}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a command on the node, whatever its exit status is.
    pub fn output(&self, command: &[&str]) -> Output {
        let target = self.init.to_string();
        let mut nsenter = Command::new("nsenter");
        nsenter
            .args([
                "--target", &target, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup",
            ])
            .args(["--", "env", "--ignore-environment"])
            .args([
                "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                "LC_ALL=C",
                "DEBIAN_FRONTEND=noninteractive",
            ])
            .args(command)
            .stdin(Stdio::null());
        nsenter.output().expect("nsenter starts")
    }

    fn property(&self, name: &str) -> String {
        let output = self.output(&[
            "systemctl",
            "show",
            "--value",
            "--property",
            name,
            "calico-ebpf.service",
        ]);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Returns the process number of the node's init, as this machine counts.
    fn find_init(&mut self) -> Option<u32> {
        if let Some(status) = self.nspawn.try_wait().expect("wait for systemd-nspawn") {
            panic!("systemd-nspawn ended with {status}");
        }
        let pid = self.nspawn.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        let init: u32 = children.split_whitespace().next()?.parse().ok()?;
        let name = fs::read_to_string(format!("/proc/{init}/comm")).ok()?;
        (name.trim() == "systemd").then_some(init)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() && self.init != 0 {
            eprintln!("--- log of the service ---\n{}---", self.service_log());
        }
        let group = self.nspawn.id().to_string();
        if self.init != 0 {
            // The end of an init is that of every process in its namespace.
            let _ = kill(Pid::from_raw(self.init.cast_signed()), Signal::SIGKILL);
        } else {
            drop(self.nspawn.kill());
        }
        drop(self.nspawn.wait());
        let mut remove = self.namespace.command("unshare");
        remove.args(["--mount", "sh", "-euc", REMOVE_GROUP, "sh", &group]);
        remove.stdin(Stdio::null()).stderr(Stdio::null());
        // Processes leave the group a little after they have ended.
        wait::poll(GROUP_LIMIT, || remove.status().ok()?.success().then_some(()));
    }
}

fn write_into_root(namespace: &Netns, path: &str, text: &str) {
    let path = PathBuf::from(ROOT).join(path);
    let path = path.to_str().expect("UTF-8");
    namespace.stdout(
        "sh",
        &[
            "-euc",
            "mkdir -p \"${1%/*}\"; printf %s \"$2\" > \"$1\"",
            "sh",
            path,
            text,
        ],
    );
}
