//! The `gradwire` program.
#![forbid(unsafe_code)]
fn main() {}
