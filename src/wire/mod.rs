//! Record layouts and their parsers.

pub mod ids;
