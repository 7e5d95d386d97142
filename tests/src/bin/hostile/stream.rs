//! What a connection says: bytes that follow from its number and direction, so that each is checked where it arrives.

/// All that one end of a connection ever says. Equal for equal numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stream {
    seed: u64,
}

/// Bytes that are made at once.
const WORD: usize = size_of::<u64>();

impl Stream {
    /// The stream from who opened the connection, or the one to it.
    pub(crate) fn new(connection: u64, from_client: bool) -> Self {
        Self {
            seed: mix(connection << 1 | u64::from(from_client)),
        }
    }

    /// Returns `length` bytes from a place of the stream on.
    pub(crate) fn bytes(self, place: u64, length: usize) -> Vec<u8> {
        let first = place / WORD as u64;
        let skipped = usize::try_from(place % WORD as u64).unwrap_or_default();
        let words = (first..).map(|word| mix(self.seed.wrapping_add(word)).to_le_bytes());
        words.flatten().skip(skipped).take(length).collect()
    }

    /// Returns whether these are the bytes at a place of the stream.
    pub(crate) fn says(self, place: u64, bytes: &[u8]) -> bool {
        self.bytes(place, bytes.len()) == bytes
    }
}

/// Returns a number that looks random and is the same each time (`SplitMix64`; Steele, Lea and Flood, 2014).
pub(crate) fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_the_same_however_it_is_cut() {
        let stream = Stream::new(7, true);
        let whole = stream.bytes(0, 100);
        for cut in 0..whole.len() {
            let (head, tail) = whole.split_at(cut);
            assert!(stream.says(0, head), "cut at {cut}");
            assert!(stream.says(cut as u64, tail), "cut at {cut}");
        }
    }

    #[test]
    fn a_byte_that_is_changed_moved_or_of_another_stream_is_seen() {
        let stream = Stream::new(7, true);
        let mut bytes = stream.bytes(40, 64);
        assert!(!stream.says(41, &bytes), "moved");
        assert!(!Stream::new(7, false).says(40, &bytes), "the other direction");
        assert!(!Stream::new(8, true).says(40, &bytes), "another connection");
        for place in 0..bytes.len() {
            bytes[place] ^= 1;
            assert!(!stream.says(40, &bytes), "changed at {place}");
            bytes[place] ^= 1;
        }
        assert!(stream.says(40, &bytes));
    }
}
