//! Makes a frame small: as long as the comparison still fails, bytes go and become zero.

use super::compared::{Bed, Difference, Input};
use super::coverage::Coverage;

/// Comparisons that a failure is worth.
const MOST_TRIES: usize = 20_000;

/// Returns the smallest input found that still fails, and how it fails.
pub fn shrink(bed: &mut Bed, input: &Input, difference: Difference) -> (Input, Difference) {
    let mut smallest = (input.clone(), difference);
    let mut tries = 0;
    let mut fails = |input: &Input| {
        tries += 1;
        if tries > MOST_TRIES {
            return None;
        }
        bed.check(input, &mut Coverage::default()).err()
    };
    loop {
        let before = smallest.0.clone();
        let mut size = frame_of(&before).len().max(2) / 2;
        while size > 0 {
            let mut at = 0;
            while at < frame_of(&smallest.0).len() {
                let end = (at + size).min(frame_of(&smallest.0).len());
                let mut shorter = smallest.0.clone();
                frame_mut(&mut shorter).drain(at..end);
                let mut plainer = smallest.0.clone();
                frame_mut(&mut plainer)[at..end].fill(0);
                if let Some(difference) = fails(&shorter) {
                    smallest = (shorter, difference);
                    continue;
                }
                if plainer != smallest.0
                    && let Some(difference) = fails(&plainer)
                {
                    smallest = (plainer, difference);
                }
                at = end;
            }
            size /= 2;
        }
        if smallest.0 == before {
            return smallest;
        }
    }
}

fn frame_of(input: &Input) -> &Vec<u8> {
    match input {
        Input::Frame { frame, .. } | Input::Tap { frame, .. } => frame,
    }
}

fn frame_mut(input: &mut Input) -> &mut Vec<u8> {
    match input {
        Input::Frame { frame, .. } | Input::Tap { frame, .. } => frame,
    }
}
