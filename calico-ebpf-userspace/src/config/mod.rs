//! Configuration by Felix's names: flags, `FELIX_*`, `felix.cfg`, datastore, defaults.
//!
//! [`parameters`] is the one table of every name that is known. [`layers`] collects what was set and where,
//! [`datastore`] what objects set, and [`resolve()`] turns it into the [`Config`] that the agent acts on, with the
//! origin of every value beside it.

pub mod datastore;
pub mod layers;
pub mod parameters;
#[cfg(any(test, feature = "test-generators"))]
pub mod properties;
pub mod resolve;
pub mod text;
pub mod values;
pub mod warning;

pub use datastore::{concerns_parameters, datastore_layers};
pub use layers::{DatastoreLayers, Layers, Setting, Source};
pub use resolve::{ConfigError, ParameterValue, Resolved, resolve};
pub use values::Config;
pub use warning::{Trouble, Warning};
