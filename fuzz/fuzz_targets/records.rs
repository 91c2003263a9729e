//! Any bytes as records: see `gradwire::wire::fuzz::records`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gradwire::wire::fuzz::records(bytes));
