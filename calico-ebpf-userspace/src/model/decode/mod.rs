//! From JSON values to valid objects: strict by type, lenient by field.
//!
//! Unknown fields are ignored, as Felix does. What is wrong is skipped as narrowly as is safe: one address, one rule
//! (which then never matches) or the object. A wrong *exception* (`notNets`, `notPorts`) skips its rule, because the
//! rule without it would match more than was written.

mod cluster;
mod endpoint;
mod felix;
mod field;
mod network;
mod object;
mod policy;
#[cfg(any(test, feature = "test-generators"))]
pub mod properties;
mod protocol;
mod rule;
#[cfg(test)]
mod tests;

use serde_json::Value;

use self::field::Notes;
use super::name::ResourceKey;
use super::problem::{Consequence, Problem};
use super::resource::Resource;

/// What became of one JSON value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    /// Identity, as far as it could be read.
    pub key: Option<ResourceKey>,
    /// `None` when the object is treated as absent.
    pub resource: Option<Resource>,
    /// What was wrong, in order of the fields' reading; `place` is always `None`.
    pub problems: Vec<Problem>,
}

/// Larger values are refused, in bytes. etcd itself takes 1.5 MB unless it is told otherwise.
pub const MAX_VALUE_SIZE: usize = 10 * 1024 * 1024;

/// Decodes one object of `projectcalico.org/v3` from its JSON text. `hint` is as for [`decode`].
pub fn decode_json(json: &[u8], hint: Option<&ResourceKey>) -> Decoded {
    let unreadable = |found: String, expected: &str| Decoded {
        key: hint.cloned(),
        resource: None,
        problems: vec![Problem {
            object: hint.cloned(),
            field: String::new(),
            found,
            expected: expected.to_owned(),
            consequence: Consequence::ObjectSkipped,
            place: None,
        }],
    };
    if json.len() > MAX_VALUE_SIZE {
        return unreadable(format!("a value of {} bytes", json.len()), "at most 10 MiB");
    }
    match serde_json::from_slice(json) {
        Ok(value) => decode(&value, hint),
        Err(error) => unreadable(error.to_string(), "a JSON object"),
    }
}

/// Decodes one object of `projectcalico.org/v3`. `hint` is the identity that the datastore knows it by (its key in
/// etcd); it wins over `metadata`.
pub fn decode(value: &Value, hint: Option<&ResourceKey>) -> Decoded {
    let mut notes = Notes::new(hint.cloned());
    let resource = match object::read(value, hint, &mut notes) {
        Ok(resource) => Some(resource),
        Err(fault) => {
            notes.object_skipped(fault);
            None
        }
    };
    let (key, problems) = notes.into_parts();
    Decoded {
        key,
        resource,
        problems,
    }
}
