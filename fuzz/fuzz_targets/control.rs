//! Any bytes as control messages: see `gradwire::control::fuzz::messages`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gradwire::control::fuzz::messages(bytes));
