//! Recursive descent over the selector grammar (contract 4.1):
//!
//! ```text
//! selector := ws | or
//! or       := and { "||" and }
//! and      := op { "&&" op }
//! op       := { "!" } ( "has(" label ")" | "all(" ")" | "global(" ")" | label cmp | "(" or ")" )
//! cmp      := ( "==" | "!=" | "contains" | "starts with" | "ends with" ) str | ( "in" | "not in" ) set
//! set      := "{" [ str { "," str } [ "," ] ] "}"
//! ```
//!
//! Whitespace is space and tab. Words are operators only right after a label, so labels may be called `in` or `has`.

use std::collections::BTreeSet;

use thiserror::Error;

use super::Expression;

/// Deeper parentheses are refused, so that hostile text cannot use up the stack.
const MAX_DEPTH: usize = 64;
/// Longest label key, in bytes.
const MAX_LABEL: usize = 512;
/// Longest piece of the text that an error quotes, in characters.
const MAX_QUOTE: usize = 20;

/// Why a selector does not parse.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("column {column}: found {found}, expected {expected}")]
pub struct SelectorError {
    /// Counted in characters from 1.
    pub column: usize,
    pub found: String,
    pub expected: &'static str,
}

/// Parses a whole selector; text without any token is `all()`.
pub(super) fn parse_selector(text: &str) -> Result<Expression, SelectorError> {
    let mut cursor = Cursor { text, offset: 0 };
    cursor.skip_whitespace();
    if cursor.rest().is_empty() {
        return Ok(Expression::All);
    }
    let expression = parse_or(&mut cursor, 0)?;
    if cursor.rest().is_empty() {
        Ok(expression)
    } else {
        Err(cursor.error("`&&`, `||` or the end"))
    }
}

fn parse_or(cursor: &mut Cursor<'_>, depth: usize) -> Result<Expression, SelectorError> {
    let mut parts = vec![parse_and(cursor, depth)?];
    while cursor.take("||") {
        parts.push(parse_and(cursor, depth)?);
    }
    Ok(Expression::or(parts))
}

fn parse_and(cursor: &mut Cursor<'_>, depth: usize) -> Result<Expression, SelectorError> {
    let mut parts = vec![parse_operation(cursor, depth)?];
    while cursor.take("&&") {
        parts.push(parse_operation(cursor, depth)?);
    }
    Ok(Expression::and(parts))
}

fn parse_operation(cursor: &mut Cursor<'_>, depth: usize) -> Result<Expression, SelectorError> {
    let mut negated = false;
    while cursor.take("!") {
        negated = !negated;
    }
    let operation = parse_positive(cursor, depth)?;
    Ok(if negated {
        Expression::negated(operation)
    } else {
        operation
    })
}

fn parse_positive(cursor: &mut Cursor<'_>, depth: usize) -> Result<Expression, SelectorError> {
    if cursor.rest().starts_with('(') {
        if depth == MAX_DEPTH {
            return Err(cursor.error("at most 64 nested parentheses"));
        }
        cursor.take("(");
        let inner = parse_or(cursor, depth + 1)?;
        cursor.expect(")", "`)`, `&&` or `||`")?;
        return Ok(inner);
    }
    if cursor.take("has(") {
        let label = cursor.label("a label")?;
        cursor.expect(")", "`)` after the label")?;
        return Ok(Expression::Has(label));
    }
    if cursor.take("all(") {
        cursor.expect(")", "`)` after `all(`")?;
        return Ok(Expression::All);
    }
    if cursor.take("global(") {
        cursor.expect(")", "`)` after `global(`")?;
        return Ok(Expression::Global);
    }
    let label = cursor.label("a label, `has(`, `all()`, `global()`, `!` or `(`")?;
    parse_comparison(cursor, label)
}

fn parse_comparison(cursor: &mut Cursor<'_>, label: String) -> Result<Expression, SelectorError> {
    if cursor.take("==") {
        return Ok(Expression::Equal(label, cursor.string()?));
    }
    if cursor.take("!=") {
        return Ok(Expression::NotEqual(label, cursor.string()?));
    }
    if cursor.take("contains") {
        return Ok(Expression::Contains(label, cursor.string()?));
    }
    if cursor.take("starts") {
        cursor.expect("with", "`with` after `starts`")?;
        return Ok(Expression::StartsWith(label, cursor.string()?));
    }
    if cursor.take("ends") {
        cursor.expect("with", "`with` after `ends`")?;
        return Ok(Expression::EndsWith(label, cursor.string()?));
    }
    if cursor.take("not") {
        cursor.expect("in", "`in` after `not`")?;
        return Ok(Expression::NotIn(label, cursor.set()?));
    }
    if cursor.take("in") {
        return Ok(Expression::In(label, cursor.set()?));
    }
    Err(cursor.error("`==`, `!=`, `contains`, `starts with`, `ends with`, `in` or `not in` after the label"))
}

/// Stands before a token, never before whitespace.
struct Cursor<'a> {
    text: &'a str,
    offset: usize,
}

impl Cursor<'_> {
    fn rest(&self) -> &str {
        &self.text[self.offset..]
    }

    fn advance(&mut self, bytes: usize) {
        self.offset += bytes;
        self.skip_whitespace();
    }

    fn skip_whitespace(&mut self) {
        let rest = self.rest();
        self.offset += rest.len() - rest.trim_start_matches([' ', '\t']).len();
    }

    fn take(&mut self, token: &str) -> bool {
        let there = self.rest().starts_with(token);
        if there {
            self.advance(token.len());
        }
        there
    }

    fn expect(&mut self, token: &str, expected: &'static str) -> Result<(), SelectorError> {
        if self.take(token) {
            Ok(())
        } else {
            Err(self.error(expected))
        }
    }

    fn label(&mut self, expected: &'static str) -> Result<String, SelectorError> {
        let rest = self.rest();
        let length = rest
            .find(|letter: char| !is_label_letter(letter))
            .unwrap_or(rest.len());
        if length == 0 {
            return Err(self.error(expected));
        }
        if length > MAX_LABEL {
            return Err(self.error("a label of at most 512 characters"));
        }
        let label = rest[..length].to_owned();
        self.advance(length);
        Ok(label)
    }

    fn string(&mut self) -> Result<String, SelectorError> {
        let rest = self.rest();
        let Some(quote @ ('"' | '\'')) = rest.chars().next() else {
            return Err(self.error("a string in quotes"));
        };
        let Some(length) = rest[1..].find(quote) else {
            return Err(self.error("a string with its closing quote"));
        };
        let value = rest[1..=length].to_owned();
        self.advance(length + 2);
        Ok(value)
    }

    fn set(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        self.expect("{", "a set such as `{\"a\", \"b\"}`")?;
        let mut values = BTreeSet::new();
        loop {
            if self.take("}") {
                return Ok(values);
            }
            values.insert(self.string()?);
            if !self.take(",") {
                self.expect("}", "`,` or `}`")?;
                return Ok(values);
            }
        }
    }

    fn error(&self, expected: &'static str) -> SelectorError {
        let column = self.text[..self.offset].chars().count() + 1;
        let rest = self.rest();
        let found = if rest.is_empty() {
            "the end".to_owned()
        } else {
            let mut quoted = String::from("`");
            for letter in rest.chars().take(MAX_QUOTE) {
                match letter {
                    '"' | '\'' | '\\' => quoted.push(letter),
                    _ => quoted.extend(letter.escape_debug()),
                }
            }
            quoted.push_str(if rest.chars().nth(MAX_QUOTE).is_some() {
                "...`"
            } else {
                "`"
            });
            quoted
        };
        SelectorError {
            column,
            found,
            expected,
        }
    }
}

fn is_label_letter(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '_' | '.' | '/' | '-')
}
