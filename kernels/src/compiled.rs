//! Safe code of other crates, compiled for each instruction set.
//!
//! The walk from a key to its bucket is decisions, not arithmetic, so it lives where the index does. But its shifts by
//! variable counts and its selections cost half as much with the instructions of a recent CPU (`shrx`, vectors of u64
//! products), and calls between it and the comparison of a bucket, a chunk at a time, cost as much as the comparison.
//! So the walk is given to this module as [`Plain`] work and gets a [`Prober`] to compare buckets with.
//! Work on integers gives the same on every instruction set, and so does a `Prober`.
//!
//! Soundness: a `Plain` holds what safe code may hold. A [`Lanes`] is made in [`Compiled::run`] only, where the CPU is
//! known to have the instructions of `V`; a bucket is a whole line by its type.
//! Notice: `a_prober_names_the_lanes_of_a_key_and_the_empty_ones_on_every_instruction_set`.

use std::marker::PhantomData;

use crate::bucket::{Line, MAX_LANES};
use crate::isa::Isa;
use crate::text::Positions;
use crate::vector::{Vector, Work, run};
use crate::walk::{BLOCK, CHUNK, Walk};

/// Compares the keys of buckets, and bytes.
pub trait Prober: Copy {
    /// Which of the first `LANES` lanes hold a key, given in its stored form, as a bit mask; 0 finds the empty lanes. One
    /// comparison and no branch: whether a key is in its home bucket is not predictable.
    fn lanes_with<const LANES: usize>(self, line: &Line, stored: u64) -> u32;

    /// Which bytes are 0, as a bit mask.
    #[inline(always)]
    fn zeros(self, bytes: &[u8; 64]) -> u64 {
        self.equal(bytes, 0)
    }

    /// Which bytes are `byte`, as a bit mask; the lowest bit for the first.
    fn equal(self, bytes: &[u8; 64], byte: u8) -> u64;

    /// Writes `base` + i for each bit i of `mask`, in order, from the start of `out`; anything may be after those.
    fn positions(self, mask: u64, base: u32, out: &mut Positions);

    /// The first line of each key's bucket.
    fn locate(self, walk: &Walk<'_>, keys: &[u64; CHUNK], lines_shift: u32, at: &mut [u32; CHUNK]);

    /// For each key, which of the first `LANES` lanes of the bucket at its line hold it, as a bit mask. The keys are plain.
    ///
    /// Panics if a line is not among `lines`.
    fn hits<const LANES: usize>(
        self,
        lines: &[Line],
        at: &[u32; BLOCK],
        keys: &[u64; BLOCK],
        hits: &mut [u8; BLOCK],
    );

    /// Puts in the place of each key's line the payload of the highest lane that was hit, or of the first when none was: the
    /// word there if `READ`, for payloads of one word, else the offset of its first word from the start of `lines`.
    ///
    /// Panics if a line that is to be read is not among `lines`.
    fn payloads<const LANES: usize, const PAYLOAD: usize, const READ: bool>(
        self,
        lines: &[Line],
        hits: &[u8; CHUNK],
        at: &mut [u32; CHUNK],
    );
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
    fn lanes_with<const LANES: usize>(self, line: &Line, stored: u64) -> u32 {
        const { assert!(LANES >= 1 && LANES <= MAX_LANES) };
        // SAFETY: the CPU has the instructions by the existence of `self`.
        unsafe { V::lanes_with::<LANES>(line, stored) }
    }

    #[inline(always)]
    fn equal(self, bytes: &[u8; 64], byte: u8) -> u64 {
        // SAFETY: as above.
        unsafe { V::equal(bytes, byte) }
    }

    #[inline(always)]
    fn positions(self, mask: u64, base: u32, out: &mut Positions) {
        // SAFETY: as above.
        unsafe { V::positions(mask, base, out) }
    }

    #[inline(always)]
    fn locate(self, walk: &Walk<'_>, keys: &[u64; CHUNK], lines_shift: u32, at: &mut [u32; CHUNK]) {
        // SAFETY: as above.
        unsafe { V::locate(walk, keys, lines_shift, at) }
    }

    #[inline(always)]
    fn hits<const LANES: usize>(
        self,
        lines: &[Line],
        at: &[u32; BLOCK],
        keys: &[u64; BLOCK],
        hits: &mut [u8; BLOCK],
    ) {
        const { assert!(LANES >= 1 && LANES <= MAX_LANES) };
        // SAFETY: as above.
        unsafe { V::hits::<LANES>(lines, at, keys, hits) }
    }

    #[inline(always)]
    fn payloads<const LANES: usize, const PAYLOAD: usize, const READ: bool>(
        self,
        lines: &[Line],
        hits: &[u8; CHUNK],
        at: &mut [u32; CHUNK],
    ) {
        // SAFETY: as above.
        unsafe { V::payloads::<LANES, PAYLOAD, READ>(lines, hits, at) }
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
