//! Frames that no program can be run with, on a real tap: hardly any bytes, very many, and super-frames of which only a few
//! bytes are linear.

use calico_ebpf_tests::parsing::{Bed, Chance, Coverage};

#[test]
fn frames_on_a_tap_are_understood_as_a_plain_reading_understands_them() {
    let mut bed = Bed::new(true);
    let mut coverage = Coverage::default();
    for seed in 0..3_000 {
        let input = bed.input(&mut Chance::new(seed), 1);
        if let Err(difference) = bed.check(&input, &mut coverage) {
            panic!("seed {seed}: {difference}\n{input:02x?}");
        }
    }
    let missed: Vec<_> = coverage
        .features()
        .filter(|(name, count)| name.starts_with("tap: ") && *count == 0)
        .collect();
    assert_eq!(missed, [], "no frame had these");
}
