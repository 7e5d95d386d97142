//! Where status lies in etcd (contract 2).

/// A local endpoint as status keys name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointId {
    /// `openstack`.
    pub orchestrator: String,
    pub namespace: String,
    /// The VM: Nova's device id.
    pub workload: String,
    /// Neutron's port id.
    pub endpoint: String,
}

/// The keys of one host in one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StatusKeys {
    /// Ends without a slash.
    host: String,
}

impl StatusKeys {
    /// Takes the region, if the cloud has several, and the host's name, which is not escaped.
    pub(super) fn new(region: Option<&str>, hostname: &str) -> Self {
        let region = region.map_or_else(|| "no-region".to_owned(), |name| format!("region-{name}"));
        Self {
            host: format!("/calico/felix/v2/{region}/host/{hostname}"),
        }
    }

    /// Liveness, which expires.
    pub(super) fn liveness(&self) -> String {
        format!("{}/status", self.host)
    }

    /// The last liveness, which does not.
    pub(super) fn last_liveness(&self) -> String {
        format!("{}/last_reported_status", self.host)
    }

    /// What the keys of all endpoints begin with, and no other key.
    pub(super) fn endpoints(&self) -> String {
        format!("{}/workload/", self.host)
    }

    /// Status of one endpoint.
    pub(super) fn endpoint(&self, id: &EndpointId) -> String {
        let workload = format!("{}/{}", id.namespace, id.workload);
        format!(
            "{}{}/{}/endpoint/{}",
            self.endpoints(),
            escaped(&id.orchestrator),
            escaped(&workload),
            escaped(&id.endpoint)
        )
    }
}

fn escaped(component: &str) -> String {
    component.replace('%', "%25").replace('/', "%2f")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_that_neutron_looks_for() {
        let id = EndpointId {
            orchestrator: "openstack".to_owned(),
            namespace: "openstack".to_owned(),
            workload: "11111111-2222-3333-4444-000000000007".to_owned(),
            endpoint: "8dfa1418-d5c9-4bc3-ab6d-d91a73da3d42".to_owned(),
        };
        let keys = StatusKeys::new(None, "compute-1.example.org");
        let host = "/calico/felix/v2/no-region/host/compute-1.example.org";
        assert_eq!(keys.liveness(), format!("{host}/status"));
        assert_eq!(keys.last_liveness(), format!("{host}/last_reported_status"));
        assert_eq!(
            keys.endpoint(&id),
            format!(
                "{host}/workload/openstack/openstack%2f11111111-2222-3333-4444-000000000007/endpoint/\
                 8dfa1418-d5c9-4bc3-ab6d-d91a73da3d42"
            )
        );
        assert!(keys.endpoint(&id).starts_with(&keys.endpoints()));
    }

    #[test]
    fn regions_are_told_apart() {
        let id = EndpointId {
            orchestrator: "openstack".to_owned(),
            namespace: "openstack-region-east".to_owned(),
            workload: "a%b/c".to_owned(),
            endpoint: "p".to_owned(),
        };
        assert_eq!(
            StatusKeys::new(Some("east"), "h").endpoint(&id),
            "/calico/felix/v2/region-east/host/h/workload/openstack/openstack-region-east%2fa%25b%2fc/endpoint/p"
        );
    }

    #[test]
    fn keys_of_a_host_whose_name_continues_ours_and_of_the_driver_are_not_ours() {
        let prefix = StatusKeys::new(None, "compute-1").endpoints();
        for foreign in [
            "/calico/felix/v2/no-region/host/compute-10/workload/openstack/a/endpoint/b",
            "/calico/felix/v2/no-region/host/compute-1.example.org/workload/openstack/a/endpoint/b",
            "/calico/felix/v2/no-region/host/round-trip-check",
            "/calico/felix/v2/no-region/host/compute-1/status",
        ] {
            assert!(!foreign.starts_with(&prefix), "{foreign}");
        }
    }
}
