//! From the state of the datastore to what this host enforces.
