//! A parsed document that remembers lines.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

/// A value and the line where it starts.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tree {
    /// Counted from 1 within the parsed text.
    line: u64,
    node: Node,
}

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Scalar(Value),
    List(Vec<Tree>),
    Map(Vec<(String, Tree)>),
}

impl Tree {
    /// Returns the value without its lines.
    pub(super) fn to_value(&self) -> Value {
        match &self.node {
            Node::Scalar(value) => value.clone(),
            Node::List(items) => Value::Array(items.iter().map(Self::to_value).collect()),
            Node::Map(entries) => {
                let entries = entries.iter().map(|(name, tree)| (name.clone(), tree.to_value()));
                Value::Object(entries.collect::<Map<_, _>>())
            }
        }
    }

    /// Returns the element of a list, or the value of a map's field.
    pub(super) fn child(&self, field: &str, index: usize) -> Option<&Self> {
        let Node::Map(entries) = &self.node else {
            return None;
        };
        let (_, list) = entries.iter().find(|(name, _)| name == field)?;
        let Node::List(items) = &list.node else {
            return None;
        };
        items.get(index)
    }

    /// Returns the line of the value at a path such as `spec.ingress[2].protocol`, or of the deepest value on the way
    /// to it. Names may hold dots themselves, as those of labels do: the longest one that fits counts.
    pub(super) fn line_of(&self, path: &str) -> u64 {
        if path.is_empty() {
            return self.line;
        }
        match &self.node {
            Node::Scalar(_) => self.line,
            Node::List(items) => {
                let element = path.strip_prefix('[').and_then(|path| path.split_once(']'));
                let found = element.and_then(|(index, rest)| {
                    let index: usize = index.parse().ok()?;
                    Some((items.get(index)?, rest.strip_prefix('.').unwrap_or(rest)))
                });
                found.map_or(self.line, |(tree, rest)| tree.line_of(rest))
            }
            Node::Map(entries) => {
                let fitting = entries.iter().filter_map(|(name, tree)| {
                    let rest = path.strip_prefix(name.as_str())?;
                    let rest = if rest.starts_with('[') {
                        Some(rest)
                    } else {
                        rest.strip_prefix('.')
                    };
                    Some((
                        name.len(),
                        tree,
                        if path.len() == name.len() { "" } else { rest? },
                    ))
                });
                let longest = fitting.max_by_key(|(length, ..)| *length);
                longest.map_or(self.line, |(_, tree, rest)| tree.line_of(rest))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Node>::deserialize(deserializer)?;
        Ok(Self {
            line: spanned.referenced.line(),
            node: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a scalar, a list or a map")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(Value::from(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(Value::from(value)))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Node, E> {
        Ok(Node::Scalar(Value::String(value.to_string())))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Node, E> {
        Ok(Node::Scalar(Value::String(value.to_string())))
    }

    /// Infinity and "not a number", which JSON does not know, become text.
    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        let number = Number::from_f64(value).map_or_else(|| Value::String(value.to_string()), Value::Number);
        Ok(Node::Scalar(number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(Value::String(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Ok(Node::Scalar(Value::String(value)))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}
