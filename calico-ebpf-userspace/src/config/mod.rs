//! Configuration by Felix's names: flags, `FELIX_*`, `felix.cfg`, datastore, defaults.
//!
//! [`parameters`] is the one table of every name that is known. [`layers`] collects what was set and where, and
//! [`resolve()`] turns it into the [`Config`] that the agent acts on, with the origin of every value beside it.

pub mod layers;
pub mod parameters;
#[cfg(any(test, feature = "test-generators"))]
pub mod properties;
pub mod resolve;
pub mod text;
pub mod values;

pub use layers::{DatastoreLayers, Layers, Setting, Source};
pub use resolve::{ConfigError, ParameterValue, Resolved, Warning, resolve};
pub use values::Config;
