//! Typed look at JSON fields that remembers the path for messages.

use serde_json::Value;

use crate::model::name::ResourceKey;
use crate::model::problem::{Consequence, Problem};

/// Longest piece of a value that a message quotes, in characters.
const MAX_QUOTE: usize = 60;
/// Longest name of a field in a path, in characters; the key of a label has up to 317.
const MAX_FIELD_NAME: usize = 400;
/// More problems of one object are only counted: an object of a million bad rules must not become a million messages.
const MAX_PROBLEMS: usize = 200;

/// Why a field cannot be used. The caller knows what follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) path: String,
    pub(super) found: String,
    pub(super) expected: String,
}

/// Problems of one object.
#[derive(Debug)]
pub(super) struct Notes {
    key: Option<ResourceKey>,
    problems: Vec<Problem>,
    /// Problems beyond the first ones: how many, and the gravest that followed from them.
    beyond: Option<(usize, Consequence)>,
}

impl Notes {
    pub(super) fn new(key: Option<ResourceKey>) -> Self {
        Self {
            key,
            problems: Vec::new(),
            beyond: None,
        }
    }

    /// Names the object in this and every later problem.
    pub(super) fn identify(&mut self, key: ResourceKey) {
        for problem in &mut self.problems {
            problem.object = Some(key.clone());
        }
        self.key = Some(key);
    }

    pub(super) fn add(&mut self, fault: Fault, consequence: Consequence) {
        let Fault {
            path: field,
            found,
            expected,
        } = fault;
        // That the whole object is left out is always told.
        if self.problems.len() >= MAX_PROBLEMS && consequence != Consequence::ObjectSkipped {
            let (count, gravest) = self.beyond.get_or_insert((0, consequence));
            *count += 1;
            *gravest = consequence.min(*gravest);
            return;
        }
        self.problems.push(Problem {
            object: self.key.clone(),
            field,
            found,
            expected,
            consequence,
            place: None,
        });
    }

    pub(super) fn object_skipped(&mut self, fault: Fault) {
        self.add(fault, Consequence::ObjectSkipped);
    }

    pub(super) fn rule_skipped(&mut self, fault: Fault) {
        self.add(fault, Consequence::RuleSkipped);
    }

    pub(super) fn field_skipped(&mut self, fault: Fault) {
        self.add(fault, Consequence::FieldSkipped);
    }

    pub(super) fn reinterpreted(&mut self, fault: Fault) {
        self.add(fault, Consequence::Reinterpreted);
    }

    pub(super) fn not_enforced(&mut self, fault: Fault) {
        self.add(fault, Consequence::NotEnforced);
    }

    /// Returns the value, or notes that the field is left out.
    pub(super) fn or_skip_field<T>(&mut self, result: Result<T, Fault>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(fault) => {
                self.field_skipped(fault);
                None
            }
        }
    }

    pub(super) fn into_parts(mut self) -> (Option<ResourceKey>, Vec<Problem>) {
        if let Some((count, consequence)) = self.beyond {
            self.problems.push(Problem {
                object: self.key.clone(),
                field: String::new(),
                found: format!("{count} more problems"),
                expected: "none".to_owned(),
                consequence,
                place: None,
            });
        }
        (self.key, self.problems)
    }
}

/// A value and where it stands. `null` counts as absent everywhere.
#[derive(Clone, Debug)]
pub(super) struct Field<'a> {
    value: &'a Value,
    path: String,
}

impl<'a> Field<'a> {
    pub(super) fn root(value: &'a Value) -> Self {
        Self {
            value,
            path: String::new(),
        }
    }

    pub(super) fn value(&self) -> &'a Value {
        self.value
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Returns the field `name` of a map; `None` when it is absent, `null` or this is not a map.
    pub(super) fn get(&self, name: &str) -> Option<Self> {
        let value = self.value.get(name).filter(|value| !value.is_null())?;
        Some(Self {
            value,
            path: self.path_of(name),
        })
    }

    /// Returns the field `name` if it is there and a map.
    pub(super) fn get_map(&self, name: &str) -> Result<Option<Self>, Fault> {
        let Some(field) = self.get(name) else {
            return Ok(None);
        };
        if field.value.is_object() {
            Ok(Some(field))
        } else {
            Err(field.fault("a map of fields"))
        }
    }

    /// Returns the elements of the list `name`; an absent list has none.
    pub(super) fn get_list(&self, name: &str) -> Result<Vec<Self>, Fault> {
        let Some(field) = self.get(name) else {
            return Ok(Vec::new());
        };
        let Value::Array(items) = field.value else {
            return Err(field.fault("a list"));
        };
        let element = |(index, value)| Self {
            value,
            path: format!("{}[{index}]", field.path),
        };
        Ok(items.iter().enumerate().map(element).collect())
    }

    /// Returns the text of the field `name`; empty text counts as absent.
    pub(super) fn get_text(&self, name: &str) -> Result<Option<&'a str>, Fault> {
        self.get(name)
            .map(|field| field.text())
            .transpose()
            .map(|text| text.filter(|text| !text.is_empty()))
    }

    pub(super) fn get_bool(&self, name: &str) -> Result<Option<bool>, Fault> {
        self.get(name)
            .map(|field| field.value.as_bool().ok_or_else(|| field.fault("true or false")))
            .transpose()
    }

    pub(super) fn get_number(&self, name: &str) -> Result<Option<f64>, Fault> {
        self.get(name)
            .map(|field| field.value.as_f64().ok_or_else(|| field.fault("a number")))
            .transpose()
    }

    pub(super) fn text(&self) -> Result<&'a str, Fault> {
        self.value.as_str().ok_or_else(|| self.fault("a string"))
    }

    /// Returns the entries of a map in order of their names, `null` ones left out.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, Self)> {
        let map = self.value.as_object().into_iter().flatten();
        map.filter(|(_, value)| !value.is_null()).map(|(name, value)| {
            (
                name.as_str(),
                Self {
                    value,
                    path: self.path_of(name),
                },
            )
        })
    }

    /// Returns a fault that quotes this value.
    pub(super) fn fault(&self, expected: impl Into<String>) -> Fault {
        Fault {
            path: self.path.clone(),
            found: quote(self.value),
            expected: expected.into(),
        }
    }

    /// Returns a fault with words of its own for what is there.
    pub(super) fn fault_found(&self, found: impl Into<String>, expected: impl Into<String>) -> Fault {
        Fault {
            path: self.path.clone(),
            found: found.into(),
            expected: expected.into(),
        }
    }

    /// Returns the fault that the field `name` is absent.
    pub(super) fn missing(&self, name: &str, expected: impl Into<String>) -> Fault {
        Fault {
            path: self.path_of(name),
            found: "nothing".to_owned(),
            expected: expected.into(),
        }
    }

    fn path_of(&self, name: &str) -> String {
        let mut path = self.path.clone();
        if !path.is_empty() {
            path.push('.');
        }
        push_printable(&mut path, name, MAX_FIELD_NAME);
        path
    }
}

/// Appends at most `most` characters of a text, dots in place of the rest. Control characters would forge log lines.
fn push_printable(line: &mut String, text: &str, most: usize) {
    let mut letters = text.chars();
    line.extend(
        letters
            .by_ref()
            .take(most)
            .map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }),
    );
    if letters.next().is_some() {
        line.push_str("...");
    }
}

/// Returns a value as short text for a message.
fn quote(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => quote_text(text),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "a map".to_owned(),
    }
}

/// Returns a text as short text in quotes for a message.
pub(super) fn quote_text(text: &str) -> String {
    let mut quoted = String::from("\"");
    push_printable(&mut quoted, text, MAX_QUOTE);
    quoted.push('"');
    quoted
}
