//! Claim: a push or pull of 10,000 keys through the store is several times faster than the standard library's map, and with
//! a cached key list it comes near the bare update of rows whose places are known.
//!
//! Unit: keys a second, in lists of 10,000 sorted distinct keys of a space of which every key has a row. Baseline: a
//! `HashMap` updated by the same formula in plain Rust. Bound: the kernel alone over as many rows at random places of
//! memory that is as large; a cached list may pass it, because its sorted slots are friendlier to caches than random
//! places. "Warm" uses 16 lists in turn, as minibatches that come again; "cold" walks through the whole space before a
//! key comes again. Bytes a key are printed once for each table: charged (rows, index, spare room), resident (whole
//! huge pages), and the peak while the table grew.
//!
//! "Training" is no criterion claim but a run of its own: an ftrl table from empty to 16 M keys, each request with one
//! new key in ten (and once with new keys only), the others random among those there. It prints the rate of the window
//! of a million updates that ends at each size, the slowest and the median window of all, the longest request, the bytes
//! of a key at each size and over the run, and pulls of random keys at each size. Times are wall time of the pushes alone,
//! so a loaded machine slows windows that it happens to meet: compare minimum with median.
#![allow(
    clippy::expect_used,
    reason = "a bench whose store refuses its input has nothing to measure: it stops"
)]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use criterion::Criterion;
use gradwire::store::{Digest, Init, Store, StoreConfig, TableKind, TableSchema};
use gradwire::wire::ids::{PartitionId, SessionId, TableId};
use gradwire_bench::{Claim, Random, Turn, Work, criterion, lists_covering, lists_of};
use gradwire_ffi::arena::Arena;
use gradwire_kernels::{self as kernels, Dtype, Isa, RowLayout, Rule};

const TABLE: TableId = TableId(1);
const PARTITION: PartitionId = PartitionId(0);
const SESSION: SessionId = SessionId(1);
/// Keys of one request.
const KEYS: usize = 10_000;
/// Lists used in turn where they come again.
const WARM_LISTS: usize = 16;
const BUDGET: u64 = 4 << 30;
const MILLION: u64 = 1 << 20;

const ALPHA: f32 = 0.1;
const BETA: f32 = 1.0;
const LR: f32 = 0.01;
const EPSILON: f32 = 1e-6;

/// A row of a naive table, and the naive update of it.
trait PlainRow: Default {
    fn update(&mut self, gradient: &[f32]);
    fn read(&self, out: &mut [f32]);
}

impl PlainRow for f32 {
    fn update(&mut self, gradient: &[f32]) {
        *self += gradient[0];
    }

    fn read(&self, out: &mut [f32]) {
        out[0] = *self;
    }
}

/// Ftrl's z and n, without penalties.
#[derive(Default)]
struct PlainFtrl(f32, f32);

impl PlainFtrl {
    fn weight(&self) -> f32 {
        -self.0 / ((BETA + self.1.sqrt()) / ALPHA)
    }
}

impl PlainRow for PlainFtrl {
    fn update(&mut self, gradient: &[f32]) {
        let (g, grown) = (gradient[0], self.1 + gradient[0] * gradient[0]);
        let sigma = (grown.sqrt() - self.1.sqrt()) / ALPHA;
        self.0 += g - sigma * self.weight();
        self.1 = grown;
    }

    fn read(&self, out: &mut [f32]) {
        out[0] = self.weight();
    }
}

/// Sixteen values and their sums of squares.
#[derive(Default)]
struct PlainAdagrad([f32; 16], [f32; 16]);

impl PlainRow for PlainAdagrad {
    fn update(&mut self, gradient: &[f32]) {
        for ((w, s), g) in self.0.iter_mut().zip(&mut self.1).zip(gradient) {
            *s += g * g;
            *w -= LR * g / (s.sqrt() + EPSILON);
        }
    }

    fn read(&self, out: &mut [f32]) {
        out.copy_from_slice(&self.0);
    }
}

/// One table of the claims.
struct Shape {
    name: &'static str,
    rule: Rule,
    dim: usize,
}

fn new_store(shape: &Shape) -> Store {
    let schema = TableSchema {
        name: "w".to_owned(),
        kind: TableKind::Sparse,
        dim: shape.dim as u32,
        dtype: Dtype::F32,
        rule: shape.rule,
        init: Init::Zero,
        seed: 1,
        partitions: 1,
    };
    let mut store = Store::new(StoreConfig::new(BUDGET, 1));
    store.create_table(TABLE, schema, &[PARTITION]).expect("a good schema");
    store
}

fn push(store: &mut Store, keys: &[u64], gradients: &[f32]) {
    store.push(TABLE, PARTITION, keys, gradients).expect("room for the rows");
}

#[allow(clippy::print_stdout, reason = "a bench's output is its result")]
fn print_bytes_a_key(name: &str, store: &Store, keys: u64) {
    let a_key = |bytes: u64| bytes as f64 / keys as f64;
    let (used, resident) = (a_key(store.bytes_used()), a_key(store.bytes_resident()));
    let peak = a_key(store.bytes_peak());
    println!(
        "{name}: bytes a key: {used:.1} charged, {resident:.1} resident, {peak:.1} at the peak of growth"
    );
}

/// Rows of a table in memory of their own, at places that are known.
struct Bare {
    arena: Arena,
    layout: RowLayout,
    rows: u64,
}

impl Bare {
    fn new(shape: &Shape, rows: u64) -> Self {
        let layout = RowLayout::new(&shape.rule, shape.dim, Dtype::F32);
        let words = rows as usize * layout.words();
        let mut arena = Arena::reserve(words).expect("address space for the rows");
        arena.words_mut()[..words].fill(0);
        Self { arena, layout, rows }
    }

    /// Random places for requests of the same form as `lists`.
    fn places(&self, lists: &[Vec<u64>]) -> Vec<Vec<u32>> {
        let mut random = Random(5);
        let places = |keys: &Vec<u64>| keys.iter().map(|_| random.below(self.rows) as u32).collect();
        lists.iter().map(places).collect()
    }
}

fn push_and_pull<R: PlainRow>(criterion: &mut Criterion, shape: &Shape, millions: u64) {
    let space = millions * MILLION;
    let name = format!("index/{}/{millions} M keys", shape.name);
    let mut random = Random(4);
    let mut cold = lists_covering(&mut random, KEYS, space);
    let mut store = new_store(shape);
    let mut map: HashMap<u64, R> = HashMap::with_capacity(space as usize);
    let gradients = random.floats(KEYS * shape.dim);
    for keys in &cold {
        push(&mut store, keys, &gradients[..keys.len() * shape.dim]);
        for (key, gradient) in keys.iter().zip(gradients.chunks_exact(shape.dim)) {
            map.entry(*key).or_default().update(gradient);
        }
    }
    print_bytes_a_key(&name, &store, space);
    // The remainder would be a request of another size.
    cold.pop_if(|last| last.len() < KEYS);
    let warm = lists_of(&mut random, WARM_LISTS, KEYS, space);
    let mut bare = Bare::new(shape, space);
    for (temperature, lists) in [("warm", &warm), ("cold", &cold)] {
        let places = bare.places(lists);
        let mut run = Run {
            shape,
            lists,
            places: &places,
            store: &mut store,
            map: &mut map,
            bare: &mut bare,
            gradients: &gradients,
        };
        run.push(criterion, &format!("{name}/push {temperature}"));
        run.pull(criterion, &format!("{name}/pull {temperature}"));
    }
}

/// What the claims on one table and one set of lists work with.
struct Run<'a, R> {
    shape: &'a Shape,
    lists: &'a [Vec<u64>],
    /// For the kernel alone.
    places: &'a [Vec<u32>],
    store: &'a mut Store,
    map: &'a mut HashMap<u64, R>,
    bare: &'a mut Bare,
    gradients: &'a [f32],
}

impl<R: PlainRow> Run<'_, R> {
    /// Lists that come again are worth caching; the names of all, or of none.
    fn learn(&mut self) -> Vec<Digest> {
        if self.lists.len() > WARM_LISTS {
            return Vec::new();
        }
        let learn = |keys: &Vec<u64>| {
            self.store.learn_keys(SESSION, TABLE, PARTITION, keys).expect("sorted distinct keys")
        };
        self.lists.iter().map(learn).collect()
    }

    fn push(&mut self, criterion: &mut Criterion, name: &str) {
        let digests = self.learn();
        let Self { shape, lists, places, store, map, bare, gradients } = self;
        let mut claim = Claim::new(criterion, name, Work::Count(KEYS as u64, "keys"));

        let mut turn = Turn::new(lists);
        claim.baseline("HashMap", || {
            for (key, gradient) in turn.step().iter().zip(gradients.chunks_exact(shape.dim)) {
                map.entry(*key).or_default().update(gradient);
            }
        });
        let mut turn = Turn::new(lists);
        claim.case("keys", || push(store, turn.step(), gradients));
        if !digests.is_empty() {
            let mut turn = Turn::new(&digests);
            claim.case("cached list", || {
                let pushed = store.push_cached(TABLE, PARTITION, SESSION, *turn.step(), gradients);
                pushed.expect("a list that is kept");
            });
        }
        let (isa, layout) = (Isa::active(), bare.layout);
        let words = bare.arena.words_mut();
        let mut turn = Turn::new(places);
        claim.bound("kernel alone", || {
            kernels::update_rows(isa, &shape.rule, &layout, words, layout.words(), turn.step(), gradients);
        });
        claim.finish();
    }

    fn pull(&mut self, criterion: &mut Criterion, name: &str) {
        let digests = self.learn();
        let Self { shape, lists, places, store, map, bare, .. } = self;
        let mut out = vec![0.0; KEYS * shape.dim];
        let mut found = vec![0; KEYS.div_ceil(64)];
        let mut claim = Claim::new(criterion, name, Work::Count(KEYS as u64, "keys"));

        let mut turn = Turn::new(lists);
        claim.baseline("HashMap", || {
            for (key, out) in turn.step().iter().zip(out.chunks_exact_mut(shape.dim)) {
                if let Some(row) = map.get(key) {
                    row.read(out);
                }
            }
        });
        let mut turn = Turn::new(lists);
        claim.case("keys", || {
            store.pull(TABLE, PARTITION, turn.step(), &mut out, &mut found).expect("a pull of good keys");
        });
        if !digests.is_empty() {
            let mut turn = Turn::new(&digests);
            claim.case("cached list", || {
                let digest = *turn.step();
                let pulled = store.pull_cached(TABLE, PARTITION, SESSION, digest, &mut out, &mut found);
                pulled.expect("a list that is kept");
            });
        }
        let (isa, layout) = (Isa::active(), bare.layout);
        let words = bare.arena.words();
        let mut turn = Turn::new(places);
        claim.bound("kernel alone", || {
            kernels::read_rows(isa, &shape.rule, &layout, words, layout.words(), turn.step(), &mut out);
        });
        claim.finish();
    }
}

/// A table from nothing to a million keys, in requests of 10,000.
fn growth(criterion: &mut Criterion, shape: &Shape) {
    let lists = lists_covering(&mut Random(6), KEYS, MILLION);
    let gradients = Random(7).floats(KEYS * shape.dim);
    let name = format!("index/{}/growth to 1 M keys", shape.name);
    let mut claim = Claim::new(criterion, name, Work::Count(MILLION, "keys"));
    claim.baseline("HashMap", || {
        let mut map: HashMap<u64, f32> = HashMap::new();
        for keys in &lists {
            for (key, gradient) in keys.iter().zip(&gradients) {
                *map.entry(*key).or_default() += gradient;
            }
        }
        map.len()
    });
    claim.case("store", || {
        let mut store = new_store(shape);
        lists.iter().for_each(|keys| push(&mut store, keys, &gradients[..keys.len()]));
        store.len(TABLE, PARTITION)
    });
    let mut copied = vec![0u64; 2 * MILLION as usize];
    claim.bound("memory written once", || copied.fill(1));
    claim.finish();
}

/// Keys at which "training" reports.
const SIZES: [u64; 5] = [8_000_000, 9_000_000, 10_000_000, 12_000_000, 16_000_000];
/// Updates of a window.
const WINDOW: u64 = 1_000_000;

/// A key of the training run: spread over all 64 bits, so that the order of making says nothing about it.
fn training_key(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// `count` random keys among the first `space`, sorted and distinct.
fn training_keys(random: &mut Random, count: usize, space: u64) -> Vec<u64> {
    (0..count).map(|_| training_key(random.below(space))).collect()
}

#[allow(clippy::print_stdout, reason = "a bench's output is its result")]
fn training(shape: &Shape, new_in: usize, sizes: &[u64]) {
    let mut store = new_store(shape);
    let mut random = Random(8);
    let gradients = random.floats(KEYS);
    let (mut made, mut windows, mut window) = (0_u64, Vec::new(), (0_u64, Duration::ZERO));
    let (mut longest, mut bytes, mut worst) = (Duration::ZERO, Vec::new(), 0.0_f64);
    let name = format!("index/{}/training, 1 key in {new_in} new", shape.name);
    for size in sizes {
        while made < *size {
            let new = if made == 0 { KEYS } else { KEYS / new_in };
            let mut keys: Vec<u64> = (made..made + new as u64).map(training_key).collect();
            keys.extend(training_keys(&mut random, KEYS - new, made.max(1)));
            keys.sort_unstable();
            keys.dedup();
            made += new as u64;
            let began = Instant::now();
            push(&mut store, &keys, &gradients[..keys.len()]);
            let took = began.elapsed();
            longest = longest.max(took);
            window = (window.0 + keys.len() as u64, window.1 + took);
            if window.0 >= WINDOW {
                windows.push(window.0 as f64 / window.1.as_secs_f64() / 1e6);
                window = (0, Duration::ZERO);
            }
            if made >= MILLION {
                let resident = store.bytes_resident() as f64 / made as f64;
                bytes.push(resident);
                worst = worst.max(resident);
            }
        }
        let mut lists: Vec<Vec<u64>> = (0..200).map(|_| training_keys(&mut random, KEYS, made)).collect();
        lists.iter_mut().for_each(|keys| {
            keys.sort_unstable();
            keys.dedup();
        });
        let (mut out, mut found) = (vec![0.0; KEYS], vec![0; KEYS.div_ceil(64)]);
        let (mut pulled, began) = (0, Instant::now());
        for keys in &lists {
            let (out, found) = (&mut out[..keys.len()], &mut found[..keys.len().div_ceil(64)]);
            store.pull(TABLE, PARTITION, keys, out, found).expect("a pull of good keys");
            pulled += keys.len();
        }
        println!(
            "{name}: {} M keys: {:.1} M updates/s, {:.1} M pulls/s, {:.1} bytes a key resident",
            size / 1_000_000,
            windows.last().copied().unwrap_or(0.0),
            pulled as f64 / began.elapsed().as_secs_f64() / 1e6,
            store.bytes_resident() as f64 / made as f64,
        );
    }
    windows.sort_by(f64::total_cmp);
    let part = |of: usize| windows.get(windows.len() * of / 100).copied().unwrap_or(0.0);
    let mean = bytes.iter().sum::<f64>() / bytes.len().max(1) as f64;
    println!(
        "{name}: windows of 1 M updates: slowest {:.1}, a tenth below {:.1}, median {:.1} M/s; longest push {:.1} ms; bytes a \
         key {mean:.2} mean, {worst:.2} worst; peak {:.3} x end",
        part(0),
        part(10),
        part(50),
        longest.as_secs_f64() * 1e3,
        store.bytes_peak() as f64 / store.bytes_used() as f64,
    );
}

fn main() {
    kernels::set_float_control();
    let mut criterion = criterion(Duration::from_millis(500));
    let add = Shape { name: "add, dim 1", rule: Rule::Add, dim: 1 };
    let rule = Rule::Ftrl { alpha: ALPHA, beta: BETA, l1: 0.0, l2: 0.0 };
    let ftrl = Shape { name: "ftrl, dim 1", rule, dim: 1 };
    let rule = Rule::Adagrad { lr: LR, epsilon: EPSILON };
    let adagrad = Shape { name: "adagrad, dim 16", rule, dim: 16 };
    growth(&mut criterion, &add);
    for millions in [1, 4] {
        push_and_pull::<f32>(&mut criterion, &add, millions);
        push_and_pull::<PlainFtrl>(&mut criterion, &ftrl, millions);
        push_and_pull::<PlainAdagrad>(&mut criterion, &adagrad, millions);
    }
    // A `--test` run only shows that it still runs; a filter that names something else leaves it out.
    let words: Vec<String> = std::env::args().skip(1).collect();
    let smoke = words.iter().any(|word| word == "--test");
    let filtered = words.iter().any(|word| !word.starts_with('-') && word != "training");
    if !filtered {
        let sizes = if smoke { &[100_000][..] } else { &SIZES };
        for new_in in [10, 1] {
            training(&ftrl, new_in, sizes);
        }
    }
    criterion.final_summary();
}
