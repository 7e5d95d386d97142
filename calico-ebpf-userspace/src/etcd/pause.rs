//! Growing pauses between attempts.

use std::time::Duration;

use super::random_below;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// How long to wait before the next attempt: from 0.1 s up to 5 s, each time twice as long, give or take a half, so that
/// all hosts of a cloud do not come at once.
#[derive(Clone, Copy, Debug)]
pub struct Pause {
    next: Duration,
}

impl Default for Pause {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Pause {
    /// Waits.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.advance()).await;
    }

    /// Begins with short pauses again, after a success.
    pub fn reset(&mut self) {
        self.next = FIRST;
    }

    fn advance(&mut self) -> Duration {
        let base = self.next;
        self.next = (base * 2).min(LONGEST);
        let spread = usize::try_from(base.as_millis()).unwrap_or_default();
        base / 2 + Duration::from_millis(random_below(spread) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_differ() {
        let mut pause = Pause::default();
        let pauses: Vec<_> = (0..40).map(|_| pause.advance()).collect();
        assert!(pauses[0] <= 2 * FIRST, "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= LONGEST * 3 / 2), "{pauses:?}");
        assert!(
            pauses[10..].iter().all(|pause| *pause >= LONGEST / 2),
            "{pauses:?}"
        );
        assert!(
            pauses[10..].iter().any(|pause| *pause != pauses[10]),
            "{pauses:?}"
        );
        pause.reset();
        assert!(pause.advance() <= 2 * FIRST);
    }
}
