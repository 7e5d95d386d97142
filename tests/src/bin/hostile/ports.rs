//! Ports of the two guests that are attacked, and what policy says about them.

/// Their own connections; only the two may open any.
pub(crate) const TALK: u16 = 8000;
/// Open to everybody; somebody listens.
pub(crate) const OPEN: u16 = 80;
/// Open to everybody; nobody listens.
pub(crate) const CLOSED: u16 = 81;
/// Open to everybody over UDP; datagrams are answered.
pub(crate) const ECHO: u16 = 7;
/// The attacker's own policy denies it.
pub(crate) const FORBIDDEN: u16 = 25;
