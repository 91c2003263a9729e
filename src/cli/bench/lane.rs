//! `bench lane`: what a lane alone carries. One thread sends records, one on the first core copies each out of its ring
//! as a server copies it into a log, and nothing looks inside. Then 64-byte records go there and back.

use std::io::{self, Write};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use gradwire_ffi::affinity::pin_current_thread;
use serde_json::json;

use super::histogram::{Histogram, median};
use super::{SLICES, on_second_core, waiting};
use crate::app::progress::Progress;
use crate::app::report::{self, BenchReport, Origin};
use crate::cli::args::{LaneArgs, WaitName};
use crate::cli::failure::Failure;
use crate::cli::progress::Display;
use crate::cli::training::probe_all;
use crate::client::FabricChoice;
use crate::lane::{
    Backoff, Event, Fabric, FabricKind, LaneConfig, LaneEnd, LaneId, Port, Waiting, WriteError, shm, tcp,
};
use crate::wire::ids::ShardId;
use crate::wire::{HEADER_BYTES, Header, Kind, padded};

const RING_BYTES: usize = 4 << 20;
/// Payload of a round trip.
const SMALL: usize = 64;
/// `flow` of a record that the receiver answers.
const ANSWER: u64 = 1;
const PATIENCE: Duration = Duration::from_secs(10);
const NAP: Duration = Duration::from_millis(100);

pub(super) fn run(args: &LaneArgs) -> Result<(), Failure> {
    probe_all([args.report.as_deref()])?;
    let fabric = match FabricChoice::from(args.fabric) {
        FabricChoice::Tcp => FabricKind::Tcp,
        FabricChoice::Auto | FabricChoice::Shm => FabricKind::Shm,
    };
    let waiting = waiting(args.wait);
    let display = Display::start()?;
    let (ours, theirs) = ends(fabric)?;
    let mut link = Link::new(ours, waiting)?;
    let receiver = receive(theirs, waiting)?;
    let duration = Duration::from_secs_f64(args.seconds);
    let measured = on_second_core(|| {
        let rates = stream(&mut link, args.bytes as usize, duration, display.progress())?;
        Ok((rates, round_trips(&mut link, duration / 4)?))
    });
    drop(link);
    let received = receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let (rates, times) = measured?;
    received?;
    drop(display);
    let report = summarise(args, fabric, &rates, &times);
    if let Some(path) = &args.report {
        report::write(&report, path)?;
    }
    Ok(print(&report, args.bytes)?)
}

fn ends(fabric: FabricKind) -> Result<(LaneEnd, LaneEnd), Failure> {
    if fabric == FabricKind::Shm {
        return shm::pair(RING_BYTES).map_err(Failure::work);
    }
    let listener = tcp::Listener::bind("127.0.0.1:0").map_err(Failure::work)?;
    let address = listener.address().to_string();
    let deadline = Instant::now() + PATIENCE;
    let hello = tcp::Hello { cluster: 1, shard: ShardId(0), ring_bytes: RING_BYTES, flags: 0, link: None };
    let connecting = thread::spawn(move || tcp::connect(&address, &hello, deadline));
    let welcomed = match listener.accept(PATIENCE) {
        Ok(Some(incoming)) => incoming.welcome(1, LaneConfig { ring_bytes: RING_BYTES }, deadline),
        Ok(None) => {
            return Err(Failure::work(
                "the loopback connection did not come; see the limits of this machine",
            ));
        }
        Err(error) => Err(error),
    };
    let ours = connecting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    Ok((ours.map_err(Failure::work)?, welcomed.map_err(Failure::work)?.0))
}

/// One end of the lane and how it waits.
struct Link {
    port: Port,
    lane: LaneId,
    backoff: Backoff,
    events: Vec<Event>,
    payload: Vec<u8>,
}

impl Link {
    fn new(end: LaneEnd, waiting: Waiting) -> Result<Self, Failure> {
        let mut port = Port::new().map_err(Failure::work)?;
        let lane = port.adopt(end).map_err(Failure::work)?;
        Ok(Self { port, lane, backoff: Backoff::new(waiting), events: Vec::new(), payload: Vec::new() })
    }

    /// One turn, or a wait when nothing happens. False when the lane is over.
    fn turn(&mut self, idle_since: &mut Option<Instant>) -> Result<bool, Failure> {
        self.events.clear();
        self.port.poll(&mut self.events);
        if self.events.iter().any(|event| matches!(event, Event::Down { .. })) {
            return Ok(false);
        }
        if !self.events.is_empty() {
            self.backoff.busy();
            *idle_since = None;
        } else if self.backoff.idle(|| self.port.wait(NAP))
            && idle_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE
        {
            return Err(Failure::work("the other end of the lane is silent; this is a fault of gradwire"));
        }
        Ok(true)
    }

    fn send(&mut self, payload: &[u8], flow: u64) -> Result<(), Failure> {
        let header = Header { flow, ..Header::new(Kind::Push, payload.len() as u32) }.to_bytes();
        let padding = [0; 8];
        let parts = [&header, payload, &padding[..padded(payload.len()) - payload.len()]];
        let mut idle_since = None;
        loop {
            match self.port.write(self.lane, &parts, true) {
                Ok(()) => return Ok(()),
                Err(WriteError::Full) => {}
                Err(error) => return Err(Failure::work(error)),
            }
            if !self.turn(&mut idle_since)? {
                return Err(Failure::work("the lane went down"));
            }
        }
    }

    /// Takes the next record's payload out of the ring and gives its `flow`.
    fn take(&mut self) -> Option<u64> {
        let header = self.port.peek(self.lane)?;
        self.payload.resize(header.length as usize, 0);
        self.port.copy_payload(self.lane, 0, &mut self.payload);
        self.port.consume(self.lane);
        Some(header.flow)
    }

    fn await_answer(&mut self) -> Result<(), Failure> {
        let mut idle_since = None;
        self.port.flush();
        while self.take().is_none() {
            if !self.turn(&mut idle_since)? {
                return Err(Failure::work("the lane went down"));
            }
        }
        Ok(())
    }
}

/// Takes records, answers those that ask for it, and ends with the lane.
fn receive(end: LaneEnd, waiting: Waiting) -> Result<JoinHandle<Result<(), Failure>>, Failure> {
    let work = move || {
        pin_current_thread(0);
        let mut link = Link::new(end, waiting)?;
        let mut idle_since = None;
        while link.turn(&mut idle_since)? {
            let mut answers = 0;
            while let Some(flow) = link.take() {
                answers += u64::from(flow == ANSWER);
            }
            for _ in 0..answers {
                link.send(&[0; SMALL], 0)?;
            }
            link.port.flush();
        }
        Ok(())
    };
    thread::Builder::new().name("lane-receiver".into()).spawn(work).map_err(Failure::work)
}

/// Bytes of payload a second, a figure a slice: a slice ends when its last record was received and answered.
fn stream(
    link: &mut Link,
    bytes: usize,
    duration: Duration,
    progress: &Progress,
) -> Result<Vec<f64>, Failure> {
    progress.begin("lane", "bytes", None);
    let payload = vec![7; bytes];
    let began = Instant::now();
    let mut rates = Vec::new();
    while began.elapsed() < duration {
        let slice = Instant::now();
        let mut records = 1_u64;
        while slice.elapsed() < duration / SLICES {
            // The clock is read once in 16 records.
            for _ in 0..16 {
                link.send(&payload, 0)?;
            }
            records += 16;
        }
        link.send(&payload, ANSWER)?;
        link.await_answer()?;
        rates.push((records * bytes as u64) as f64 / slice.elapsed().as_secs_f64());
        progress.add(records * bytes as u64);
    }
    Ok(rates)
}

fn round_trips(link: &mut Link, duration: Duration) -> Result<Histogram, Failure> {
    let mut times = Histogram::new();
    let began = Instant::now();
    while began.elapsed() < duration {
        let sent = Instant::now();
        link.send(&[1; SMALL], ANSWER)?;
        link.await_answer()?;
        times.record(u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(times)
}

fn summarise(args: &LaneArgs, fabric: FabricKind, rates: &[f64], times: &Histogram) -> BenchReport {
    let bytes_per_s = median(rates);
    let microseconds = |quantile| Some(times.quantile(quantile) / 1e3);
    BenchReport {
        origin: Origin::here("gradwire.bench.1"),
        op: "lane",
        fabric: fabric.name().to_owned(),
        // What a stream of u64 keys with an f32 each would be.
        keys_per_s: bytes_per_s / 12.0,
        bytes_per_s,
        p50_us: microseconds(0.5),
        p99_us: microseconds(0.99),
        p999_us: microseconds(0.999),
        workload: json!({
            "record_bytes": args.bytes,
            "header_bytes": HEADER_BYTES,
            "records_per_s": bytes_per_s / args.bytes as f64,
            "round_trip_bytes": SMALL,
            "round_trips": times.count(),
            "wait": match args.wait { WaitName::Poll => "poll", WaitName::Default => "default" },
            "seconds": args.seconds,
            "slices": rates.len(),
            "slowest_slice_bytes_per_s": rates.iter().copied().fold(f64::INFINITY, f64::min),
        }),
    }
}

fn print(report: &BenchReport, record_bytes: u64) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "lane      {:.2} GB/s of payload, {:.0} records/s of {record_bytes} bytes, over {}",
        report.bytes_per_s / 1e9,
        report.bytes_per_s / record_bytes as f64,
        report.fabric
    )?;
    if let (Some(p50), Some(p99), Some(p999)) = (report.p50_us, report.p99_us, report.p999_us) {
        writeln!(out, "64 bytes  p50 {p50:.2} us, p99 {p99:.2} us, p99.9 {p999:.2} us there and back")?;
    }
    Ok(())
}
