//! Answers to denied packets: how many, and from whom.

/// Entries of [`crate::maps::ANSWERS`], one to a slot.
pub const ANSWERS_ENTRIES: u32 = crate::endpoint::MAX_ENDPOINTS + 1;
/// Time that one answer uses up of an endpoint's share: 1,000 answers a second.
pub const ANSWER_INTERVAL_NS: u64 = 1_000_000;
/// Answers that an endpoint which was quiet may be given at once.
pub const MOST_AT_ONCE: u64 = 100;

/// Entries of [`crate::maps::ANSWER_SOURCES`].
pub const ANSWER_SOURCES_ENTRIES: u32 = 2;
/// Entry of the IPv4 address, in the low half.
pub const ANSWER_SOURCE4: u32 = 0;
/// Entry of the IPv6 address.
pub const ANSWER_SOURCE6: u32 = 1;
