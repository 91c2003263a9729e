//! `gradwire bench`: what a user can measure on his own machine in seconds.
//!
//! `push`, `pull` and `latency` run one server thread and one client thread, joined by the fabric asked for, in one
//! process, in two (`--listen`, `--connect`) or against a running cluster (`--cluster`), through
//! the public client and nothing below it. Rows exist before timing starts. A rate is the median over slices of the
//! run, so that a pause of the machine costs one slice; a latency runs from the request to its answer, with all
//! requests in flight counted. Where whole key lists travel, the same lists also go through a store in one thread, and the
//! rate is set against that. `kernels` calls the arithmetic directly and sets it against the memory's bandwidth,
//! measured in the same run.
//!
//! Absent on purpose: comparing runs. A figure goes with its machine and commit into the report.

mod apart;
mod bare;
mod histogram;
mod kernels;
mod lane;
mod ledger;
mod lists;
mod ping_pong;
mod traffic;

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use gradwire_ffi::affinity::pin_current_thread;
use gradwire_kernels::{Dtype, RowLayout, Rule};
use serde_json::json;

use super::args::{BenchArgs, BenchOp, FabricName, WaitName};
use super::failure::Failure;
use super::progress::Display;
use super::training::probe_all;
use crate::app::progress::Progress;
use crate::app::report::{self, BenchReport, Origin};
use crate::client::{
    Adagrad, Adam, Add, Assign, Cluster, ClusterConfig, Ftrl, Max, Momentum, Nesterov, RowAdagrad, Sgd,
};
use crate::lane::{FabricKind, Waiting};
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
                cluster: args.cluster.clone(),
                listen: args.listen.clone(),
                connect: args.connect.clone(),
                ..*args
            },
        ),
        BenchOp::Lane(args) => lane::run(args),
        BenchOp::Kernels(args) => kernels::run(args),
        BenchOp::Ledger(args) => ledger::run(args),
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
    if let Some(listen) = &args.listen {
        return apart::serve(listen, args, &rule);
    }
    probe_all([args.report.as_deref()])?;
    let display = Display::start()?;
    let mut raw = Histogram::new();
    // The raw limit is taken before and after, so that a busier moment of the machine meets both; and while no server
    // polls on the core of its other end.
    let mut take_raw = |tcp: bool| match op {
        "latency" => ping_pong::raw(
            if tcp { FabricKind::Tcp } else { FabricKind::Shm },
            waiting(args.wait),
            Duration::from_secs_f64(args.seconds / 8.0),
            &mut raw,
        ),
        _ => Ok(()),
    };
    take_raw(args.fabric == FabricName::Tcp)?;
    let (fabric, measured) = measure(op, args, rule, display.progress())?;
    take_raw(fabric == FabricKind::Tcp.name())?;
    // After the server has gone, with as much time as its slices need.
    let bare = match op {
        "push" | "pull" if args.no_key_cache && args.cluster.is_none() && args.connect.is_none() => {
            display.progress().begin("store alone", "keys", None);
            let (memory_bytes, quarter) = (config(args, &rule).memory_bytes, args.seconds / 4.0);
            on_second_core(|| bare::rates(op, args, rule, memory_bytes, Duration::from_secs_f64(quarter)))?
        }
        _ => Vec::new(),
    };
    drop(display);
    let report = summarise(op, args, fabric, &measured, &raw, &bare);
    if let Some(path) = &args.report {
        report::write(&report, path)?;
    }
    Ok(print(&report, &raw)?)
}

/// Runs the traffic against a server thread of its own; the fabric that joined them, and what came of it.
fn measure(
    op: &str,
    args: &BenchArgs,
    rule: Rule,
    progress: &Progress,
) -> Result<(&'static str, Measured), Failure> {
    let running = args.cluster.as_ref().or(args.connect.as_ref());
    let (cluster, name) = match running {
        // A cluster that runs may hold the table of another bench.
        Some(address) => (apart::join(address, args)?, format!("bench-{:016x}", crate::control::random())),
        None => (Cluster::embedded(config(args, &rule))?, "bench".to_owned()),
    };
    let measured = on_second_core(|| {
        let session = cluster.session()?;
        let table = session.sparse(&name, args.dim as usize, rule)?;
        let lists = KeyLists::new(args.keys, args.batch as usize, args.batches as usize, !args.no_key_cache)?;
        let mut client = Client::new(&table, lists, args.inflight as usize, args.fresh_keys);
        client.make_rows(args.keys, progress)?;
        session.flush()?;
        progress.begin(op, "keys", None);
        let duration = Duration::from_secs_f64(args.seconds);
        let measured = match op {
            "push" => client.push(duration, progress)?,
            _ => client.pull(duration, progress)?,
        };
        session.flush()?;
        if running.is_some() {
            session.drop_table(&name)?;
        }
        Ok(measured)
    })?;
    Ok((cluster.fabric(), measured))
}

/// Does `work` on a thread of its own on the second core: the server polls on the first, and a scheduler that lets them
/// share one stops each for milliseconds. On a machine of one core it stays there.
fn on_second_core<T: Send>(work: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("bench-client".into()).spawn_scoped(scope, || {
            pin_current_thread(1);
            work()
        });
        let ended = worker.map_err(Failure::work)?.join();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// One server thread, with room for every row that the run can make.
fn config(args: &BenchArgs, rule: &Rule) -> ClusterConfig {
    let mut config = ClusterConfig { servers: 1, fabric: args.fabric.into(), ..ClusterConfig::default() };
    let row_bytes = 8 + 4 * RowLayout::new(rule, args.dim as usize, Dtype::F32).words() as u64;
    // Three times the rows: an index is never full, and grows by segments that hold old and new for a while.
    config.memory_bytes = config.memory_bytes.max(3 * args.keys * row_bytes);
    config.spin = waiting(args.wait).spin;
    config
}

/// How both ends wait.
fn waiting(name: WaitName) -> Waiting {
    let spin = match name {
        WaitName::Poll => POLL_ALWAYS,
        WaitName::Default => ClusterConfig::default().spin,
    };
    Waiting { spin }
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

fn summarise(
    op: &'static str,
    args: &BenchArgs,
    fabric: &str,
    measured: &Measured,
    raw: &Histogram,
    bare: &[f64],
) -> BenchReport {
    let keys_per_s = histogram::median(&measured.rates);
    let bare_keys_per_s = (!bare.is_empty()).then(|| histogram::median(bare));
    let raw_microseconds = |quantile| (raw.count() > 0).then(|| raw.quantile(quantile) / 1e3);
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
            "bare_keys_per_s": bare_keys_per_s,
            "raw_p50_us": raw_microseconds(0.5),
            "raw_p99_us": raw_microseconds(0.99),
            "slowest_slice_keys_per_s": measured.rates.iter().copied().fold(f64::INFINITY, f64::min),
        }),
    }
}

fn print(report: &BenchReport, raw: &Histogram) -> io::Result<()> {
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
    if let Some(bare) = report.workload["bare_keys_per_s"].as_f64() {
        let part = 100.0 * report.keys_per_s / bare;
        writeln!(
            out,
            "bare      {:.2} M keys/s in the store alone, one thread: {part:.0} % of it",
            bare / 1e6
        )?;
    }
    if raw.count() > 0 {
        let (p50, p99) = (raw.quantile(0.5) / 1e3, raw.quantile(0.99) / 1e3);
        writeln!(
            out,
            "raw       p50 {p50:.2} us, p99 {p99:.2} us: 64 bytes there and back, waiting alike, no server"
        )?;
    }
    Ok(())
}
