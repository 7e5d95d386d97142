//! Clouds as two generations of Neutron's driver wrote them to etcd (`tests/data/`).

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use calico_ebpf_userspace::compile::reference::Direction;
use ipnet::IpNet;
use serde_json::Value;

/// What the driver puts before a group's id in the name of its policy.
const GROUP_PREFIX: &str = "ossg.default.";
/// What the driver puts before a group's id in labels and selectors.
const LABEL_PREFIX: &str = "sg.projectcalico.org/openstack-";

/// The networking-calico of 2019: protocols by name.
pub const TRAIN: &str = "neutron-train-etcd.json";
/// A driver of 2026: protocols by number, quality of service, live migration.
pub const CARACAL: &str = "neutron-2024.1-etcd.json";

/// A content of etcd.
#[derive(Clone, Debug)]
pub struct Recording {
    pairs: Vec<(String, Value)>,
}

impl Recording {
    /// Reads a recording of `tests/data/`.
    pub fn load(file: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let whole: Value = serde_json::from_str(&text).expect("a recording is JSON");
        let etcd = whole["etcd"].as_object().expect("keys and values");
        let pairs = etcd
            .iter()
            .map(|(key, entry)| (key.clone(), entry["value"].clone()));
        Self {
            pairs: pairs.collect(),
        }
    }

    /// Every key with its value.
    pub fn pairs(&self) -> &[(String, Value)] {
        &self.pairs
    }

    /// Every endpoint, of all hosts.
    pub fn ports(&self) -> Vec<RecordedPort> {
        self.of_kind("workloadendpoints").map(RecordedPort).collect()
    }

    /// Every security group.
    pub fn groups(&self) -> Vec<Group> {
        self.of_kind("networkpolicies").map(Group).collect()
    }

    fn of_kind(&self, plural: &str) -> impl Iterator<Item = Value> {
        let prefix = format!("/calico/resources/v3/projectcalico.org/{plural}/");
        self.pairs
            .iter()
            .filter(move |(key, _)| key.starts_with(&prefix))
            .map(|(_, value)| value.clone())
    }
}

/// A port of a VM: its `WorkloadEndpoint`.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedPort(pub Value);

impl RecordedPort {
    /// Name of its host.
    pub fn host(&self) -> &str {
        self.text("node")
    }

    /// Name of its tap.
    pub fn interface(&self) -> &str {
        self.text("interfaceName")
    }

    /// MAC of the VM's side.
    ///
    /// # Panics
    ///
    /// When the recording has none.
    pub fn mac(&self) -> [u8; 6] {
        let text = self.text("mac");
        let mut bytes = text
            .split(':')
            .map(|byte| u8::from_str_radix(byte, 16).expect("a MAC"));
        std::array::from_fn(|_| bytes.next().expect("six bytes"))
    }

    /// The fixed addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let pairs = self.texts("allowedIps");
        let own = self.texts("ipNetworks").into_iter();
        own.filter(|net| !pairs.contains(net))
            .map(|net| net.parse::<IpNet>().expect("a fixed address").addr())
            .collect()
    }

    /// Fixed addresses and address pairs; `10.99.0.0/28/32` is the driver's way to write a prefix (contract 0.8).
    ///
    /// # Panics
    ///
    /// When one is not an address.
    pub fn nets(&self) -> Vec<IpNet> {
        let of = |text: &str| match text.rsplit_once('/') {
            Some((net, "32")) if net.contains('/') => net.parse(),
            _ => text.parse(),
        };
        let nets = self.texts("ipNetworks");
        nets.iter()
            .map(|text| of(text).expect("an address or a prefix"))
            .collect()
    }

    /// Floating addresses, each behind the fixed one that it leads to.
    ///
    /// # Panics
    ///
    /// When one is not an address.
    pub fn floating(&self) -> Vec<[IpAddr; 2]> {
        let list = self.0["spec"]["ipNATs"].as_array().into_iter().flatten();
        list.map(|nat| {
            ["internalIP", "externalIP"].map(|field| {
                let text = nat[field].as_str().expect("text");
                text.parse().expect("an address")
            })
        })
        .collect()
    }

    /// Ids of its security groups.
    pub fn groups(&self) -> BTreeSet<String> {
        let labels = self.0["metadata"]["labels"].as_object().into_iter().flatten();
        labels
            .filter_map(|(label, _)| label.strip_prefix(LABEL_PREFIX).map(str::to_owned))
            .collect()
    }

    /// Makes another port like this one, in the given groups only.
    #[must_use]
    pub fn another(&self, host: &str, number: u8, groups: &[&str], addresses: &[IpAddr]) -> Self {
        let (device, port) = (
            format!("99999999-0000-4000-8000-{number:012}"),
            format!("99{number:06}-0000-4000-8000-000000000000"),
        );
        let doubled = |text: &str| text.replace('-', "--");
        let mut object = self.0.clone();
        let spec = &mut object["spec"];
        spec["workload"] = device.clone().into();
        spec["endpoint"] = port.clone().into();
        spec["node"] = host.into();
        spec["interfaceName"] = format!("tap{}", &port[..11]).into();
        spec["mac"] = format!("fa:16:3e:99:00:{number:02x}").into();
        spec["allowedIps"] = Value::Array(Vec::new());
        let nets = addresses.iter().map(|address| IpNet::from(*address).to_string());
        spec["ipNetworks"] = nets.collect::<Vec<_>>().into();
        let metadata = &mut object["metadata"];
        let name = [host, "openstack", &device, &port].map(doubled);
        metadata["name"] = format!("{}-{}-{}-{}", name[0], name[1], name[2], name[3]).into();
        let labels = metadata["labels"].as_object_mut().expect("labels");
        labels.retain(|label, _| !label.starts_with("sg"));
        for group in groups {
            labels.insert(format!("{LABEL_PREFIX}{group}"), "probed".into());
        }
        Self(object)
    }

    fn text(&self, field: &str) -> &str {
        self.0["spec"][field].as_str().expect("text")
    }

    fn texts(&self, field: &str) -> Vec<String> {
        let list = self.0["spec"][field].as_array().into_iter().flatten();
        list.map(|text| text.as_str().expect("text").to_owned()).collect()
    }
}

/// A security group: its `NetworkPolicy`.
#[derive(Clone, Debug, PartialEq)]
pub struct Group(pub Value);

impl Group {
    /// Neutron's id.
    pub fn id(&self) -> &str {
        let name = self.0["metadata"]["name"].as_str().expect("a name");
        name.strip_prefix(GROUP_PREFIX).expect("a group's policy")
    }

    /// Every rule, as it was written.
    pub fn rules(&self) -> Vec<GroupRule> {
        let of = |direction: Direction| {
            let list = self.0["spec"][direction.as_str()]
                .as_array()
                .into_iter()
                .flatten();
            list.enumerate().map(move |(index, value)| GroupRule {
                group: self.id().to_owned(),
                direction,
                index,
                value: value.clone(),
            })
        };
        of(Direction::Ingress).chain(of(Direction::Egress)).collect()
    }

    /// Returns the group with some of its rules only.
    #[must_use]
    pub fn with_rules(&self, rules: &[GroupRule]) -> Self {
        let mut object = self.0.clone();
        for direction in [Direction::Ingress, Direction::Egress] {
            let of_group = rules
                .iter()
                .filter(|rule| rule.direction == direction && rule.group == self.id());
            object["spec"][direction.as_str()] = of_group.map(|rule| rule.value.clone()).collect();
        }
        Self(object)
    }
}

/// One rule of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupRule {
    /// Neutron's id of the group.
    pub group: String,
    pub direction: Direction,
    /// Position in the list as recorded.
    pub index: usize,
    pub value: Value,
}

impl GroupRule {
    /// Returns the id of the group that the rule names as remote side.
    pub fn remote_group(&self) -> Option<&str> {
        let selector = self.remote()["selector"].as_str()?;
        selector
            .strip_prefix("has(")?
            .strip_prefix(LABEL_PREFIX)?
            .strip_suffix(')')
    }

    /// Returns the nets that the rule names as remote side.
    ///
    /// # Panics
    ///
    /// When one is none.
    pub fn remote_nets(&self) -> Vec<IpNet> {
        let list = self.remote()["nets"].as_array().into_iter().flatten();
        list.map(|net| net.as_str().expect("text").parse().expect("a net"))
            .collect()
    }

    fn remote(&self) -> &Value {
        match self.direction {
            Direction::Ingress => &self.value["source"],
            Direction::Egress => &self.value["destination"],
        }
    }
}
