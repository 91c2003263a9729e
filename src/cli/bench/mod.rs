//! `gradwire bench`: what a user can measure on his own machine in seconds.
//!
//! `push`, `pull` and `latency` run one server thread and one client thread, joined by the fabric asked for, through
//! the public client and nothing below it. Rows exist before timing starts. A rate is the median over slices of the
//! run, so that a pause of the machine costs one slice; a latency runs from the request to its answer, with all
//! requests in flight counted. `kernels` calls the arithmetic directly and sets it against the memory's bandwidth,
//! measured in the same run.
//!
//! Absent on purpose: comparing runs. A figure goes with its machine and commit into the report.

mod histogram;
mod kernels;
mod lists;
mod traffic;

use std::io::{self, Write};
use std::time::Duration;

use gradwire_kernels::{Dtype, RowLayout, Rule};
use serde_json::json;

use super::args::{BenchArgs, BenchOp, WaitName};
use super::failure::Failure;
use super::progress::Display;
use super::training::probe_all;
use crate::app::report::{self, BenchReport, Origin};
use crate::client::{
    Adagrad, Adam, Add, Assign, Cluster, ClusterConfig, Ftrl, Max, Momentum, Nesterov, RowAdagrad, Sgd,
};
use histogram::Histogram;
use lists::KeyLists;
use traffic::Client;

/// Longer than any run: both ends poll until it is over.
const POLL_ALWAYS: Duration = Duration::from_secs(7 * 24 * 3600);
/// Parts of a run whose rates the median is taken of.
const SLICES: u32 = 20;

pub(super) fn run(op: &BenchOp) -> Result<(), Failure> {
    match op {
        BenchOp::Push(args) => traffic("push", args),
        BenchOp::Pull(args) => traffic("pull", args),
        // One key, one in flight: that is what the figure means, whatever the other flags say.
        BenchOp::Latency(args) => traffic(
            "latency",
            &BenchArgs {
                batch: 1,
                inflight: 1,
                report: args.report.clone(),
                optimizer: args.optimizer.clone(),
                ..*args
            },
        ),
        BenchOp::Kernels(args) => kernels::run(args),
    }
}

/// What a run measured.
struct Measured {
    /// Keys a second, one figure a slice.
    rates: Vec<f64>,
    /// Request to answer, in nanoseconds.
    times: Histogram,
}

fn traffic(op: &'static str, args: &BenchArgs) -> Result<(), Failure> {
    let rule = optimizer(&args.optimizer)?;
    if args.batch > args.keys {
        return Err(Failure::usage(format!(
            "--batch {} distinct keys do not fit a key space of --keys {}; lower the one or raise the other",
            args.batch, args.keys
        )));
    }
    probe_all([args.report.as_deref()])?;
    let display = Display::start()?;
    let cluster = Cluster::embedded(config(args, &rule))?;
    let session = cluster.session()?;
    let table = session.sparse("bench", args.dim as usize, rule)?;
    let lists = KeyLists::new(args.keys, args.batch as usize, args.batches as usize, !args.no_key_cache)?;
    let mut client = Client::new(&table, lists, args.inflight as usize, args.fresh_keys);
    client.make_rows(args.keys, display.progress())?;
    session.flush()?;
    display.progress().begin(op, "keys", None);
    let duration = Duration::from_secs_f64(args.seconds);
    let measured = match op {
        "push" => client.push(duration, display.progress())?,
        _ => client.pull(duration, display.progress())?,
    };
    session.flush()?;
    drop(display);
    let report = summarise(op, args, cluster.fabric(), &measured);
    if let Some(path) = &args.report {
        report::write(&report, path)?;
    }
    Ok(print(&report)?)
}

/// One server thread, with room for every row that the run can make.
fn config(args: &BenchArgs, rule: &Rule) -> ClusterConfig {
    let mut config = ClusterConfig { servers: 1, fabric: args.fabric.into(), ..ClusterConfig::default() };
    let row_bytes = 8 + 4 * RowLayout::new(rule, args.dim as usize, Dtype::F32).words() as u64;
    // Three times the rows: an index is never full, and grows by segments that hold old and new for a while.
    config.memory_bytes = config.memory_bytes.max(3 * args.keys * row_bytes);
    if args.wait == WaitName::Poll {
        config.spin = POLL_ALWAYS;
    }
    config
}

fn optimizer(name: &str) -> Result<Rule, Failure> {
    Ok(match name {
        "sgd" => Sgd::default().into(),
        "momentum" => Momentum::default().into(),
        "nesterov" => Nesterov::default().into(),
        "adagrad" => Adagrad::default().into(),
        "row-adagrad" => RowAdagrad::default().into(),
        "adam" => Adam::default().into(),
        "ftrl" => Ftrl::default().into(),
        "add" => Add.into(),
        "assign" => Assign.into(),
        "max" => Max.into(),
        _ => {
            return Err(Failure::usage(format!(
                "--optimizer {name:?} is unknown; give sgd, momentum, nesterov, adagrad, row-adagrad, adam, ftrl, add, \
                 assign or max"
            )));
        }
    })
}

fn summarise(op: &'static str, args: &BenchArgs, fabric: &str, measured: &Measured) -> BenchReport {
    let keys_per_s = histogram::median(&measured.rates);
    let microseconds = |quantile| Some(measured.times.quantile(quantile) / 1e3);
    BenchReport {
        origin: Origin::here("gradwire.bench.1"),
        op,
        fabric: fabric.to_owned(),
        keys_per_s,
        bytes_per_s: keys_per_s * (8 + 4 * args.dim) as f64,
        p50_us: microseconds(0.5),
        p99_us: microseconds(0.99),
        p999_us: microseconds(0.999),
        workload: json!({
            "keys": args.keys,
            "batch": args.batch,
            "dim": args.dim,
            "inflight": args.inflight,
            "optimizer": args.optimizer,
            "batches": args.batches,
            "fresh_keys": args.fresh_keys,
            "key_cache": !args.no_key_cache,
            "wait": match args.wait { WaitName::Poll => "poll", WaitName::Default => "default" },
            "seconds": args.seconds,
            "requests": measured.times.count(),
            "slices": measured.rates.len(),
            "slowest_slice_keys_per_s": measured.rates.iter().copied().fold(f64::INFINITY, f64::min),
        }),
    }
}

fn print(report: &BenchReport) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{:<9} {:.2} M keys/s, {:.1} MB/s of keys and values, over {}",
        report.op,
        report.keys_per_s / 1e6,
        report.bytes_per_s / 1e6,
        report.fabric
    )?;
    if let (Some(p50), Some(p99), Some(p999)) = (report.p50_us, report.p99_us, report.p999_us) {
        writeln!(out, "request   p50 {p50:.2} us, p99 {p99:.2} us, p99.9 {p999:.2} us")?;
    }
    Ok(())
}
