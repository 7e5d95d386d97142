//! What is understood of frames: the programs, their parser on the host and a plain reading of the RFCs agree.

use calico_ebpf_tests::parsing::{Bed, Chance, Coverage, Mistake};

/// Frames of a run; a kernel in an emulated machine reads them, too.
const FRAMES: u64 = 4_000;
/// Frames in which each mistake must be found.
const MOST: u64 = 20_000;

/// Makes frames from a seed on and returns what is said of the first that is not understood alike.
fn first_difference(bed: &mut Bed, frames: u64, coverage: &mut Coverage) -> Option<String> {
    (0..frames).find_map(|seed| {
        let input = bed.input(&mut Chance::new(seed), 1);
        let difference = bed.check(&input, coverage).err()?;
        Some(format!("seed {seed}: {difference}\n{input:02x?}"))
    })
}

#[test]
fn frames_are_understood_alike_by_a_plain_reading_on_the_host_and_in_the_kernel() {
    let mut bed = Bed::new(false);
    let mut coverage = Coverage::default();
    assert_eq!(first_difference(&mut bed, FRAMES, &mut coverage), None);
    let missed: Vec<_> = coverage
        .features()
        .filter(|(name, count)| *count == 0 && !name.starts_with("tap: "))
        .collect();
    assert_eq!(missed, [], "no frame had these");
}

#[test]
fn a_mistake_in_any_reading_is_found() {
    let mut bed = Bed::new(false);
    for mistake in Mistake::ALL {
        bed.mistaken(Some(mistake));
        let found = first_difference(&mut bed, MOST, &mut Coverage::default());
        assert!(found.is_some(), "{mistake:?} was not found in {MOST} frames");
    }
}
