//! The wire between nodes: a bridge in a network namespace of its own. Nothing leads out of it.

use anyhow::Result;

use crate::command;

const SWITCH: &str = "calico-fuel-wire";

/// A bridge. It and the namespaces of its nodes end with this value.
pub(super) struct Switch {
    namespaces: Vec<String>,
}

impl Switch {
    /// Makes the bridge; what an interrupted run left is removed.
    pub(super) fn make() -> Result<Self> {
        let switch = Self {
            namespaces: vec![SWITCH.to_owned()],
        };
        add_namespace(SWITCH)?;
        ip(&["-n", SWITCH, "link", "add", "wire", "type", "bridge"])?;
        ip(&["-n", SWITCH, "link", "set", "wire", "up"])?;
        Ok(switch)
    }

    /// Makes the network namespace of a node, with both of its addresses, and returns its name.
    pub(super) fn plug(&mut self, uid: u8) -> Result<String> {
        let name = format!("calico-fuel-{uid}");
        let port = format!("node{uid}");
        add_namespace(&name)?;
        self.namespaces.push(name.clone());
        ip(&[
            "-n", &name, "link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", SWITCH,
        ])?;
        ip(&["-n", SWITCH, "link", "set", &port, "master", "wire", "up"])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        ip(&["-n", &name, "link", "set", "eth0", "up"])?;
        for network in ["192.168.0", "192.168.2"] {
            ip(&[
                "-n",
                &name,
                "address",
                "add",
                &format!("{network}.{uid}/24"),
                "dev",
                "eth0",
            ])?;
        }
        Ok(name)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        for name in self.namespaces.iter().rev() {
            if let Err(error) = ip(&["netns", "delete", name]) {
                eprintln!("{error:#}");
            }
        }
    }
}

fn add_namespace(name: &str) -> Result<()> {
    if std::path::Path::new("/run/netns").join(name).exists() {
        ip(&["netns", "delete", name])?;
    }
    ip(&["netns", "add", name])
}

fn ip(arguments: &[&str]) -> Result<()> {
    command::run(command::command("ip").args(arguments))
}
