//! From the text of a file to its documents.

use serde_json::Value;
use serde_saphyr::Error;
use serde_saphyr::options::AliasLimits;

use super::tree::Tree;

/// Values of one document, aliases included. A million of them takes some 100 MB.
const MAX_NODES: usize = 1_000_000;
/// Aliases may repeat this many parser events in one document.
const MAX_REPLAYED_EVENTS: usize = 50_000;
/// Documents of one file; the smallest object has some 80 bytes.
const MAX_DOCUMENTS: usize = 100_000;
/// Lists and maps within each other; a rule's port is 8 deep. Measured: 48 fit into a thread's 2 MB without
/// optimisation, 56 do not.
const MAX_DEPTH: usize = 24;

/// One document with content.
#[derive(Clone, Debug)]
pub(super) struct Document {
    /// Line in the file, counted from 1.
    pub(super) line: u64,
    pub(super) value: Value,
    /// Lines of the fields; `None` when only the document's own line is known.
    tree: Option<Tree>,
    /// What to add to a line of `tree`.
    offset: u64,
}

/// Text that is not YAML or JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SyntaxFault {
    /// Line in the file, counted from 1.
    pub(super) line: u64,
    pub(super) found: String,
    pub(super) expected: &'static str,
}

impl Document {
    /// Returns the line of a field in the file; for a field that is absent, of what should hold it.
    pub(super) fn line_of(&self, path: &str) -> u64 {
        if path.is_empty() {
            return self.line;
        }
        self.tree
            .as_ref()
            .map_or(self.line, |tree| tree.line_of(path) + self.offset)
    }

    /// Returns the objects: those of a `List`, else the document itself.
    pub(super) fn into_objects(self) -> Vec<Self> {
        let is_list = self
            .value
            .get("kind")
            .and_then(Value::as_str)
            .is_some_and(|kind| kind.ends_with("List"));
        let Some(items) = self
            .value
            .get("items")
            .and_then(Value::as_array)
            .filter(|_| is_list)
        else {
            return vec![self];
        };
        let objects = items.iter().enumerate().map(|(index, value)| {
            let tree = self
                .tree
                .as_ref()
                .and_then(|tree| tree.child("items", index))
                .cloned();
            let line = tree
                .as_ref()
                .map_or(self.line, |tree| tree.line_of("") + self.offset);
            Self {
                line,
                value: value.clone(),
                tree,
                offset: self.offset,
            }
        });
        objects.collect()
    }
}

/// Parses every YAML document on its own, so that a bad one leaves the others. A line that starts with `---` always
/// separates documents (YAML 1.2.2, section 9.1.2), also after a syntax error.
pub(super) fn parse_yaml(text: &str) -> Vec<Result<Document, SyntaxFault>> {
    limited(split_documents(text).filter_map(|(offset, text)| parse_yaml_document(offset, text)))
}

/// Parses JSON values one after the other; nothing behind the first error can be read.
pub(super) fn parse_json(text: &str) -> Vec<Result<Document, SyntaxFault>> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let mut start = 0;
    let mut offset = 0;
    limited(std::iter::from_fn(move || {
        let value = match values.next()? {
            Ok(value) => value,
            Err(error) => {
                return Some(Err(SyntaxFault {
                    line: u64::try_from(error.line()).unwrap_or(u64::MAX).max(1),
                    found: one_line(&error.to_string()),
                    expected: "JSON",
                }));
            }
        };
        let end = values.byte_offset();
        let token = end - text[start..end].trim_start().len();
        offset += count_lines(&text[start..token]);
        // JSON is YAML but for tabs, which JSON has only between tokens.
        let tree = read_tree(&text[token..end].replace('\t', " ")).ok();
        let document = Document {
            line: offset + 1,
            value,
            tree,
            offset,
        };
        offset += count_lines(&text[token..end]);
        start = end;
        Some(Ok(document))
    }))
}

/// Collects a file's documents, and a fault in place of those that are too many.
fn limited(
    documents: impl Iterator<Item = Result<Document, SyntaxFault>>,
) -> Vec<Result<Document, SyntaxFault>> {
    let mut documents: Vec<_> = documents.take(MAX_DOCUMENTS + 1).collect();
    if let Some(first_beyond) = documents.get(MAX_DOCUMENTS) {
        let line = match first_beyond {
            Ok(document) => document.line,
            Err(fault) => fault.line,
        };
        documents.truncate(MAX_DOCUMENTS);
        documents.push(Err(SyntaxFault {
            line,
            found: "one document more".to_owned(),
            expected: "a file of at most 100000 documents",
        }));
    }
    documents
}

/// Returns the documents and the number of lines before each.
fn split_documents(text: &str) -> impl Iterator<Item = (u64, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut starts = vec![(0_u64, 0_usize)];
    let mut offset = 0;
    for (line, number) in text.split_inclusive('\n').zip(0_u64..) {
        if is_marker(line, "---") {
            starts.push((number, offset));
        }
        offset += line.len();
        if is_marker(line, "...") {
            starts.push((number + 1, offset));
        }
    }
    let ends: Vec<usize> = starts
        .iter()
        .skip(1)
        .map(|(_, start)| *start)
        .chain([text.len()])
        .collect();
    starts
        .into_iter()
        .zip(ends)
        .map(move |((number, start), end)| (number, &text[start..end]))
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Returns `None` for a document of comments only.
fn parse_yaml_document(offset: u64, text: &str) -> Option<Result<Document, SyntaxFault>> {
    let is_content = |line: &str| {
        let line = if is_marker(line, "---") { &line[3..] } else { line };
        let line = line.trim();
        !(line.is_empty() || line.starts_with(['#', '%']) || is_marker(line, "..."))
    };
    let first = text
        .lines()
        .zip(0_u64..)
        .find(|(line, _)| is_content(line))
        .map(|(_, number)| number)?;
    let document = read_tree(text).map_err(|error| {
        let error = error.without_snippet();
        let line = error
            .location()
            .map_or(first, |location| location.line().saturating_sub(1));
        yaml_fault(error, offset + line + 1)
    });
    Some(document.map(|tree| Document {
        line: offset + first + 1,
        value: tree.to_value(),
        tree: Some(tree),
        offset,
    }))
}

/// The library's message without its place, which counts lines from the start of the document.
fn yaml_fault(error: &Error, line: u64) -> SyntaxFault {
    let message = one_line(&error.to_string());
    let message = message.split(" at line ").next().unwrap_or_default();
    let message = message.trim_end_matches(", set DuplicateKeyPolicy in Options if acceptable");
    let expected = if message.starts_with("budget breached") || message.starts_with("alias replay") {
        "YAML of at most 24 levels, 1000000 values and 50000 more by aliases"
    } else {
        "YAML"
    };
    SyntaxFault {
        line,
        found: message.to_owned(),
        expected,
    }
}

fn read_tree(text: &str) -> Result<Tree, Error> {
    let mut alias_limits = AliasLimits::default();
    alias_limits.max_total_replayed_events = MAX_REPLAYED_EVENTS;
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: MAX_NODES,
            max_events: 4 * MAX_NODES,
            max_depth: MAX_DEPTH,
            max_documents: 1,
        },
        alias_limits: alias_limits,
        strict_booleans: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options)
}

fn count_lines(text: &str) -> u64 {
    text.bytes().map(|byte| u64::from(byte == b'\n')).sum()
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
