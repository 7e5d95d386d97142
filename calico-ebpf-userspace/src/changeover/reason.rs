//! Why a change-over is refused, and what to do about it.

use std::fmt;

use serde::Serialize;

/// One thing that stands in the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    pub found: String,
    pub cure: String,
    /// Whether `--force` goes on in spite of it.
    pub can_be_forced: bool,
}

impl Reason {
    /// Makes a reason that nothing overrides.
    pub fn firm(found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            found: found.into(),
            cure: cure.into(),
            can_be_forced: false,
        }
    }

    /// Makes a reason that `--force` overrides.
    pub fn soft(found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            can_be_forced: true,
            ..Self::firm(found, cure)
        }
    }
}

/// Nothing was changed, for these reasons.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refused(pub Vec<Reason>);

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("refused, and nothing was changed")?;
        for Reason { found, cure, .. } in &self.0 {
            write!(formatter, "\n  {found}\n    {cure}")?;
        }
        Ok(())
    }
}

/// Returns what was overridden, for people.
///
/// # Errors
/// When a reason is left that counts.
pub fn weigh(reasons: Vec<Reason>, force: bool) -> Result<Vec<String>, Refused> {
    if reasons.iter().all(|reason| force && reason.can_be_forced) {
        return Ok(reasons.into_iter().map(|reason| reason.found).collect());
    }
    Err(Refused(reasons))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn force_overrides_soft_reasons_only() {
        let soft = Reason::soft("a port is down", "wait");
        let firm = Reason::firm("Felix runs", "stop it");
        assert_eq!(
            weigh(vec![soft.clone()], true),
            Ok(vec!["a port is down".to_owned()])
        );
        assert!(weigh(vec![soft.clone()], false).is_err());
        let refused = weigh(vec![soft, firm], true).unwrap_err();
        assert!(
            refused.to_string().contains("Felix runs\n    stop it"),
            "{refused}"
        );
    }
}
