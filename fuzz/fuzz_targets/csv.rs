//! Any bytes as csv: see `gradwire::data::fuzz::csv`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gradwire::data::fuzz::csv(bytes));
