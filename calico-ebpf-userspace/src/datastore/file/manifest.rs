//! From the text of one file to its objects and problems.

use std::path::Path;
use std::sync::Arc;

use super::document::{Document, SyntaxFault, parse_json, parse_yaml};
use crate::model::decode::decode;
use crate::model::name::{Kind, ResourceKey};
use crate::model::problem::{Consequence, Place, Problem};
use crate::model::resource::Resource;

/// More problems of one file are only counted.
pub(super) const MAX_PROBLEMS: usize = 1000;

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Manifest {
    /// In order of position.
    pub(super) objects: Vec<PlacedObject>,
    /// Problems of objects.
    pub(super) problems: Vec<Problem>,
    /// What kept the file, or a document of it, from being read.
    pub(super) faults: Vec<Problem>,
    /// Whether `objects` come from a text that was read without faults.
    is_whole: bool,
    /// Number of problems beyond the first ones.
    untold: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct PlacedObject {
    pub(super) key: ResourceKey,
    pub(super) resource: Arc<Resource>,
    pub(super) place: Place,
}

impl Manifest {
    /// Reads the text of the file at `path`, JSON or YAML by its name.
    pub(super) fn parse(path: &Path, text: &str) -> Self {
        let is_json = path.extension().is_some_and(|extension| extension == "json");
        let documents = if is_json {
            parse_json(text)
        } else {
            parse_yaml(text)
        };
        let mut manifest = Self::default();
        for document in documents {
            match document {
                Ok(document) => document
                    .into_objects()
                    .iter()
                    .for_each(|object| manifest.add(path, object)),
                Err(SyntaxFault {
                    line,
                    found,
                    expected,
                }) => {
                    let fault = fault(path, line, found, expected);
                    tell(&mut manifest.faults, &mut manifest.untold, fault);
                }
            }
        }
        manifest.is_whole = manifest.faults.is_empty();
        if manifest.untold > 0 {
            let found = format!("{} more problems", manifest.untold);
            manifest.problems.push(fault(path, 1, found, "none"));
        }
        manifest
    }

    /// Returns a manifest of nothing but one fault.
    pub(super) fn unreadable(path: &Path, line: u64, found: String, expected: &str) -> Self {
        Self {
            faults: vec![fault(path, line, found, expected)],
            ..Self::default()
        }
    }

    /// Returns what is in force after this was read, `before` being in force until now: with a fault all of `before`,
    /// else the objects of `before` in place of those that can no longer be decoded, and of policies that lost a rule.
    pub(super) fn after(mut self, before: &Self) -> Self {
        if !self.is_whole {
            if before.is_whole {
                for fault in &mut self.faults {
                    fault.consequence = Consequence::LastGoodKept;
                }
                return Self {
                    faults: self.faults,
                    ..before.clone()
                };
            }
            return self;
        }
        for problem in &mut self.problems {
            let Some(key) = problem
                .object
                .as_ref()
                .filter(|_| problem.consequence == Consequence::ObjectSkipped)
            else {
                continue;
            };
            if self.objects.iter().any(|object| object.key == *key) {
                continue;
            }
            if let Some(last_good) = before.objects.iter().find(|object| object.key == *key) {
                self.objects.push(last_good.clone());
                problem.consequence = Consequence::LastGoodKept;
            }
        }
        self.keep_whole_policies(before);
        self
    }

    /// Keeps the last good version of policies and profiles that have lost a rule or a part of one: a slip in an edit
    /// must not cut connections. One that was never good is in force without the bad rule.
    fn keep_whole_policies(&mut self, before: &Self) {
        for object in &mut self.objects {
            let is_broken = |problem: &Problem| {
                problem.object.as_ref() == Some(&object.key)
                    && matches!(
                        problem.consequence,
                        Consequence::RuleSkipped | Consequence::FieldSkipped
                    )
            };
            let is_policy = matches!(
                object.key.kind,
                Kind::NetworkPolicy | Kind::GlobalNetworkPolicy | Kind::Profile
            );
            if !is_policy || !self.problems.iter().any(is_broken) || before.problems.iter().any(is_broken) {
                continue;
            }
            let Some(last_good) = before.objects.iter().find(|last| last.key == object.key) else {
                continue;
            };
            for problem in self.problems.iter_mut().filter(|problem| is_broken(problem)) {
                problem.consequence = Consequence::LastGoodKept;
            }
            *object = last_good.clone();
        }
    }

    fn add(&mut self, path: &Path, document: &Document) {
        let decoded = decode(&document.value, None);
        // What has no identity may be any object of the file, misspelt: none of them may be lost by it.
        let list = if decoded.key.is_none() && !is_of_calico(document) {
            &mut self.faults
        } else {
            &mut self.problems
        };
        for mut problem in decoded.problems {
            problem.place = Some(place(path, document.line_of(&problem.field)));
            tell(list, &mut self.untold, problem);
        }
        if let (Some(key), Some(resource)) = (decoded.key, decoded.resource) {
            self.objects.push(PlacedObject {
                key,
                resource: Arc::new(resource),
                place: place(path, document.line),
            });
        }
    }
}

/// Adds a problem, or counts it: a file of a million bad objects must not become a million lines of log.
fn tell(list: &mut Vec<Problem>, untold: &mut usize, problem: Problem) {
    if list.len() < MAX_PROBLEMS {
        list.push(problem);
    } else {
        *untold += 1;
    }
}

/// Kinds of Calico that the agent does not read: they are reported, but nothing else hangs on them.
const KINDS_NOT_READ: [&str; 11] = [
    "BGPConfiguration",
    "BGPFilter",
    "BGPPeer",
    "BlockAffinity",
    "CalicoNodeStatus",
    "IPAMConfiguration",
    "IPReservation",
    "KubeControllersConfiguration",
    "StagedGlobalNetworkPolicy",
    "StagedKubernetesNetworkPolicy",
    "StagedNetworkPolicy",
];

fn is_of_calico(document: &Document) -> bool {
    let kind = document.value.get("kind").and_then(serde_json::Value::as_str);
    kind.is_some_and(|kind| KINDS_NOT_READ.contains(&kind))
}

fn fault(path: &Path, line: u64, found: String, expected: &str) -> Problem {
    Problem {
        object: None,
        field: String::new(),
        found,
        expected: expected.to_owned(),
        consequence: Consequence::ObjectSkipped,
        place: Some(place(path, line)),
    }
}

fn place(path: &Path, line: u64) -> Place {
    Place {
        file: path.display().to_string(),
        line,
    }
}
