mod endpoints;
mod objects;
mod policies;
mod random;
mod rules;
mod untrusted;

use serde_json::{Value, json};

use super::{Decoded, decode};
use crate::model::name::{Kind, ResourceKey};
use crate::model::problem::Consequence;
use crate::model::resource::{Policy, Resource, WorkloadEndpoint};

fn object(kind: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": kind,
        "metadata": {"name": "it", "namespace": "openstack"},
        "spec": spec,
    })
}

fn decode_spec(kind: &str, spec: &Value) -> Decoded {
    decode(&object(kind, spec), None)
}

fn policy_of(decoded: &Decoded) -> &Policy {
    match &decoded.resource {
        Some(Resource::Policy(policy)) => policy,
        other => panic!("{other:?}, {:?}", decoded.problems),
    }
}

fn endpoint_of(decoded: &Decoded) -> &WorkloadEndpoint {
    match &decoded.resource {
        Some(Resource::WorkloadEndpoint(endpoint)) => endpoint,
        other => panic!("{other:?}, {:?}", decoded.problems),
    }
}

/// Returns path and consequence of every problem.
fn told(decoded: &Decoded) -> Vec<(&str, Consequence)> {
    decoded
        .problems
        .iter()
        .map(|problem| (problem.field.as_str(), problem.consequence))
        .collect()
}

fn only_problem(decoded: &Decoded) -> String {
    let [problem] = decoded.problems.as_slice() else {
        panic!("{:?}", decoded.problems)
    };
    problem.to_string()
}
