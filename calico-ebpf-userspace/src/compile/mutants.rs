//! Known mistakes of a compiler, to be switched on by the fuzzer: one that it does not find shows a gap in it.
//!
//! `mutated!(Name, right, wrong)` is `right`, and nothing else is compiled, unless the crate has the feature `mutants`.

#[cfg(not(feature = "mutants"))]
macro_rules! mutated {
    ($name:ident, $right:expr, $wrong:expr) => {
        $right
    };
}

#[cfg(feature = "mutants")]
macro_rules! mutated {
    ($name:ident, $right:expr, $wrong:expr) => {
        if $crate::compile::mutants::Mutant::$name.is_active() {
            $wrong
        } else {
            $right
        }
    };
}

#[cfg(feature = "mutants")]
pub use switched::{Mutant, activate};

#[cfg(feature = "mutants")]
mod switched {
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Stands in every binary that was built with mutants.
    #[used]
    static MARK: [u8; 38] = *b"calico-ebpf: built with known mistakes";

    /// 0: none, else one more than its place in [`Mutant::ALL`].
    static ACTIVE: AtomicUsize = AtomicUsize::new(0);

    /// A mistake.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Mutant {
        PassAllows,
        LogDecides,
        TierEndAllows,
        NegationLost,
        SidesSwapped,
        VersionIgnored,
        FirstProfileOnly,
        MissingProfileSkipped,
        NamedPortProtocol,
        PortBoundary,
        IcmpCode,
        PrefixBoundary,
        ExactWithoutNets,
        AppendedClassRow,
        AppendedRowCells,
        MemberNeverLeaves,
        GenerationKept,
    }

    impl Mutant {
        /// Every mutant.
        pub const ALL: [Self; 17] = [
            Self::PassAllows,
            Self::LogDecides,
            Self::TierEndAllows,
            Self::NegationLost,
            Self::SidesSwapped,
            Self::VersionIgnored,
            Self::FirstProfileOnly,
            Self::MissingProfileSkipped,
            Self::NamedPortProtocol,
            Self::PortBoundary,
            Self::IcmpCode,
            Self::PrefixBoundary,
            Self::ExactWithoutNets,
            Self::AppendedClassRow,
            Self::AppendedRowCells,
            Self::MemberNeverLeaves,
            Self::GenerationKept,
        ];

        /// Says what is done wrong.
        pub fn description(self) -> &'static str {
            match self {
                Self::PassAllows => "pass allows instead of going to the next tier",
                Self::LogDecides => "a log rule ends the evaluation",
                Self::TierEndAllows => "the end of a tier allows",
                Self::NegationLost => "negated sets and nets are not looked at",
                Self::SidesSwapped => "egress asks the source where it should ask the destination",
                Self::VersionIgnored => "a rule for one IP version matches the other, too",
                Self::FirstProfileOnly => "profiles behind the first are not looked at",
                Self::MissingProfileSkipped => "a missing profile does not deny",
                Self::NamedPortProtocol => "a named port holds for every protocol",
                Self::PortBoundary => "the last port of a range is not in it",
                Self::IcmpCode => "an ICMP code matches greater ones, too",
                Self::PrefixBoundary => "a prefix begins one address late",
                Self::ExactWithoutNets => "a member of a set is in no net",
                Self::AppendedClassRow => "a new class of addresses leads to the first row",
                Self::AppendedRowCells => "a new row has its cells for the first local row only",
                Self::MemberNeverLeaves => "a member that leaves a set stays in it",
                Self::GenerationKept => "flows are not judged again when a member moves",
            }
        }

        /// Returns whether the mistake is made now.
        pub fn is_active(self) -> bool {
            let active = ACTIVE.load(Ordering::Relaxed).checked_sub(1);
            active.is_some_and(|place| Self::ALL[place] == self)
        }
    }

    /// Makes one mistake from now on, in the whole process, or none.
    pub fn activate(mutant: Option<Mutant>) {
        let place = mutant.and_then(|wanted| Mutant::ALL.iter().position(|known| *known == wanted));
        ACTIVE.store(place.map_or(0, |place| place + 1), Ordering::Relaxed);
    }
}
