//! A SIP sidecar that gives every call between a dialer and a telephony server exactly one outcome.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::todo)]

pub mod admin;
pub mod arena;
pub mod call;
pub mod chunks;
pub mod cli;
pub mod closed;
pub mod config;
pub mod control;
pub mod demo;
pub mod endpoint;
pub mod event;
pub mod flow;
pub mod journal;
pub mod kept;
pub mod mask;
pub mod nats;
pub mod outcome;
pub mod overload;
pub mod path;
pub mod policy;
pub mod proxy;
pub mod recent;
pub mod runtime;
pub mod scan;
pub mod schema;
pub mod sink;
pub mod sip;
pub mod stats;
pub mod stored;
pub mod table;
pub mod telemetry;
pub mod text;
pub mod time;
pub mod transaction;
pub mod transport;
pub mod web;
pub mod wheel;
