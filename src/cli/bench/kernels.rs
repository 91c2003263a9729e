//! `bench kernels`: optimizers in place on random rows, against the bandwidth of the memory.

use std::hint::black_box;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use gradwire_ffi::arena::Arena;
use gradwire_kernels::{Dtype, Isa, RowLayout, Rule, axpy, set_float_control, update_rows};
use serde_json::{Value, json};
use zerocopy::{transmute_mut, transmute_ref};

use super::histogram::median;
use super::lists::Random;
use super::optimizer;
use crate::app::report::{self, BenchReport, Origin};
use crate::cli::args::KernelsArgs;
use crate::cli::failure::Failure;
use crate::cli::progress::Display;
use crate::cli::training::probe_all;

/// Fits the second-level cache of every processor of the last ten years.
const CACHED_BYTES: usize = 1 << 20;
const RULES: [&str; 6] = ["add", "sgd", "adagrad", "row-adagrad", "adam", "ftrl"];
const DIMS: [usize; 3] = [1, 16, 64];
/// Rows of one call, as in one push.
const ROWS: usize = 10_000;
/// Offsets take 4 bytes each; more than these are not reached in the time that a case has.
const MOST_REQUESTS: usize = 1600;
/// Calls whose times one figure is the median of, at least.
const CALLS: usize = 5;
/// One read of each of two vectors and one write, 4 bytes each.
const AXPY_BYTES: usize = 12;

struct Case {
    rule: &'static str,
    dim: usize,
    table_bytes: usize,
    rows_per_s: f64,
    /// Rows read and written, gradients and offsets read.
    bytes_per_s: f64,
}

pub(super) fn run(args: &KernelsArgs) -> Result<(), Failure> {
    probe_all([args.report.as_deref()])?;
    set_float_control();
    let isa = Isa::active();
    let large = args.bytes as usize;
    let mut arena = Arena::reserve(large / 4).map_err(Failure::work)?;
    let memory = &mut arena.words_mut()[..large / 4];
    let display = Display::start()?;
    let total = 1 + 2 * RULES.len() * DIMS.len();
    display.progress().begin("kernels", "cases", Some(total as u64));
    let share = Duration::from_secs_f64(args.seconds / total as f64);

    let bandwidth = bandwidth(isa, memory, share);
    display.progress().add(1);
    let mut cases = Vec::new();
    for table_bytes in [CACHED_BYTES, large] {
        for name in RULES {
            let rule = optimizer(name)?;
            for dim in DIMS {
                cases.push(measure(isa, &rule, name, dim, &mut memory[..table_bytes / 4], share));
                display.progress().add(1);
            }
        }
    }
    drop(display);
    if let Some(path) = &args.report {
        report::write(&report(isa, bandwidth, &cases), path)?;
    }
    Ok(print(isa, bandwidth, &cases)?)
}

/// Bytes a second of `y += a x` over the two halves of the memory that the rows will have, huge pages and all.
fn bandwidth(isa: Isa, memory: &mut [u32], share: Duration) -> f64 {
    memory.fill(0);
    let length = memory.len() / 2;
    let (x, y) = memory.split_at_mut(length);
    let (x, y): (&[f32], &mut [f32]) = (transmute_ref!(&*x), transmute_mut!(&mut y[..length]));
    let seconds = median_seconds(share, || axpy(isa, black_box(1e-3), x, y));
    (length * AXPY_BYTES) as f64 / seconds
}

fn measure(
    isa: Isa,
    rule: &Rule,
    name: &'static str,
    dim: usize,
    memory: &mut [u32],
    share: Duration,
) -> Case {
    let layout = RowLayout::new(rule, dim, Dtype::F32);
    let words = layout.words();
    // Rows of the rule before this one are no rows of this one; zeroes are fresh rows of every rule.
    memory.fill(0);
    let rows = (memory.len() / words) as u64;
    let mut random = Random::new(11);
    // As many rows as the table has, so that a large one is not measured as the cached part of it.
    let requests = (memory.len() / words / ROWS).clamp(1, MOST_REQUESTS);
    let offsets: Vec<u32> = (0..requests * ROWS).map(|_| random.below(rows) as u32).collect();
    let gradients = vec![1e-3_f32; ROWS * dim];
    let mut turn = offsets.chunks_exact(ROWS).cycle();
    let seconds = median_seconds(share, || {
        if let Some(request) = turn.next() {
            update_rows(isa, rule, &layout, memory, words, request, &gradients);
        }
    });
    let rows_per_s = ROWS as f64 / seconds;
    let row_bytes = 2 * 4 * words + 4 * dim + 4;
    Case {
        rule: name,
        dim,
        table_bytes: memory.len() * 4,
        rows_per_s,
        bytes_per_s: rows_per_s * row_bytes as f64,
    }
}

/// Median time of `work`, repeated for about `share`; the first call, which fills caches, does not count.
fn median_seconds(share: Duration, mut work: impl FnMut()) -> f64 {
    work();
    let began = Instant::now();
    let mut times = Vec::new();
    while times.len() < CALLS || began.elapsed() < share {
        let call = Instant::now();
        work();
        times.push(call.elapsed().as_secs_f64());
    }
    median(&times)
}

fn report(isa: Isa, bandwidth: f64, cases: &[Case]) -> BenchReport {
    let case_json = |case: &Case| -> Value {
        json!({
            "rule": case.rule,
            "dim": case.dim,
            "table_bytes": case.table_bytes,
            "rows_per_s": case.rows_per_s,
            "bytes_per_s": case.bytes_per_s,
            "fraction_of_bandwidth": case.bytes_per_s / bandwidth,
        })
    };
    // The figures on top are those of the plainest case out of cache: one float added to.
    let plainest = cases.iter().rev().find(|c| c.rule == "add" && c.dim == 1);
    BenchReport {
        origin: Origin::here("gradwire.bench.1"),
        op: "kernels",
        fabric: "none".to_owned(),
        keys_per_s: plainest.map_or(0.0, |c| c.rows_per_s),
        bytes_per_s: plainest.map_or(0.0, |c| c.bytes_per_s),
        p50_us: None,
        p99_us: None,
        p999_us: None,
        workload: json!({
            "simd": isa.name(),
            "axpy_bytes_per_s": bandwidth,
            "rows_a_call": ROWS,
            "cases": cases.iter().map(case_json).collect::<Vec<_>>(),
        }),
    }
}

fn print(isa: Isa, bandwidth: f64, cases: &[Case]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "memory        {:.1} GB/s (axpy, one thread, {})", bandwidth / 1e9, isa.name())?;
    writeln!(
        out,
        "{:<12} {:>4} {:>10} {:>10} {:>8} {:>14}",
        "rule", "dim", "table MB", "M rows/s", "GB/s", "of bandwidth"
    )?;
    for case in cases {
        writeln!(
            out,
            "{:<12} {:>4} {:>10.0} {:>10.1} {:>8.1} {:>13.0}%",
            case.rule,
            case.dim,
            case.table_bytes as f64 / 1e6,
            case.rows_per_s / 1e6,
            case.bytes_per_s / 1e9,
            100.0 * case.bytes_per_s / bandwidth
        )?;
    }
    Ok(())
}
