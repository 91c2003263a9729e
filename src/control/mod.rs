//! The control plane as those who use it see it: one trait, one error.
//!
//! The problem: sessions need a map, an id, tables and lanes from a coordinator that lives in their process today and
//! at the end of a connection tomorrow. The idea: [`ControlPlane`] is all they may ask. Servers implement it, clients
//! hold it, and neither knows the other. [`protocol`] is their messages as bytes ([`fuzz`] any bytes as messages), [`connection`] the far end of a
//! connection to a coordinator process. Absent on purpose: pushes, pulls, and anything that happens per request.
//! Every call may be made from any thread, may wait, and has a deadline.

pub mod connection;
mod error;
pub mod fuzz;
mod identity;
mod jobs;
mod plane;
pub mod protocol;

pub use error::ControlError;
pub use identity::{random, this_host};
pub use jobs::{Jobs, LocalJobs};
pub use plane::ControlPlane;
