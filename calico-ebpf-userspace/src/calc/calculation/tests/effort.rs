//! Cost follows the change, not the size: told by counting, not by a clock.

use serde_json::{Value, json};

use super::*;
use crate::calc::fixture::{HOST, endpoint_on, global, labelled, snapshot};

const LOCAL: usize = 200;
const REMOTE: usize = 10_000;
const GROUPS: usize = 1_000;
const RULES: usize = 10;

fn group(number: usize) -> String {
    format!("sg.projectcalico.org/openstack-{number}")
}

/// A VM of ten groups: each group has a hundred members. Every VM also has a label of its own, so none shares a label set.
fn vm(number: usize, extra: &[usize]) -> Value {
    let host = if number < LOCAL { HOST } else { "compute-2" };
    let address = format!("10.{}.{}.{}/32", number >> 16, number >> 8 & 255, number & 255);
    let groups = (0..10).map(|index| (number * 7 + index * 101) % GROUPS);
    let mut labels: serde_json::Map<String, Value> = groups
        .chain(extra.iter().copied())
        .map(|number| (group(number), json!("")))
        .collect();
    labels.insert("projectcalico.org/namespace".to_owned(), json!("openstack"));
    labels.insert("name".to_owned(), json!(number.to_string()));
    labelled(endpoint_on(host, &number.to_string(), &[&address]), labels.into())
}

fn security_group(number: usize, rules: usize) -> Value {
    let rule = |index: usize| {
        let from = format!("has({})", group((number + index * 13) % GROUPS));
        json!({"action": "Allow", "ipVersion": 4, "protocol": 6, "source": {"selector": from},
            "destination": {"ports": [1000 + index]}})
    };
    let rules: Vec<Value> = (0..rules).map(rule).collect();
    let spec = json!({"selector": format!("has({})", group(number)), "ingress": rules,
        "egress": [{"action": "Allow", "ipVersion": 4}]});
    let mut object = global("NetworkPolicy", &format!("ossg.default.{number}"), spec);
    object["metadata"]["namespace"] = json!("openstack");
    object
}

fn changes(objects: &[Value]) -> Changes {
    let objects = snapshot(objects).into_iter();
    objects.map(|(key, resource)| (key, Some(resource))).collect()
}

/// Makes the cloud, then tells what each change costs.
struct Cloud {
    calculation: Calculation,
    state: Arc<EffectiveState>,
}

impl Cloud {
    fn new() -> Self {
        let vms = (0..LOCAL + REMOTE).map(|number| vm(number, &[]));
        let objects: Vec<Value> = vms
            .chain((0..GROUPS).map(|number| security_group(number, RULES)))
            .collect();
        let mut calculation = Calculation::new(options());
        calculation.apply(&changes(&objects));
        let state = calculation.state();
        assert_eq!((state.endpoints.len(), state.sets.len()), (LOCAL, GROUPS));
        Self { calculation, state }
    }

    fn cost(&mut self, change: Value) -> Effort {
        let before = self.calculation.effort();
        self.calculation.apply(&changes(&[change]));
        self.state = self.calculation.state();
        let after = self.calculation.effort();
        Effort {
            selectors_evaluated: after.selectors_evaluated - before.selectors_evaluated,
            rules_resolved: after.rules_resolved - before.rules_resolved,
            lists_built: after.lists_built - before.lists_built,
            endpoints_built: after.endpoints_built - before.endpoints_built,
        }
    }
}

#[test]
fn one_change_in_a_large_cloud_touches_what_its_labels_touch() {
    let mut cloud = Cloud::new();
    let before = Arc::clone(&cloud.state);

    // A remote endpoint joins a group: its labels are held against the selectors of its eleven groups, once.
    let cost = cloud.cost(vm(LOCAL + 5, &[999]));
    assert!(cost.selectors_evaluated <= 13, "{cost:?}");
    assert_eq!(
        (cost.rules_resolved, cost.lists_built, cost.endpoints_built),
        (0, 0, 0)
    );
    let same = |one: &EffectiveState, other: &EffectiveState| {
        let pairs = one.sets.values().zip(other.sets.values());
        pairs.filter(|(one, other)| one.is(other)).count()
    };
    assert_eq!(same(&before, &cloud.state), GROUPS - 1);

    // A local endpoint joins a group: once as a member of sets, once as one that policies select.
    let cost = cloud.cost(vm(5, &[998]));
    assert!(cost.selectors_evaluated <= 26, "{cost:?}");
    assert!(cost.rules_resolved <= 1 && cost.lists_built <= 1, "{cost:?}");
    assert_eq!(cost.endpoints_built, 1);

    // A group loses a rule: its own rules, and the lists and endpoints it is in.
    let members = (0..LOCAL).filter(|number| (0..10).any(|index| (number * 7 + index * 101) % GROUPS == 42));
    let members = members.count() as u64;
    let cost = cloud.cost(security_group(42, RULES - 1));
    assert_eq!(
        (cost.selectors_evaluated, cost.rules_resolved),
        (0, 1),
        "{cost:?}"
    );
    assert_eq!(
        (cost.lists_built, cost.endpoints_built),
        (members, members),
        "{cost:?}"
    );

    // A new group that nobody is in: a look at nobody.
    let cost = cloud.cost(security_group(GROUPS + 1, RULES));
    assert_eq!(cost, Effort::default());
}
