//! The machine: memory that two processes share, the atomics in it, file descriptors, cores, mappings.
//!
//! Everything unsafe that is not arithmetic is here, behind types that safe code cannot misuse; `gradwire`
//! itself forbids unsafe. A module with unsafe opens with its soundness argument. Nothing here decides: no
//! credit rule, no record, no retry. Linux only.

pub mod affinity;
pub mod arena;
mod error;
pub mod event;
mod mapping;
mod primitive;
pub mod private_ring;
pub mod process;
pub mod shared;
pub mod socket;
pub mod sync;
pub mod uring;

pub use error::MachineError;
