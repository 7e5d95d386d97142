//! A large cloud, as the Neutron driver would write it: endpoints and security groups by the thousand.
//!
//! Everything follows from the sizes: two clouds of the same sizes are equal.

use serde_json::{Value, json};

/// How large a cloud is, and who is in which group.
#[derive(Clone, Copy, Debug)]
pub struct Cloud {
    /// Endpoints of the host under test.
    pub local: usize,
    /// Endpoints of all other hosts.
    pub remote: usize,
    pub groups: usize,
    /// Members of each group.
    pub members: usize,
    /// Rules of each group, at least 6.
    pub rules: usize,
}

/// The size at which the control plane is measured.
pub const LARGE: Cloud = Cloud {
    local: 200,
    remote: 10_000,
    groups: 1000,
    members: 100,
    rules: 10,
};

/// Endpoints on each other host.
const PER_HOST: usize = 50;
/// Ports that rules name.
const PORTS: [u16; 24] = [
    22, 25, 53, 80, 110, 123, 143, 389, 443, 636, 993, 1433, 2049, 3306, 5432, 5672, 6379, 8000, 8080, 8443,
    9000, 9090, 9200, 11_211,
];

impl Cloud {
    /// Returns the groups of every endpoint, local ones first. Members are drawn evenly and independently: the worst
    /// case for whoever wants to treat addresses alike.
    pub fn memberships(&self) -> Vec<Vec<usize>> {
        let endpoints = self.local + self.remote;
        let mut of_endpoint = vec![Vec::new(); endpoints];
        for group in 0..self.groups {
            let mut dice = Dice(group as u64 + 1);
            let mut left = self.members.min(endpoints);
            while left > 0 {
                let groups: &mut Vec<usize> = &mut of_endpoint[dice.below(endpoints)];
                if groups.last() != Some(&group) {
                    groups.push(group);
                    left -= 1;
                }
            }
        }
        of_endpoint
    }

    /// Returns the host of an endpoint; `local` for the host under test.
    pub fn host(&self, endpoint: usize, local: &str) -> String {
        if endpoint < self.local {
            local.to_owned()
        } else {
            format!("compute-{}", 1000 + (endpoint - self.local) / PER_HOST)
        }
    }

    /// Returns every object; endpoints of the host under test are on host `local`.
    pub fn objects(&self, local: &str) -> Vec<Value> {
        let endpoints = self.memberships().into_iter().enumerate();
        let endpoints = endpoints.map(|(index, groups)| endpoint(index, &self.host(index, local), &groups));
        let policies = (0..self.groups).map(|group| self.policy(group));
        endpoints.chain(policies).chain([ready()]).collect()
    }

    /// Returns the policy of a group.
    fn policy(&self, group: usize) -> Value {
        let mut dice = Dice(0x5eed_0000 + group as u64);
        let mut rules = vec![
            json!({"action": "Allow", "ipVersion": 4, "source": {"selector": has(group)}}),
            json!({"action": "Allow", "ipVersion": 4, "protocol": "ICMP", "icmp": {"type": 8, "code": 0}}),
        ];
        while rules.len() + 2 < self.rules {
            let ports = json!({"ports": [PORTS[dice.below(PORTS.len())]]});
            let source = if rules.len() % 2 == 0 {
                json!({"selector": has(dice.below(self.groups))})
            } else {
                json!({"nets": [format!("172.{}.{}.0/24", 16 + dice.below(16), dice.below(256))]})
            };
            rules.push(
                json!({"action": "Allow", "ipVersion": 4, "protocol": 6, "source": source, "destination": ports}),
            );
        }
        json!({
            "kind": "NetworkPolicy",
            "apiVersion": "projectcalico.org/v3",
            "metadata": {"name": format!("ossg.default.{}", group_id(group)), "namespace": "openstack"},
            "spec": {
                "selector": has(group),
                "ingress": rules,
                "egress": [{"action": "Allow", "ipVersion": 4}, {"action": "Allow", "ipVersion": 6}],
            },
        })
    }
}

/// Returns the object of an endpoint in these groups.
pub fn endpoint(index: usize, host: &str, groups: &[usize]) -> Value {
    let device = format!("11111111-2222-3333-4444-{index:012}");
    let port = format!("{index:08x}-d5c9-4bc3-ab6d-d91a73da3d42");
    let mut labels = json!({
        "projectcalico.org/namespace": "openstack",
        "projectcalico.org/orchestrator": "openstack",
        "projectcalico.org/openstack-project-id": format!("project{}", index % 20),
    });
    for group in groups {
        labels[label(*group)] = json!(format!("group{group}"));
    }
    let doubled = |text: &str| text.replace('-', "--");
    let name = format!(
        "{}-openstack-{}-{}",
        doubled(host),
        doubled(&device),
        doubled(&port)
    );
    json!({
        "kind": "WorkloadEndpoint",
        "apiVersion": "projectcalico.org/v3",
        "metadata": {"name": name, "namespace": "openstack", "labels": labels},
        "spec": {
            "orchestrator": "openstack", "workload": device, "node": host, "endpoint": port,
            "interfaceName": format!("tap{}", &port[..11]),
            "mac": format!("fa:16:3e:{:02x}:{:02x}:{:02x}", index >> 16, index >> 8 & 255, index & 255),
            "ipv4Gateway": "10.65.0.1",
            "ipNetworks": [format!("{}/32", address(index))],
            "allowedIps": [],
        },
    })
}

/// Returns the address of an endpoint.
pub fn address(index: usize) -> std::net::Ipv4Addr {
    let index = u32::try_from(index).expect("a small cloud");
    std::net::Ipv4Addr::from((10 << 24 | 65 << 16) + 256 + index)
}

/// Returns the label that makes an endpoint a member of a group.
pub fn label(group: usize) -> String {
    format!("sg.projectcalico.org/openstack-{}", group_id(group))
}

fn has(group: usize) -> String {
    format!("has({})", label(group))
}

fn group_id(group: usize) -> String {
    format!("{group:08x}-33f9-4b0a-a9ec-af3ab0244811")
}

fn ready() -> Value {
    json!({
        "kind": "ClusterInformation",
        "apiVersion": "projectcalico.org/v3",
        "metadata": {"name": "default"},
        "spec": {"clusterGUID": "c0ffee", "clusterType": "openstack", "datastoreReady": true},
    })
}

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        // SplitMix64 (Steele, Lea and Flood, 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).expect("below a size")
    }
}
