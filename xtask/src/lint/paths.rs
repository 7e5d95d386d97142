//! The paths that Rust source names: `a::b`, and each leaf of `a::{b, c::d}`. Read from tokens, so that comments and
//! strings are no paths while the arguments of macros are read like other code.

use proc_macro2::{Delimiter, Group, LexError, TokenStream, TokenTree};

/// A path as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedPath {
    /// The parts, the first without a leading `::`.
    pub(super) parts: Vec<String>,
    /// Where it begins, counted from 1.
    pub(super) line: usize,
}

/// Returns the paths in `source`, except those in items under `#[cfg(test)]`.
///
/// # Errors
/// The source is not Rust.
pub(super) fn of(source: &str) -> Result<Vec<NamedPath>, LexError> {
    let tokens: TokenStream = source.parse()?;
    let mut paths = Vec::new();
    collect(tokens, &mut paths);
    Ok(paths)
}

fn collect(tokens: TokenStream, paths: &mut Vec<NamedPath>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        if is_test_attribute(&tokens[at..]) {
            at = end_of_item(&tokens, at + 2);
            continue;
        }
        at = match &tokens[at] {
            TokenTree::Group(group) => {
                collect(group.stream(), paths);
                at + 1
            }
            TokenTree::Ident(_) => path(&tokens, at, &[], paths),
            TokenTree::Punct(_) | TokenTree::Literal(_) => at + 1,
        };
    }
}

/// Reads the path that begins at `at`, below `outer`, and returns where it ends.
fn path(tokens: &[TokenTree], mut at: usize, outer: &[String], paths: &mut Vec<NamedPath>) -> usize {
    let mut parts = outer.to_vec();
    let line = tokens[at].span().start().line;
    loop {
        match tokens.get(at) {
            Some(TokenTree::Ident(name)) => parts.push(name.to_string()),
            Some(TokenTree::Group(group))
                if group.delimiter() == Delimiter::Brace && parts.len() > outer.len() =>
            {
                leaves(group, &parts, paths);
                return at + 1;
            }
            // `::<T>` or `::*`: the path ends before it.
            _ => break,
        }
        at += 1;
        if !is_double_colon(&tokens[at..]) {
            break;
        }
        at += 2;
    }
    paths.push(NamedPath { parts, line });
    at
}

/// Reads `{a, b::c}` behind a path.
fn leaves(group: &Group, outer: &[String], paths: &mut Vec<NamedPath>) {
    let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
    for leaf in tokens.split(|token| matches!(token, TokenTree::Punct(mark) if mark.as_char() == ',')) {
        if matches!(leaf.first(), Some(TokenTree::Ident(_))) {
            path(leaf, 0, outer, paths);
        }
    }
}

fn is_double_colon(tokens: &[TokenTree]) -> bool {
    let is_colon =
        |token: Option<&TokenTree>| matches!(token, Some(TokenTree::Punct(mark)) if mark.as_char() == ':');
    is_colon(tokens.first()) && is_colon(tokens.get(1))
}

fn is_test_attribute(tokens: &[TokenTree]) -> bool {
    let [TokenTree::Punct(mark), TokenTree::Group(group), ..] = tokens else {
        return false;
    };
    mark.as_char() == '#' && group.stream().to_string().replace(' ', "") == "cfg(test)"
}

/// Returns the place behind an item: behind its braces, or behind a semicolon if that comes first.
fn end_of_item(tokens: &[TokenTree], from: usize) -> usize {
    let is_end = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        TokenTree::Punct(mark) => mark.as_char() == ';',
        TokenTree::Ident(_) | TokenTree::Literal(_) => false,
    };
    tokens[from..]
        .iter()
        .position(is_end)
        .map_or(tokens.len(), |offset| from + offset + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<String> {
        let paths = of(source).expect("Rust").into_iter();
        paths
            .filter(|path| path.parts.len() > 1)
            .map(|path| format!("{}:{}", path.line, path.parts.join("::")))
            .collect()
    }

    #[test]
    fn groups_are_read_to_their_leaves() {
        let source = "use crate::{model, calc::{self, effective::Tier as T}};\n";
        assert_eq!(
            texts(source),
            [
                "1:crate::model",
                "1:crate::calc::self",
                "1:crate::calc::effective::Tier"
            ]
        );
    }

    #[test]
    fn expressions_types_and_arguments_of_macros_are_read() {
        let source =
            "fn a(b: crate::model::Name) -> Vec<std::fs::File> {\n  assert!(crate::calc::c::<u8>(b));\n}\n";
        assert_eq!(
            texts(source),
            ["1:crate::model::Name", "1:std::fs::File", "2:crate::calc::c"]
        );
    }

    #[test]
    fn comments_strings_and_tests_are_not_read() {
        let source = "//! [`crate::cli`]\n/* crate::cli */ const A: &str = \"crate::cli\";\n\
                      #[cfg(test)]\nmod tests { use crate::cli; }\n#[cfg(test)]\nuse crate::cli::b;\nuse crate::model;\n";
        assert_eq!(texts(source), ["7:crate::model"]);
    }

    #[test]
    fn bodies_and_records_behind_names_are_not_leaves() {
        assert_eq!(
            texts("match x { crate::a::B { c } => std::fs::read(c) }"),
            ["1:crate::a::B", "1:std::fs::read"]
        );
    }
}
