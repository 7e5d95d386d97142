//! Canonical text: spaces around operators, double quotes unless the value has one, sets sorted, and only the
//! parentheses that the meaning needs.

use std::collections::BTreeSet;
use std::fmt;

use super::Expression;

impl fmt::Display for Expression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => formatter.write_str("all()"),
            Self::Global => formatter.write_str("global()"),
            Self::Has(label) => write!(formatter, "has({label})"),
            Self::Equal(label, value) => write!(formatter, "{label} == {}", Quoted(value)),
            Self::NotEqual(label, value) => write!(formatter, "{label} != {}", Quoted(value)),
            Self::Contains(label, value) => write!(formatter, "{label} contains {}", Quoted(value)),
            Self::StartsWith(label, value) => write!(formatter, "{label} starts with {}", Quoted(value)),
            Self::EndsWith(label, value) => write!(formatter, "{label} ends with {}", Quoted(value)),
            Self::In(label, values) => write!(formatter, "{label} in {}", Set(values)),
            Self::NotIn(label, values) => write!(formatter, "{label} not in {}", Set(values)),
            Self::Not(inner) => {
                formatter.write_str("!")?;
                write_operand(formatter, inner, matches!(**inner, Self::And(_) | Self::Or(_)))
            }
            Self::And(parts) => write_joined(formatter, parts, " && ", |part| {
                matches!(part, Self::And(_) | Self::Or(_))
            }),
            Self::Or(parts) => write_joined(formatter, parts, " || ", |part| matches!(part, Self::Or(_))),
        }
    }
}

fn write_joined(
    formatter: &mut fmt::Formatter<'_>,
    parts: &[Expression],
    operator: &str,
    needs_parentheses: impl Fn(&Expression) -> bool,
) -> fmt::Result {
    for (position, part) in parts.iter().enumerate() {
        if position > 0 {
            formatter.write_str(operator)?;
        }
        write_operand(formatter, part, needs_parentheses(part))?;
    }
    Ok(())
}

fn write_operand(formatter: &mut fmt::Formatter<'_>, operand: &Expression, parentheses: bool) -> fmt::Result {
    if parentheses {
        write!(formatter, "({operand})")
    } else {
        write!(formatter, "{operand}")
    }
}

/// A string literal. The language has no escapes.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.contains('"') {
            write!(formatter, "'{}'", self.0)
        } else {
            write!(formatter, "\"{}\"", self.0)
        }
    }
}

struct Set<'a>(&'a BTreeSet<String>);

impl fmt::Display for Set<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("{")?;
        for (position, value) in self.0.iter().enumerate() {
            if position > 0 {
                formatter.write_str(", ")?;
            }
            Quoted(value).fmt(formatter)?;
        }
        formatter.write_str("}")
    }
}
