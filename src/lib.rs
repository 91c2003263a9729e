//! gradwire: a parameter server.
#![forbid(unsafe_code)]

pub mod app;
pub mod chain;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod data;
pub mod lane;
pub mod linalg;
pub mod server;
pub mod store;
pub mod wire;
