//! The packet as TC hands it over: bounds-checked copies out of it and writes into it.

use aya_ebpf::bindings::__sk_buff;
#[cfg(not(feature = "on-host"))]
use aya_ebpf::helpers::bpf_skb_pull_data;
use calico_ebpf_common::verdict::DropReason;

#[cfg(feature = "on-host")]
use crate::on_host::bpf_skb_pull_data;

/// Bytes of headers that are made linear when the guest handed over less.
pub(crate) const LINEAR_BYTES: u32 = 192;

/// A packet.
pub(crate) struct Skb {
    raw: *mut __sk_buff,
}

/// A number that one instruction loads and stores at any address.
///
/// Rust's unaligned reads become byte-wise copies, and with the target's `allows-misaligned-mem-access` also copies
/// of structures are cut so that the verifier refuses them on the stack. Hence the instruction itself.
pub(crate) trait Plain: Copy {
    /// # Safety
    /// The bytes at `address` can be read.
    unsafe fn load_at(address: usize) -> Self;
    /// # Safety
    /// The bytes at `address` can be written.
    unsafe fn store_at(address: usize, value: Self);
}

macro_rules! plain {
    ($($number:ty: $load:literal, $store:literal;)*) => {$(
        impl Plain for $number {
            #[inline(always)]
            unsafe fn load_at(address: usize) -> Self {
                #[cfg(target_arch = "bpf")]
                {
                    let value: u64;
                    // SAFETY: the caller's promise.
                    unsafe {
                        core::arch::asm!($load, out(reg) value, in(reg) address, options(pure, readonly, nostack));
                    }
                    value as Self
                }
                #[cfg(not(target_arch = "bpf"))]
                // SAFETY: the caller's promise.
                unsafe { (address as *const Self).read_unaligned() }
            }

            #[inline(always)]
            unsafe fn store_at(address: usize, value: Self) {
                #[cfg(target_arch = "bpf")]
                // SAFETY: the caller's promise.
                unsafe {
                    core::arch::asm!($store, in(reg) address, in(reg) u64::from(value), options(nostack));
                }
                #[cfg(not(target_arch = "bpf"))]
                // SAFETY: the caller's promise.
                unsafe { (address as *mut Self).write_unaligned(value) }
            }
        }
    )*};
}

plain! {
    u8: "{0} = *(u8 *)({1} + 0)", "*(u8 *)({0} + 0) = {1}";
    u16: "{0} = *(u16 *)({1} + 0)", "*(u16 *)({0} + 0) = {1}";
    u32: "{0} = *(u32 *)({1} + 0)", "*(u32 *)({0} + 0) = {1}";
    u64: "{0} = *(u64 *)({1} + 0)", "*(u64 *)({0} + 0) = {1}";
}

/// A range of the packet whose end was checked. Fields are read one by one, each with one load.
///
/// Valid until a helper changes the packet, which only [`Skb::make_headers_linear`] does.
#[derive(Clone, Copy)]
pub(crate) struct View<const BYTES: usize> {
    start: usize,
}

impl<const BYTES: usize> View<BYTES> {
    /// Returns the byte at `OFFSET`.
    #[inline(always)]
    pub(crate) fn u8<const OFFSET: usize>(self) -> u8 {
        self.read::<u8, OFFSET>()
    }

    /// Returns the 16-bit number in network byte order at `OFFSET`.
    #[inline(always)]
    pub(crate) fn be16<const OFFSET: usize>(self) -> u16 {
        u16::from_be(self.read::<u16, OFFSET>())
    }

    /// Returns the 32-bit number in network byte order at `OFFSET`.
    #[inline(always)]
    pub(crate) fn be32<const OFFSET: usize>(self) -> u32 {
        u32::from_be(self.read::<u32, OFFSET>())
    }

    /// Returns the 32-bit number in the host's byte order at `OFFSET`.
    #[inline(always)]
    pub(crate) fn ne32<const OFFSET: usize>(self) -> u32 {
        self.read::<u32, OFFSET>()
    }

    /// Returns the IPv6 address at `OFFSET` as two numbers, high half first.
    #[inline(always)]
    pub(crate) fn address6<const OFFSET: usize>(self) -> [u64; 2] {
        const { assert!(OFFSET + 16 <= BYTES) };
        // SAFETY: the range was checked.
        let halves = unsafe {
            [
                u64::load_at(self.start + OFFSET),
                u64::load_at(self.start + OFFSET + 8),
            ]
        };
        [u64::from_be(halves[0]), u64::from_be(halves[1])]
    }

    /// Returns the MAC address at `OFFSET`.
    #[inline(always)]
    pub(crate) fn mac<const OFFSET: usize>(self) -> Mac {
        const { assert!(OFFSET + 6 <= BYTES) };
        // SAFETY: the range was checked.
        unsafe { Mac::load_at(self.start + OFFSET) }
    }

    #[inline(always)]
    fn read<T: Plain, const OFFSET: usize>(self) -> T {
        const { assert!(OFFSET + size_of::<T>() <= BYTES) };
        // SAFETY: the range was checked; `T: Plain` accepts any bytes.
        unsafe { T::load_at(self.start + OFFSET) }
    }
}

/// MAC address as two numbers whose bytes are in network order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mac {
    first: u32,
    last: u16,
}

impl Mac {
    #[inline(always)]
    pub(crate) fn of(bytes: &[u8; 6]) -> Self {
        // SAFETY: six bytes.
        unsafe { Self::load_at(bytes.as_ptr() as usize) }
    }

    /// # Safety
    /// Six bytes at `address` can be read.
    #[inline(always)]
    unsafe fn load_at(address: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            Self {
                first: u32::load_at(address),
                last: u16::load_at(address + 4),
            }
        }
    }

    /// Returns the address as numbers of four and two bytes in frame order.
    #[cfg(any(feature = "bench", feature = "on-host"))]
    #[inline(always)]
    pub(crate) fn numbers(self) -> [u32; 2] {
        [self.first, u32::from(self.last)]
    }

    /// Returns whether the address names a group.
    #[inline(always)]
    pub(crate) fn is_group(self) -> bool {
        self.first.to_ne_bytes()[0] & 1 != 0
    }
}

impl Skb {
    #[inline(always)]
    pub(crate) fn new(raw: *mut __sk_buff) -> Self {
        Self { raw }
    }

    /// Returns the context, to hand to a function of its own.
    #[inline(always)]
    pub(crate) fn raw(&self) -> *mut __sk_buff {
        self.raw
    }

    /// Returns the whole length in bytes, from the Ethernet header on.
    #[inline(always)]
    pub(crate) fn len(&self) -> u32 {
        // SAFETY: the kernel hands over a valid context; the verifier checks each access.
        unsafe { (*self.raw).len }
    }

    /// Returns the bytes of payload in each segment that the packet is to be cut into; 0 for a packet as it is.
    #[inline(always)]
    pub(crate) fn gso_size(&self) -> u32 {
        // SAFETY: as in `len`.
        unsafe { (*self.raw).gso_size }
    }

    /// Returns the interface that the program is attached to.
    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        // SAFETY: as in `len`.
        unsafe { (*self.raw).ifindex }
    }

    /// Returns the interface that the packet came in by; 0 for what the host itself sends.
    #[inline(always)]
    pub(crate) fn ingress_ifindex(&self) -> u32 {
        // SAFETY: as in `len`.
        unsafe { (*self.raw).ingress_ifindex }
    }

    #[inline(always)]
    pub(crate) fn has_vlan_tag(&self) -> bool {
        // SAFETY: as in `len`.
        unsafe { (*self.raw).vlan_present != 0 }
    }

    #[inline(always)]
    pub(crate) fn mark(&self) -> u32 {
        // SAFETY: as in `len`.
        unsafe { (*self.raw).mark }
    }

    #[inline(always)]
    pub(crate) fn set_mark(&self, mark: u32) {
        // SAFETY: as in `len`; `mark` is writable at both TC hooks.
        unsafe { (*self.raw).mark = mark }
    }

    /// Returns the range of `BYTES` at `offset`.
    #[inline(always)]
    pub(crate) fn view<const BYTES: usize>(&self, offset: usize) -> Result<View<BYTES>, DropReason> {
        let start = self.data() + offset;
        if start + BYTES > self.data_end() {
            return Err(DropReason::TooShort);
        }
        Ok(View { start })
    }

    /// Copies the value at `offset` out of the packet.
    #[inline(always)]
    pub(crate) fn load<T: Plain>(&self, offset: usize) -> Result<T, DropReason> {
        let start = self.data() + offset;
        if start + size_of::<T>() > self.data_end() {
            return Err(DropReason::TooShort);
        }
        // SAFETY: the range ends before `data_end`.
        Ok(unsafe { T::load_at(start) })
    }

    /// Writes `value` at `offset`.
    #[inline(always)]
    pub(crate) fn store<T: Plain>(&self, offset: usize, value: T) -> Result<(), DropReason> {
        let start = self.data() + offset;
        if start + size_of::<T>() > self.data_end() {
            return Err(DropReason::Rewrite);
        }
        // SAFETY: the range ends before `data_end`.
        unsafe { T::store_at(start, value) };
        Ok(())
    }

    /// Writes the MAC address `mac` at `offset`.
    #[inline(always)]
    pub(crate) fn store_mac(&self, offset: usize, mac: Mac) -> Result<(), DropReason> {
        self.store(offset, mac.first)?;
        self.store(offset + 4, mac.last)
    }

    /// Makes the headers linear. A guest may hand over a long frame with a tiny linear part; the rest of the program
    /// reads linear data only.
    #[inline(always)]
    pub(crate) fn make_headers_linear(&self) {
        let linear = self.data_end().wrapping_sub(self.data()) as u32;
        if linear < LINEAR_BYTES && linear < self.len() {
            let wanted = if self.len() < LINEAR_BYTES {
                self.len()
            } else {
                LINEAR_BYTES
            };
            // SAFETY: the context is valid; packet pointers are taken anew after this call.
            let _ = unsafe { bpf_skb_pull_data(self.raw, wanted) };
        }
    }

    /// Leaves a word for the program that this one calls.
    #[inline(always)]
    pub(crate) fn leave(&self, word: u32) {
        // SAFETY: as in `len`; `cb` is TC's scratch space.
        unsafe { (*self.raw).cb[0] = word }
    }

    /// Returns the word that the calling program left.
    #[inline(always)]
    pub(crate) fn left(&self) -> u32 {
        // SAFETY: as in `leave`.
        unsafe { (*self.raw).cb[0] }
    }

    /// Leaves a word in word `WORD` of TC's scratch space.
    #[inline(always)]
    pub(crate) fn leave_in<const WORD: usize>(&self, word: u32) {
        // SAFETY: as in `leave`.
        unsafe { (*self.raw).cb[WORD] = word }
    }

    /// Returns the word that was left in word `WORD`.
    #[inline(always)]
    pub(crate) fn left_in<const WORD: usize>(&self) -> u32 {
        // SAFETY: as in `leave`.
        unsafe { (*self.raw).cb[WORD] }
    }

    /// Writes `value` into word `WORD` of TC's scratch space and reads it again: the verifier knows nothing of what it
    /// reads there.
    #[inline(always)]
    pub(crate) fn forget<const WORD: usize>(&self, value: u32) -> u32 {
        self.keep::<WORD>(value);
        self.kept::<WORD>()
    }

    /// Writes `value` into word `WORD` of TC's scratch space: what would need stack elsewhere. Judging uses words 1 to 3,
    /// `leave` word 0.
    #[inline(always)]
    pub(crate) fn keep<const WORD: usize>(&self, value: u32) {
        // SAFETY: as in `leave`, which uses word 0.
        unsafe { core::ptr::write_volatile(core::ptr::addr_of_mut!((*self.raw).cb[WORD]), value) }
    }

    /// Reads what [`Self::keep`] wrote.
    #[inline(always)]
    pub(crate) fn kept<const WORD: usize>(&self) -> u32 {
        // SAFETY: as in `leave`.
        unsafe { core::ptr::read_volatile(core::ptr::addr_of!((*self.raw).cb[WORD])) }
    }

    /// Returns where the linear part begins.
    #[inline(always)]
    pub(crate) fn data(&self) -> usize {
        // SAFETY: as in `len`.
        unsafe { (*self.raw).data as usize }
    }

    /// Returns where the linear part ends.
    #[inline(always)]
    pub(crate) fn data_end(&self) -> usize {
        // SAFETY: as in `len`.
        unsafe { (*self.raw).data_end as usize }
    }
}
