//! Fixtures of the test rings.
