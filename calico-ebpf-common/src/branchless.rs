//! Comparisons without branches.
//!
//! The verifier follows both ways of each branch. A look-up that compares sixteen keys of a line with a branch each
//! has thousands of ways through it; with these it has one, and it costs the processor no mispredictions either.

/// Returns 1 if `left` is below `right`, else 0, without a branch.
#[inline(always)]
pub fn is_below(left: u64, right: u64) -> u64 {
    let borrow = (!left & right) | ((!left | right) & left.wrapping_sub(right));
    sign(borrow)
}

/// Returns 1 if both are equal, else 0, without a branch.
#[inline(always)]
pub fn is_equal(left: u64, right: u64) -> u64 {
    let difference = left ^ right;
    1 ^ sign(difference | difference.wrapping_neg())
}

/// Returns the highest bit. Hidden on both sides: a shift of a known sum is turned into a comparison, and so is the sum
/// of a known shift.
#[inline(always)]
pub fn sign(value: u64) -> u64 {
    opaque(opaque(value) >> 63)
}

/// Returns `value`; what is read after it is not read before. Comparisons that are made one after the other need fewer
/// registers than all at once, and so less of the stack, of which Linux 6.1 leaves 128 bytes to what programs call.
#[inline(always)]
pub fn in_turn(value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: the register keeps its value.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) value, options(nostack)) };
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    value
}

/// Returns the number of the lowest bit that is set; 64 if none is.
#[inline(always)]
pub fn lowest(value: u64) -> u32 {
    // Hidden: recognised, it becomes a look-up in a table of constants.
    opaque(!value & value.wrapping_sub(1)).count_ones()
}

/// Returns `value` in a way that the compiler cannot see through.
#[inline(always)]
pub fn opaque(value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // An instruction, because two entries of the line table at one offset are refused.
        // SAFETY: the register keeps its value.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) value, options(pure, nomem, nostack)) };
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    value
}
