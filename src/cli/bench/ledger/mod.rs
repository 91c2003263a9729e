//! `gradwire bench ledger`: pushes whose sums are known, against a cluster to which anything may happen meanwhile, and
//! at the end every key compared, exactly.
//!
//! A row is `[1, r]` with r a random integer below 64 of its own for each push, and every push covers every partition.
//! So the first column counts the pushes of a key, and the second tells a lost one from another that came twice.
//! Floats add integers exactly up to 2^24; no key may come to that.
//!
//! `book` keeps what every key should hold and judges, `traffic` sends and reads back. What nobody knows the outcome of
//! at the end may have been applied or not; between those bounds every value is right. Absent on purpose: anything
//! that makes a push lost or doubled; the tests do that to the table behind the ledger's back.

mod book;
#[cfg(test)]
mod tests;
mod traffic;

use std::io::{self, Write};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use serde_json::json;

use super::{Histogram, on_second_core};
use crate::app::publish;
use crate::app::report::{self, BenchReport, Origin};
use crate::cli::args::LedgerArgs;
use crate::cli::failure::Failure;
use crate::cli::progress::Display;
use crate::cli::training::probe_all;
use crate::client::{Add, Cluster, ClusterConfig, ConnectConfig, SparseTable};
use book::{LARGEST_RANDOM, Verdict};
use traffic::{Plan, Sent, Traffic};

/// Floats hold every integer up to here.
const EXACT: u64 = 1 << 24;
/// Pushes that cannot bring any key beyond that, all of them to one key with the largest number.
const MOST_PUSHES: u64 = EXACT / LARGEST_RANDOM;
/// How long the run waits for anything to be answered at all; far longer than any repair takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// What `bench ledger` reports: the fields of every bench, and its own.
#[derive(Debug, Serialize)]
struct LedgerReport {
    #[serde(flatten)]
    bench: BenchReport,
    /// Pushes.
    sent: u64,
    acked: u64,
    unknown: u64,
    /// Updates of keys.
    lost: u64,
    duplicated: u64,
    longest_stall_ms: f64,
}

pub(super) fn run(args: &LedgerArgs) -> Result<(), Failure> {
    if let Some(batches) = args.batches.filter(|batches| *batches > MOST_PUSHES) {
        return Err(Failure::usage(format!(
            "--batches {batches} could bring a key to 2^24, beyond which floats do not count; give at most {MOST_PUSHES}, or --seconds"
        )));
    }
    if args.batch > args.keys {
        return Err(Failure::usage(format!(
            "--batch {} distinct keys do not fit a key space of --keys {}; lower the one or raise the other",
            args.batch, args.keys
        )));
    }
    probe_all([args.report.as_deref(), args.trace.as_deref()])?;
    let display = Display::start()?;
    let cluster = match &args.cluster {
        Some(address) => {
            let config = ConnectConfig { fabric: args.fabric.into(), ..ConnectConfig::default() };
            Cluster::connect_with(address, config)?
        }
        None => Cluster::embedded(ClusterConfig {
            partitions: Some(4),
            fabric: args.fabric.into(),
            ..ClusterConfig::default()
        })?,
    };
    let name = format!("ledger-{:016x}", crate::control::random());
    let plan = Plan {
        keys: args.keys,
        batch: args.batch,
        inflight: args.inflight as usize,
        pushes: args.batches,
        duration: Duration::from_secs_f64(args.seconds),
        patience: PATIENCE,
        trace: args.trace.is_some(),
    };
    let clock = (SystemTime::now(), Instant::now());
    let (sent, verdict) = on_second_core(|| {
        let session = cluster.session()?;
        let table = session.sparse(&name, 2, Add)?;
        display.progress().begin("ledger", "pushes", args.batches);
        let mut traffic = Traffic::new(&table, &plan)?;
        let sent = traffic.send(&table, display.progress());
        display.progress().begin("reading back", "keys", Some(args.keys));
        // What ended the session that pushed does not end what is judged.
        let reader = if sent.error.is_some() { cluster.session()? } else { session.clone() };
        let found: SparseTable = reader.sparse(&name, 2, Add)?;
        let verdict = traffic.read_back(&found, display.progress())?;
        // The verdict stands whether or not its table can be cleared away.
        reader.drop_table(&name).ok();
        Ok((sent, verdict))
    })?;
    drop(display);
    if let Some(path) = &args.trace {
        publish(path, |out| trace(out, clock, &sent))?;
    }
    let report = summarise(args, &cluster, &sent, &verdict);
    if let Some(path) = &args.report {
        report::write(&report, path)?;
    }
    print(&report)?;
    match (verdict.first_wrong, sent.error) {
        (Some(wrong), _) => Err(Failure::work(format!(
            "the ledger does not balance: {wrong}; keep the servers' and coordinator's logs, and report it"
        ))),
        (None, Some(error)) => Err(Failure::work(format!("no more pushes could be sent: {error}"))),
        (None, None) => Ok(()),
    }
}

fn summarise(args: &LedgerArgs, cluster: &Cluster, sent: &Sent, verdict: &Verdict) -> LedgerReport {
    let keys_per_s = sent.keys_acked as f64 / sent.seconds.max(f64::MIN_POSITIVE);
    let microseconds = |quantile| (sent.times.count() > 0).then(|| sent.times.quantile(quantile) / 1e3);
    LedgerReport {
        bench: BenchReport {
            origin: Origin::here("gradwire.bench.1"),
            op: "ledger",
            fabric: cluster.fabric().to_owned(),
            keys_per_s,
            bytes_per_s: keys_per_s * (8 + 4 * 2) as f64,
            p50_us: microseconds(0.5),
            p99_us: microseconds(0.99),
            p999_us: microseconds(0.999),
            workload: json!({
                "keys": args.keys,
                "batch": args.batch,
                "dim": 2,
                "inflight": args.inflight,
                "optimizer": "add",
                "batches": args.batches,
                "seconds": args.seconds,
                "partitions": cluster.config().partitions,
                "sent_for_s": sent.seconds,
            }),
        },
        sent: sent.sent,
        acked: sent.acked,
        unknown: sent.sent - sent.acked,
        lost: verdict.lost,
        duplicated: verdict.duplicated,
        longest_stall_ms: sent.longest_stall.as_secs_f64() * 1e3,
    }
}

fn print(report: &LedgerReport) -> io::Result<()> {
    let LedgerReport { sent, acked, unknown, lost, duplicated, longest_stall_ms, bench } = report;
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "ledger    sent {sent}, acked {acked}, unknown {unknown} pushes, over {}\n\
         balance   lost {lost}, duplicated {duplicated} updates of keys\n\
         stall     longest {longest_stall_ms:.3} ms from a push's first send to its acknowledgement",
        bench.fabric
    )
}

/// A line a push, in microseconds of the system's clock, so that they stand beside what was done to the cluster.
fn trace(out: &mut dyn Write, (wall, start): (SystemTime, Instant), sent: &Sent) -> io::Result<()> {
    let origin = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let unix_us = |at: Instant| (origin + at.saturating_duration_since(start)).as_micros();
    writeln!(out, "push,sent_us,acked_us")?;
    for (push, (first, acked)) in sent.trace.iter().enumerate() {
        let acked = acked.map_or(String::new(), |at| unix_us(at).to_string());
        writeln!(out, "{push},{},{acked}", unix_us(*first))?;
    }
    Ok(())
}
