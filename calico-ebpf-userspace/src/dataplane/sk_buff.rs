//! `struct __sk_buff` (include/uapi/linux/bpf.h): what BPF_PROG_TEST_RUN takes beside a frame, and gives back.

/// Bytes of the structure.
const BYTES: usize = 192;

/// Offset of `mark`.
pub const MARK: usize = 8;
/// Offset of `ingress_ifindex`.
pub const INGRESS_IFINDEX: usize = 36;
/// Offset of `ifindex`.
pub const IFINDEX: usize = 40;
/// Offset of the first of the five words of `cb`.
pub const CB: usize = 48;
/// Offset of `gso_size`.
pub const GSO_SIZE: usize = 176;

/// The structure; its fields are `u32` in the host's byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SkBuff([u8; BYTES]);

impl Default for SkBuff {
    fn default() -> Self {
        Self([0; BYTES])
    }
}

impl SkBuff {
    /// Returns the structure with a field set.
    #[must_use]
    pub fn with(mut self, offset: usize, value: u32) -> Self {
        self.0[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    /// Returns a field.
    pub fn get(&self, offset: usize) -> u32 {
        let bytes = &self.0[offset..offset + 4];
        u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    /// Returns the structure as the kernel reads it.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the structure for the kernel to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
