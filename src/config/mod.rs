//! Configuration in three steps: as written (`file`), as checked (`check`), as used ([`Settings`],
//! and [`crate::policy::Policy`] for the core). All mistakes come in one run, each with line and column.

mod settings;

pub use settings::{
    Admin, Events, ListenAddress, Locate, LogFormat, Logging, MaskNumbers, ServerNames, Settings, SocketLimits,
};
