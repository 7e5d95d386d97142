//! What is tried on the nodes, in the order of a deployment.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::environment::{EXPECTED, NODES};
use super::image::Image;
use super::node::Node;
use super::switch::Switch;
use crate::progress::headline;
use crate::test_report::TestReport;
use crate::{command, workspace};

/// etcdctl with the node's own credentials.
const ETCDCTL: &str = "ETCDCTL_API=3 etcdctl --endpoints https://192.168.0.1:2379,https://192.168.0.2:2379 \
                       --cacert=/etc/calico/etcd/ca.crt --cert=/etc/calico/etcd/node.crt --key=/etc/calico/etcd/node.key";

/// What the Neutron driver writes when it starts.
const READY: &str = r#"{"kind":"ClusterInformation","apiVersion":"projectcalico.org/v3","metadata":{"name":"default"},"spec":{"clusterGUID":"0123456789abcdef0123456789abcdef","clusterType":"openstack","datastoreReady":true}}"#;

/// What a node without the eBPF dataplane must not show of it, one thing to a line.
const TRACES: &str = "dpkg -l | grep '^[a-z][a-z] ' | awk '{print $1, $2, $3}' | sort
find /boot -mindepth 1 | sort
find /sys/fs/bpf -mindepth 1 | sort
find /etc/calico /etc/init /etc/sysctl.d /etc/modules-load.d /usr/lib/calico /usr/sbin/calico-* /var/lib/calico* | sort
systemctl list-unit-files --no-legend | grep -e calico -e felix | awk '{print $1, $2}'
iptables-save | grep -e ':cali' -e '-j cali' | sed 's/ \\[.*//'; ip6tables-save | grep -e ':cali' -e '-j cali' | sed 's/ \\[.*//'
ls /run/calico-ebpf 2>/dev/null || true";

type Case = (&'static str, fn(&Cloud) -> Result<()>);

const CASES: &[Case] = &[
    ("settings are checked again on the node", settings_are_checked),
    (
        "an etcd that cannot be reached is told before anything is changed",
        unreachable_etcd_is_told,
    ),
    (
        "Fuel's tasks are told to do without Open vSwitch",
        no_open_vswitch,
    ),
    ("etcd grows member by member, with TLS", etcd_grows),
    (
        "a controller that lost its data joins etcd again",
        etcd_data_is_lost,
    ),
    ("BIRD speaks with reflectors and clients", bird_speaks),
    ("the checkbox clear brings Felix", felix_is_brought),
    (
        "the checkbox set brings the agent, and its settings arrive in it",
        agent_is_brought,
    ),
    (
        "the operator's command changes over to Felix and back",
        operator_changes_over,
    ),
    ("a kernel that did not come up brings Felix", kernel_that_failed),
    ("the checkbox clear again leaves what never had it", clear_again),
    (
        "an agent that cannot run here leaves Felix in force",
        agent_that_cannot_run,
    ),
    ("a controller that leaves is removed from etcd", controller_leaves),
];

/// Controllers 1 to 3, computes 4 and 5. On node 5 the agent cannot run.
pub(super) struct Cloud {
    nodes: Vec<Node>,
    // Fields are dropped in their order.
    _switch: Switch,
    _files: Files,
}

/// A file system in memory for what nodes write: an overlay cannot lie on every other one.
struct Files(PathBuf);

impl Files {
    fn mount() -> Result<Self> {
        let folder = workspace::target_dir()?.join("fuel-plugin-test/nodes");
        fs::create_dir_all(&folder)?;
        let files = Self(folder);
        files.unmount();
        command::run(
            command::command("mount")
                .args(["-t", "tmpfs", "tmpfs"])
                .arg(&files.0),
        )?;
        Ok(files)
    }

    /// Ends what is mounted there, also what an interrupted run left.
    fn unmount(&self) {
        let mut unmount = command::command("umount");
        drop(command::probe(
            unmount.args(["--recursive", "--lazy"]).arg(&self.0),
        ));
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.unmount();
    }
}

impl Cloud {
    /// Boots the nodes.
    pub(super) fn start(image: &Image) -> Result<Self> {
        let files = Files::mount()?;
        let mut switch = Switch::make()?;
        let mut nodes = Vec::new();
        for (uid, role) in NODES {
            headline(&format!("node-{uid}, {role}: boot"));
            let namespace = switch.plug(uid)?;
            let node = Node::boot(uid, image, &files.0, &namespace, uid != 5)?;
            node.configure(&json!({"ebpf_mode": uid == 4}))?;
            nodes.push(node);
        }
        Ok(Self {
            nodes,
            _switch: switch,
            _files: files,
        })
    }

    fn node(&self, uid: u8) -> Result<&Node> {
        self.nodes
            .iter()
            .find(|node| node.uid == uid)
            .context("no such node")
    }
}

/// Runs all cases; the first that fails ends it, because the next ones build on it.
pub(super) fn run(cloud: &Cloud, report: &mut TestReport) -> Result<()> {
    for (index, (name, case)) in CASES.iter().enumerate() {
        let started = Instant::now();
        if let Err(error) = report.note(name, case(cloud)) {
            for (name, _) in &CASES[index + 1..] {
                report.skipped(name, "a case that it builds on has failed");
            }
            return Err(error.context(*name));
        }
        headline(&format!("{name}: passed in {} s", started.elapsed().as_secs()));
    }
    Ok(())
}

fn settings_are_checked(cloud: &Cloud) -> Result<()> {
    cloud.node(1)?.apply_twice("calico-settings-check")?;
    let node = cloud.node(4)?;
    node.apply_twice("calico-settings-check")?;
    let before = node.shell("find / -xdev -newer /etc/hostname -type f -not -path '/proc/*' | sort")?;
    let bad = [
        (
            json!({"ippool_gateway": "10.66.0.1"}),
            "ippool_gateway",
            "10.65.0.0/16",
        ),
        (
            json!({"external_peers": "edge-1:65001:192.168.2.1"}),
            "external_peers",
            "node-1 itself",
        ),
        (json!({"as_number": "0"}), "as_number", "from 1 to 4294967295"),
        (
            json!({"etcd_endpoints": "https://192.0.2.1:2379", "etcd_ca": "x"}),
            "etcd_ca",
            "no PEM",
        ),
    ];
    for (changes, setting, says) in bad {
        node.configure(&changes)?;
        let setting = format!("setting {setting}");
        let words = [setting.as_str(), "node node-4.domain.tld", says, "cure: "];
        node.apply_fails("calico-settings-check", &words)?;
    }
    // Also a task further on stops before it does anything.
    node.apply_fails("calico-dataplane", &["setting etcd_ca", "node node-4", "cure: "])?;
    node.configure(&json!({"ebpf_mode": true}))?;
    let after = node.shell("find / -xdev -newer /etc/hostname -type f -not -path '/proc/*' | sort")?;
    let changed: Vec<&str> = after
        .lines()
        .filter(|line| !before.contains(line) && !ignored(line))
        .collect();
    if !changed.is_empty() {
        bail!("files were changed: {}", changed.join(", "));
    }
    Ok(())
}

/// Puppet's own notes, journals, and the settings that this test writes.
fn ignored(path: &str) -> bool {
    [
        "/var/cache/puppet",
        "/var/lib/puppet",
        "/var/log",
        "/run",
        "/etc/hiera",
        "/tmp",
        "/var/lib/systemd",
    ]
    .iter()
    .any(|folder| path.starts_with(folder))
}

fn unreachable_etcd_is_told(cloud: &Cloud) -> Result<()> {
    let node = cloud.node(4)?;
    // Nobody has this address: packets get no answer at all.
    node.configure(&json!({"etcd_endpoints": "http://192.168.0.99:2379", "etcd_tls": false}))?;
    let started = Instant::now();
    let words = [
        "setting etcd_endpoints",
        "node node-4",
        "http://192.168.0.99:2379",
        "cure: ",
    ];
    node.apply_fails("calico-settings-check", &words)?;
    if started.elapsed() > Duration::from_secs(40) {
        bail!("it took {} s", started.elapsed().as_secs());
    }
    node.configure(&json!({"ebpf_mode": true}))
}

fn no_open_vswitch(cloud: &Cloud) -> Result<()> {
    let node = cloud.node(4)?;
    node.apply_twice("calico-hiera-override")?;
    let text = node.shell("cat /etc/hiera/plugins/fuel-plugin-calico.yaml")?;
    if !text.contains("use_ovs: false") || !text.contains("override: br-prv") {
        bail!("unexpected: {text}");
    }
    node.apply_twice("calico-no-ovs")
}

fn etcd_grows(cloud: &Cloud) -> Result<()> {
    for uid in [1, 2, 3] {
        cloud.node(uid)?.apply_twice("calico-etcd")?;
    }
    let first = cloud.node(1)?;
    first.apply_again("calico-etcd")?;
    three_members(first)?;
    let without =
        "ETCDCTL_API=3 etcdctl --endpoints https://192.168.0.2:2379 --cacert=/etc/calico/etcd/ca.crt get /";
    if first.run(&["sh", "-c", without])?.status == 0 {
        bail!("etcd answered a client without a certificate");
    }
    first.shell(&format!(
        "{ETCDCTL} put /calico/resources/v3/projectcalico.org/clusterinformations/default '{READY}'"
    ))?;
    Ok(())
}

fn three_members(node: &Node) -> Result<()> {
    let members = node.shell(&format!("{ETCDCTL} member list"))?;
    if members.matches(", started, ").count() != 3 || members.lines().count() != 3 {
        bail!("expected three members that have started:\n{members}");
    }
    Ok(())
}

fn etcd_data_is_lost(cloud: &Cloud) -> Result<()> {
    let node = cloud.node(2)?;
    node.shell("systemctl stop etcd && rm -rf /var/lib/etcd/calico/member")?;
    node.apply_twice("calico-etcd")?;
    three_members(node)?;
    let key = "/calico/resources/v3/projectcalico.org/clusterinformations/default";
    let read = node.shell(&format!("{ETCDCTL} get {key}"))?;
    if !read.contains("datastoreReady") {
        bail!("what was written before is gone: {read}");
    }
    Ok(())
}

fn controller_leaves(cloud: &Cloud) -> Result<()> {
    let first = cloud.node(1)?;
    cloud.node(3)?.shell("systemctl stop etcd")?;
    first.configure_without(&json!({}), &[3])?;
    first.apply_twice("calico-etcd")?;
    let members = first.shell(&format!("{ETCDCTL} member list"))?;
    if members.contains("192.168.0.3") || members.lines().count() != 2 {
        bail!("node-3 is still a member:\n{members}");
    }
    first.apply_twice("calico-bird")?;
    let sessions = first.shell("birdc show protocols")?;
    if sessions.contains("node_node_3") || !sessions.contains("node_node_2") {
        bail!("unexpected sessions:\n{sessions}");
    }
    Ok(())
}

fn bird_speaks(cloud: &Cloud) -> Result<()> {
    for node in &cloud.nodes {
        node.apply_twice("calico-bird")?;
    }
    until(cloud.node(1)?, "birdc show protocols", |text| {
        ["node_node_2", "node_node_4", "node_node_5"].iter().all(|name| {
            text.lines()
                .any(|line| line.starts_with(name) && line.contains("Established"))
        })
    })?;
    until(cloud.node(4)?, "birdc show protocols", |text| {
        text.matches("Established").count() == 3
    })?;
    // A workload's route at one compute arrives at the other, by the reflectors; its next hop is the compute itself.
    let far = cloud.node(5)?;
    far.shell(
        "ip link add tapfar type veth peer name guest && ip link set tapfar up && ip link set guest up",
    )?;
    far.shell("ip route add 10.65.0.77 dev tapfar proto boot metric 1024")?;
    until(cloud.node(4)?, "ip route show 10.65.0.77", |text| {
        text.contains("via 192.168.2.5") && text.contains("proto bird") && text.contains("metric 1024")
    })?;
    far.shell("ip link delete tapfar")?;
    until(cloud.node(4)?, "ip route show 10.65.0.77", str::is_empty)
}

fn felix_is_brought(cloud: &Cloud) -> Result<()> {
    let node = cloud.node(5)?;
    node.apply_twice("calico-dataplane")?;
    node.shell("systemctl is-active calico-felix")?;
    if node.shell("dpkg -l")?.contains("calico-ebpf") {
        bail!("the agent's package was installed");
    }
    Ok(())
}

fn agent_is_brought(cloud: &Cloud) -> Result<()> {
    let node = cloud.node(4)?;
    node.apply_twice("calico-dataplane")?;
    node.shell("systemctl is-active calico-ebpf && calico-ebpf status")?;
    let text = node.shell("calico-ebpf config show -o json 2>/dev/null")?;
    let shown: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    let parameters = shown["parameters"].as_array().context("no parameters")?;
    for (name, expected) in EXPECTED {
        let found = parameters.iter().find(|parameter| parameter["name"] == name);
        let found = found.with_context(|| format!("no parameter {name}"))?;
        if found["value"] != expected || found["source"] != "file" {
            bail!("{name}: expected {expected} of the file, found {found}");
        }
    }
    // The service reads it, too.
    until(node, "cat /proc/net/tcp /proc/net/tcp6", |text| {
        text.contains(":23E7 ")
    })?;
    let running =
        format!("{ETCDCTL} get --prefix --keys-only /calico/felix/v2/no-region/host/node-4.domain.tld/");
    until(cloud.node(1)?, &running, |text| text.contains("/status"))
}

fn operator_changes_over(cloud: &Cloud) -> Result<()> {
    let node = cloud.node(4)?;
    let switched = node.shell("calico-dataplane-switch iptables")?;
    if !switched.contains("done: iptables") {
        bail!("unexpected: {switched}");
    }
    node.shell("systemctl is-active calico-felix && ! dpkg -s calico-ebpf 2>/dev/null")?;
    node.apply_again("calico-dataplane")?;
    let again = node.shell("calico-dataplane-switch iptables")?;
    if !again.contains("nothing to change") {
        bail!("unexpected: {again}");
    }
    node.shell("echo 'it did not boot' >/etc/calico/ebpf-unavailable")?;
    let refused = node.run(&["calico-dataplane-switch", "ebpf"])?;
    if refused.status != 1 || !refused.text.contains("it did not boot; cure: ") {
        bail!("it should have refused: {}", refused.text);
    }
    node.shell("rm /etc/calico/ebpf-unavailable && calico-dataplane-switch ebpf")?;
    node.shell(
        "calico-ebpf status && ! dpkg -s calico-felix 2>/dev/null && test ! -e /etc/calico/dataplane.choice",
    )?;
    let rules = node.shell("iptables-save; ip6tables-save")?;
    if rules.contains("cali-") {
        bail!("chains of Felix are left:\n{rules}");
    }
    node.apply_again("calico-dataplane")
}

fn kernel_that_failed(cloud: &Cloud) -> Result<()> {
    let node = cloud.node(4)?;
    node.shell("echo 'kernel 6.1 did not boot' >/etc/calico/ebpf-unavailable")?;
    node.configure(&json!({"ebpf_mode": true, "kernel_failure_policy": "fail"}))?;
    node.apply_fails(
        "calico-dataplane",
        &[
            "setting kernel_failure_policy",
            "node-4",
            "kernel 6.1 did not boot",
            "cure: ",
        ],
    )?;
    node.shell("calico-ebpf status")?;
    node.configure(&json!({"ebpf_mode": true}))?;
    node.apply_twice("calico-dataplane")?;
    node.shell("systemctl is-active calico-felix && ! dpkg -s calico-ebpf 2>/dev/null")?;
    node.shell("rm /etc/calico/ebpf-unavailable")?;
    node.apply_twice("calico-dataplane")?;
    node.shell("calico-ebpf status")?;
    Ok(())
}

fn clear_again(cloud: &Cloud) -> Result<()> {
    let (node, never) = (cloud.node(4)?, cloud.node(5)?);
    node.configure(&json!({"ebpf_mode": false}))?;
    node.apply_twice("calico-dataplane")?;
    // Both had the same tasks otherwise.
    never.apply_twice("calico-hiera-override")?;
    never.apply_twice("calico-no-ovs")?;
    let (cleared, untouched) = (node.shell(TRACES)?, never.shell(TRACES)?);
    let more: Vec<&str> = cleared
        .lines()
        .filter(|line| !untouched.lines().any(|other| other == *line))
        .collect();
    let less: Vec<&str> = untouched
        .lines()
        .filter(|line| !cleared.lines().any(|other| other == *line))
        .collect();
    if !more.is_empty() || !less.is_empty() {
        bail!("left: {more:?}; missing: {less:?}");
    }
    Ok(())
}

fn agent_that_cannot_run(cloud: &Cloud) -> Result<()> {
    let node = cloud.node(5)?;
    node.configure(&json!({"ebpf_mode": true}))?;
    node.apply_fails(
        "calico-dataplane",
        &["setting ebpf_mode", "node node-5", "cannot run", "cure: "],
    )?;
    node.shell("systemctl is-active calico-felix && iptables-save | grep -q -e '-j cali-FORWARD'")?;
    Ok(())
}

/// Waits until what a line of shell prints is as it should be.
fn until(node: &Node, line: &str, good: impl Fn(&str) -> bool) -> Result<()> {
    let started = Instant::now();
    loop {
        let text = node.shell(line)?;
        if good(&text) {
            return Ok(());
        }
        if started.elapsed() > Duration::from_mins(1) {
            bail!(
                "node-{}: `{line}` did not become as expected within 60 s:\n{text}",
                node.uid
            );
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}
