//! The machine: all unsafe that is not arithmetic.
