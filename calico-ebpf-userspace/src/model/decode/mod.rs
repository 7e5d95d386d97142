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
mod protocol;
mod rule;
#[cfg(test)]
mod tests;

use serde_json::Value;

use self::field::Notes;
use super::name::ResourceKey;
use super::problem::Problem;
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
