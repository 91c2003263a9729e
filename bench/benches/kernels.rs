//! Claim: on rows and vectors in cache the vector kernels are several times faster than the scalar reference, which
//! gives the same bits; on 256 MB they are bound by memory, not by arithmetic.
//!
//! Unit: rows a second (updates, reads), bytes of the inputs a second (the rest). Baseline: the scalar kernel. Bound: `axpy`
//! or a copy over contiguous memory of the same size, moving as many bytes as the kernel reads and writes. Rows
//! shorter than a cache line are charged for their own bytes only, while the machine moves whole lines: at random places
//! in 256 MB their share of the bound is small by nature, and comparing sets is what counts there. A kernel that only reads,
//! or whose rows partly stay in a large last-level cache, may pass the bound.
//! Row memory lies in huge pages where the kernel grants them, as in the store; contiguous buffers do not.
#![allow(
    clippy::expect_used,
    reason = "a bench that cannot set up its memory has nothing to measure: it stops"
)]

use std::time::Duration;

use criterion::Criterion;
use gradwire_bench::{Claim, Random, Turn, Work, criterion};
use gradwire_ffi::arena::Arena;
use gradwire_kernels::{self as kernels, Dtype, Isa, RowLayout, Rule};

/// Rows of one call: a push of a few thousand keys.
const ROWS_A_CALL: usize = 4096;
/// Random rows prepared for large memory; enough that their lines do not stay in a second-level cache.
const OFFSETS: usize = 1 << 20;

const RULES: [Rule; 5] = [
    Rule::Sgd { lr: 0.01 },
    Rule::Adagrad { lr: 0.01, epsilon: 1e-6 },
    Rule::RowAdagrad { lr: 0.01, epsilon: 1e-6 },
    Rule::Ftrl { alpha: 0.1, beta: 1.0, l1: 0.1, l2: 1.0 },
    Rule::Add,
];
const DIMS: [usize; 3] = [1, 16, 64];

/// A size of memory, and contiguous buffers of that size.
struct Memory {
    name: &'static str,
    rows: Arena,
    words: usize,
    x: Vec<f32>,
    y: Vec<f32>,
    at: usize,
}

impl Memory {
    fn new(name: &'static str, bytes: usize) -> Self {
        let words = bytes / 4;
        let rows = Arena::reserve(words).expect("address space for the rows");
        let x = Random(1).floats(words.min(1 << 16)).into_iter().cycle().take(words).collect();
        Self { name, rows, words, x, y: vec![0.5; words], at: 0 }
    }

    /// All words 0 and present: a fresh row of every rule.
    fn clear_rows(&mut self) {
        self.rows.words_mut()[..self.words].fill(0);
    }

    /// Walks on through both buffers until `floats` are done, giving `step` the next part.
    fn walk(&mut self, floats: usize, mut step: impl FnMut(&[f32], &mut [f32])) {
        let mut left = floats;
        while left > 0 {
            let count = left.min(self.words - self.at);
            step(&self.x[self.at..self.at + count], &mut self.y[self.at..self.at + count]);
            self.at = (self.at + count) % self.words;
            left -= count;
        }
    }

    /// `axpy` over as many floats as it takes to move `bytes`: two are read and one is written each.
    fn axpy_bound(&mut self, claim: &mut Claim, bytes: usize) {
        let isa = Isa::detected();
        claim.bound("axpy", || self.walk(bytes.div_ceil(12), |x, y| kernels::axpy(isa, 1e-9, x, y)));
    }

    /// A copy of as many floats as it takes to move `bytes`: one is read and one is written each.
    fn copy_bound(&mut self, claim: &mut Claim, bytes: usize) {
        claim.bound("memcpy", || self.walk(bytes.div_ceil(8), |x, y| y.copy_from_slice(x)));
    }

    /// Numbers of rows in random order, in calls of equal length; in small memory every row comes once.
    fn offsets(&self, row_words: usize) -> (Vec<u32>, usize) {
        let rows = self.words / row_words;
        let mut random = Random(2);
        if rows <= OFFSETS {
            let mut offsets: Vec<u32> = (0..rows as u32).collect();
            random.shuffle(&mut offsets);
            return (offsets, rows.min(ROWS_A_CALL));
        }
        ((0..OFFSETS).map(|_| random.below(rows as u64) as u32).collect(), ROWS_A_CALL)
    }
}

/// Measures `routine` once for every instruction set that this CPU has, the scalar one as the baseline.
fn on_every_isa<R>(claim: &mut Claim, mut routine: impl FnMut(Isa) -> R) {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_supported()) {
        match isa {
            Isa::Scalar => claim.baseline(isa.name(), || routine(isa)),
            _ => claim.case(isa.name(), || routine(isa)),
        }
    }
}

fn calls(offsets: &[u32], a_call: usize) -> Vec<&[u32]> {
    offsets.chunks_exact(a_call).collect()
}

fn updates(criterion: &mut Criterion, memory: &mut Memory) {
    for rule in RULES {
        for dim in DIMS {
            let layout = RowLayout::new(&rule, dim, Dtype::F32);
            let (offsets, rows) = memory.offsets(layout.words());
            let calls = calls(&offsets, rows);
            let mut turn = Turn::new(&calls);
            let gradients = Random(3).floats(rows * dim);
            let name = format!("kernels/update/{}/dim {dim}/{}", rule.name(), memory.name);
            let mut claim = Claim::new(criterion, name, Work::Count(rows as u64, "rows"));
            memory.clear_rows();
            let words = memory.rows.words_mut();
            on_every_isa(&mut claim, |isa| {
                kernels::update_rows(isa, &rule, &layout, words, layout.words(), turn.step(), &gradients);
            });
            memory.axpy_bound(&mut claim, rows * (2 * layout.words() + dim) * 4);
            claim.finish();
        }
    }
}

fn reads(criterion: &mut Criterion, memory: &mut Memory) {
    let ftrl = RULES[3];
    for (rule, dim) in [(Rule::Add, 1), (Rule::Add, 16), (Rule::Add, 64), (ftrl, 1)] {
        let layout = RowLayout::new(&rule, dim, Dtype::F32);
        let (offsets, rows) = memory.offsets(layout.words());
        let calls = calls(&offsets, rows);
        let mut turn = Turn::new(&calls);
        let mut out = vec![0.0; rows * dim];
        let name = format!("kernels/read/{}/dim {dim}/{}", rule.name(), memory.name);
        let mut claim = Claim::new(criterion, name, Work::Count(rows as u64, "rows"));
        memory.clear_rows();
        let words = memory.rows.words();
        on_every_isa(&mut claim, |isa| {
            kernels::read_rows(isa, &rule, &layout, words, layout.words(), turn.step(), &mut out);
        });
        memory.copy_bound(&mut claim, rows * (layout.words() + dim) * 4);
        claim.finish();
    }
}

fn gathers(criterion: &mut Criterion, memory: &mut Memory) {
    for dim in DIMS {
        let (offsets, rows) = memory.offsets(dim);
        let calls = calls(&offsets, rows);
        let mut turn = Turn::new(&calls);
        let mut out = vec![0.0; rows * dim];
        let name = format!("kernels/gather/dim {dim}/{}", memory.name);
        let mut claim = Claim::new(criterion, name, Work::Count(rows as u64, "rows"));
        on_every_isa(&mut claim, |isa| kernels::gather(isa, &memory.x, turn.step(), dim, &mut out));
        memory.copy_bound(&mut claim, rows * dim * 8);
        claim.finish();
    }
}

/// Vectors of the whole memory, or as much of it as one call should take.
fn vectors(criterion: &mut Criterion, memory: &mut Memory) {
    const FLOATS: usize = 1 << 18;
    let two_inputs = Work::Bytes(8 * FLOATS as u64);
    let one_input = Work::Bytes(4 * FLOATS as u64);

    let mut claim = Claim::new(criterion, format!("kernels/axpy/{}", memory.name), two_inputs);
    on_every_isa(&mut claim, |isa| memory.walk(FLOATS, |x, y| kernels::axpy(isa, 1e-9, x, y)));
    memory.copy_bound(&mut claim, 12 * FLOATS);
    claim.finish();

    let mut claim = Claim::new(criterion, format!("kernels/dot/{}", memory.name), two_inputs);
    on_every_isa(&mut claim, |isa| {
        let mut sum = 0.0;
        memory.walk(FLOATS, |x, y| sum += kernels::dot(isa, x, y));
        sum
    });
    memory.copy_bound(&mut claim, 8 * FLOATS);
    claim.finish();

    type Norm = fn(Isa, &[f32]) -> f32;
    let norms: [(&str, Norm); 3] = [
        ("norm1", kernels::norm1),
        ("norm2 squared", kernels::norm2_squared),
        ("norm inf", kernels::norm_inf),
    ];
    for (name, norm) in norms {
        let mut claim = Claim::new(criterion, format!("kernels/{name}/{}", memory.name), one_input);
        on_every_isa(&mut claim, |isa| {
            let mut sum = 0.0;
            memory.walk(FLOATS, |x, _| sum += norm(isa, x));
            sum
        });
        memory.copy_bound(&mut claim, 4 * FLOATS);
        claim.finish();
    }
}

fn checksums_and_keys(criterion: &mut Criterion, memory: &mut Memory) {
    let bytes: Vec<u8> = memory.x.iter().take(16 << 20).flat_map(|x| x.to_le_bytes()).collect();
    let name = format!("kernels/crc32c/{}", memory.name);
    let mut claim = Claim::new(criterion, name, Work::Bytes(bytes.len() as u64));
    on_every_isa(&mut claim, |isa| kernels::crc32c(isa, 0, &bytes));
    memory.copy_bound(&mut claim, bytes.len());
    claim.finish();

    let keys: Vec<u64> = (0..bytes.len() as u64 / 8).map(|key| key * 7).collect();
    let work = Work::Bytes(8 * keys.len() as u64);
    let mut claim = Claim::new(criterion, format!("kernels/first unsorted/{}", memory.name), work);
    on_every_isa(&mut claim, |isa| kernels::first_unsorted(isa, &keys));
    memory.copy_bound(&mut claim, 8 * keys.len());
    claim.finish();
}

fn hashes(criterion: &mut Criterion, memory: &mut Memory) {
    let keys: Vec<u64> = (0..10_000).map(|key| key * 7).collect();
    let mut hashed = vec![0; keys.len()];
    let mut claim = Claim::new(criterion, "kernels/hash keys", Work::Count(keys.len() as u64, "keys"));
    on_every_isa(&mut claim, |isa| kernels::hash_keys(isa, (1, 2), &keys, &mut hashed));
    memory.copy_bound(&mut claim, 16 * keys.len());
    claim.finish();
}

/// Number formats, over 64-value rows of 1 MB of f32.
fn formats(criterion: &mut Criterion, memory: &mut Memory) {
    const DIM: usize = 64;
    let wide = memory.x[..1 << 18].to_vec();
    let mut back = wide.clone();
    let mut half = vec![0u16; wide.len()];
    let mut byte = vec![0i8; wide.len()];
    let work = Work::Bytes(4 * wide.len() as u64);

    type Narrow = fn(Isa, &[f32], &mut [u16]);
    type Widen = fn(Isa, &[u16], &mut [f32]);
    let pairs: [(&str, Narrow, Widen); 2] = [
        ("bf16", kernels::f32_to_bf16, kernels::bf16_to_f32),
        ("f16", kernels::f32_to_f16, kernels::f16_to_f32),
    ];
    for (name, narrow, widen) in pairs {
        let mut claim = Claim::new(criterion, format!("kernels/f32 to {name}"), work);
        on_every_isa(&mut claim, |isa| narrow(isa, &wide, &mut half));
        memory.copy_bound(&mut claim, 6 * wide.len());
        claim.finish();
        let mut claim = Claim::new(criterion, format!("kernels/{name} to f32"), work);
        on_every_isa(&mut claim, |isa| widen(isa, &half, &mut back));
        memory.copy_bound(&mut claim, 6 * wide.len());
        claim.finish();
    }

    let mut scale = 0.0;
    let mut claim = Claim::new(criterion, "kernels/f32 to int8", work);
    on_every_isa(&mut claim, |isa| {
        for (from, to) in wide.chunks_exact(DIM).zip(byte.chunks_exact_mut(DIM)) {
            scale = kernels::f32_to_int8(isa, from, to);
        }
        scale
    });
    memory.copy_bound(&mut claim, 5 * wide.len());
    claim.finish();
    let mut claim = Claim::new(criterion, "kernels/int8 to f32", work);
    on_every_isa(&mut claim, |isa| {
        for (from, to) in byte.chunks_exact(DIM).zip(back.chunks_exact_mut(DIM)) {
            kernels::int8_to_f32(isa, from, scale, to);
        }
    });
    memory.copy_bound(&mut claim, 5 * wide.len());
    claim.finish();
}

fn main() {
    kernels::set_float_control();
    // Some three hundred cases: each is short.
    let mut criterion = criterion(Duration::from_millis(200));
    let mut cached = Memory::new("1 MB", 1 << 20);
    hashes(&mut criterion, &mut cached);
    formats(&mut criterion, &mut cached);
    for mut memory in [cached, Memory::new("256 MB", 256 << 20)] {
        updates(&mut criterion, &mut memory);
        reads(&mut criterion, &mut memory);
        gathers(&mut criterion, &mut memory);
        vectors(&mut criterion, &mut memory);
        checksums_and_keys(&mut criterion, &mut memory);
    }
    criterion.final_summary();
}
