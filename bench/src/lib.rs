//! What the benches in `benches/` share: claims with a baseline and a bound, and the workloads they run on.
//!
//! Problem: a rate alone says little, and rates of different runs on a shared machine cannot be compared. Idea: a
//! [`Claim`] measures a piece of work side by side with a baseline (the plain way) and a bound (what the machine
//! allows for the same work), and prints all three with their ratios. Invariants: everything inside a claim does the
//! same amount of work, in the same process and run; inputs come from fixed seeds and are made before the clock
//! starts. Absent on purpose: assertions on times, plots, comparison with earlier runs (criterion keeps those).
//! Called by the bench programs only, from their main thread.

mod claim;
mod distribution;
mod workload;

pub use claim::{Claim, Work, criterion};
pub use distribution::{Distribution, median};
pub use workload::{Random, Turn, distinct_sorted, lists_covering, lists_of};
