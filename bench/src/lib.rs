//! Benchmarks of gradwire; see `benches/`.
