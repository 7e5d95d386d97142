//! Configuration by Felix's names: flags, `FELIX_*`, `felix.cfg`, datastore, defaults.

pub mod values;
