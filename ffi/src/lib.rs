//! The machine: all unsafe that is not arithmetic.

pub mod arena;
