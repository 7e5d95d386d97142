//! The packet as TC hands it over: bounds-checked copies out of it and writes into it.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_skb_pull_data;
use calico_ebpf_common::verdict::DropReason;

/// Bytes of headers that are made linear when the guest handed over less.
const LINEAR_BYTES: u32 = 192;

/// A packet.
pub(crate) struct Skb {
    raw: *mut __sk_buff,
}

/// A header: plain data that accepts any bytes.
///
/// # Safety
/// Every bit pattern is a valid value.
pub(crate) unsafe trait Header: Copy {}

// SAFETY: plain numbers and byte arrays accept every bit pattern.
unsafe impl Header for u8 {}
// SAFETY: as above.
unsafe impl Header for u16 {}
// SAFETY: as above.
unsafe impl Header for u32 {}
// SAFETY: as above.
unsafe impl Header for [u8; 2] {}
// SAFETY: as above.
unsafe impl Header for [u8; 6] {}
// SAFETY: as above.
unsafe impl Header for [u8; 4] {}

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

    /// Copies the header at `offset` out of the packet.
    #[inline(always)]
    pub(crate) fn load<T: Header>(&self, offset: usize) -> Result<T, DropReason> {
        let start = self.data() + offset;
        if start + size_of::<T>() > self.data_end() {
            return Err(DropReason::TooShort);
        }
        // SAFETY: the range ends before `data_end`; `T: Header` accepts any bytes at any address.
        Ok(unsafe { (start as *const T).read_unaligned() })
    }

    /// Writes `value` at `offset`.
    #[inline(always)]
    pub(crate) fn store<T: Header>(&self, offset: usize, value: T) -> Result<(), DropReason> {
        let start = self.data() + offset;
        if start + size_of::<T>() > self.data_end() {
            return Err(DropReason::Rewrite);
        }
        // SAFETY: the range ends before `data_end`.
        unsafe { (start as *mut T).write_unaligned(value) };
        Ok(())
    }

    /// Makes the headers linear. A guest may hand over a long frame with a tiny linear part; the rest of the program
    /// reads linear data only.
    #[inline(always)]
    pub(crate) fn make_headers_linear(&self) {
        let linear = self.data_end().wrapping_sub(self.data()) as u32;
        if linear < LINEAR_BYTES && linear < self.len() {
            let wanted = if self.len() < LINEAR_BYTES { self.len() } else { LINEAR_BYTES };
            // SAFETY: the context is valid; packet pointers are taken anew after this call.
            let _ = unsafe { bpf_skb_pull_data(self.raw, wanted) };
        }
    }

    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: as in `len`.
        unsafe { (*self.raw).data as usize }
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: as in `len`.
        unsafe { (*self.raw).data_end as usize }
    }
}
