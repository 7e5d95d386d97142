//! A case: a frame.

use calico_ebpf_tests::fuzzing::workers::{self, Case, Order, Worker};
use calico_ebpf_tests::parsing::{Bed, Chance, Coverage, Difference, Input, Mistake, shrink};

/// Of as many cases one is written to a tap.
const TAP_EVERY: u64 = 24;

/// What came of a run.
pub(crate) type Ended = workers::Ended<Coverage, Found>;

/// A case that fails, made small.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) case: u64,
    pub(crate) input: Input,
    pub(crate) difference: Difference,
}

/// Who reads frames.
pub(crate) struct Readers(Bed);

impl Readers {
    pub(crate) fn new(mistake: Option<Mistake>) -> Self {
        let mut bed = Bed::new(true);
        bed.mistaken(mistake);
        Self(bed)
    }
}

impl Worker for Readers {
    type Counted = Coverage;
    type Failure = (Input, Difference);
    type Found = Found;

    fn run(&mut self, case: Case, coverage: &mut Coverage) -> Result<(), (Input, Difference)> {
        let input = self.0.input(&mut Chance::new(case.seed), TAP_EVERY);
        let checked = self.0.check(&input, coverage);
        checked.map_err(|difference| (input, difference))
    }

    fn shrink(&mut self, case: Case, (input, difference): (Input, Difference)) -> Found {
        let (input, difference) = shrink(&mut self.0, &input, difference);
        Found {
            case: case.seed,
            input,
            difference,
        }
    }
}

/// Runs cases until time is up or one fails.
pub(crate) fn run(order: Order, mistake: Option<Mistake>) -> Ended {
    workers::run(order, || Readers::new(mistake))
}
