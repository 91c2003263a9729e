//! Any bytes as libsvm: see `gradwire::data::fuzz::libsvm`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gradwire::data::fuzz::libsvm(bytes));
