//! Safe code of other crates, compiled for each instruction set.
//!
//! The walk from a key to its bucket is decisions, not arithmetic, so it lives where the index does. But its shifts by
//! variable counts and its selections cost half as much with the instructions of a recent CPU (`shrx`, vectors of u64
//! products), and calls between it and the comparison of a bucket, a chunk at a time, cost as much as the comparison.
//! So the walk is given to this module as [`Plain`] work and gets a [`Prober`] to compare buckets with.
//! Work on integers gives the same on every instruction set, and so does a `Prober`.
//!
//! Soundness: a `Plain` holds what safe code may hold. A [`Lanes`] is made in [`Compiled::run`] only, where the CPU is
//! known to have the instructions of `V`; it checks each bucket's length. Notice: `a_prober_answers_like_a_single_probe_and_refuses_a_short_bucket`.

use std::marker::PhantomData;

use crate::bucket::{MAX_LANES, stored_form};
use crate::isa::Isa;
use crate::vector::{Vector, Work, run};

/// Answer of a [`Prober`] when the key is absent and the bucket full.
pub const PROBED_FULL: u32 = 31;

/// Compares the keys of buckets.
pub trait Prober: Copy {
    /// Looks for a plain key: below 8 the lane that holds it, else 8 more than the first empty lane, else
    /// [`PROBED_FULL`]. One count of zeros gives it, so that no compiler makes a branch of it: whether a key is in its
    /// home bucket is not predictable.
    ///
    /// Panics unless `1 <= lanes <= 8` and `bucket` holds that many keys.
    fn probe(self, bucket: &[u32], lanes: usize, key: u64) -> u32;
}

/// Work to be compiled once for each instruction set. Implementations are `#[inline(always)]` down to their leaves, or
/// they are correct but compiled for the plainest one.
pub trait Plain {
    /// What the work gives.
    type Output;
    /// Does it.
    fn run<P: Prober>(self, prober: P) -> Self::Output;
}

/// Proves that the CPU has the instructions of `V`.
struct Lanes<V>(PhantomData<V>);

impl<V> Clone for Lanes<V> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for Lanes<V> {}

impl<V: Vector> Prober for Lanes<V> {
    #[inline(always)]
    fn probe(self, bucket: &[u32], lanes: usize, key: u64) -> u32 {
        assert!(
            (1..=MAX_LANES).contains(&lanes) && bucket.len() >= 2 * lanes,
            "bucket shorter than its keys"
        );
        // SAFETY: instructions by the existence of `self`; `lanes` keys lie within `bucket` by the assertion.
        let masks = unsafe { V::match_keys(bucket.as_ptr().cast(), lanes, stored_form(key)) };
        (masks.hit | (masks.empty << MAX_LANES) | (1 << PROBED_FULL)).trailing_zeros()
    }
}

struct Compiled<P>(P);

impl<P: Plain> Work for Compiled<P> {
    type Output = P::Output;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> P::Output {
        self.0.run(Lanes::<V>(PhantomData))
    }
}

/// Runs `work` as compiled for `isa`.
///
/// Panics if the CPU lacks it.
#[inline]
pub fn run_compiled<P: Plain>(isa: Isa, work: P) -> P::Output {
    // SAFETY: `Compiled` holds what safe code works with, no pointer of its own.
    unsafe { run(isa, Compiled(work)) }
}
