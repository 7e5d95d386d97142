//! From JSON values to valid objects.
