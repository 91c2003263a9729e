//! Claim: a lane, with its checks, credits and the receiver's copy, carries records at a good share of what a bare socket
//! (tcp) does and faster than a Unix socket (shm); a polled round trip costs little more than the cache lines or system
//! calls under it.
//!
//! Unit: payload bytes a second one way; round trips of 64-byte records as p50, p99, p99.9. Baseline: a Unix socket for the
//! shm stream; the blocking standard-library socket for a round trip over tcp. Bound: for shm a copy of the payload from
//! cache to cache of one core (the lane's bytes change cores and are copied twice), or two cache lines passed between
//! two polling threads; for tcp the standard library's loopback socket with the same bytes, as many a call as a lane
//! sends in a turn. Both ends are threads of this process on one host: shm is real shared memory, tcp is loopback and
//! no network; the two are separate claims. A stream's sample ends when the receiver has answered its last record. The
//! receiver copies each payload out of its ring once, as a server copies it into a partition's log.
//! Needs two free cores; on a busy machine the tails show the scheduler.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a bench without its lane has nothing to measure: it stops"
)]

use std::hint::{black_box, spin_loop};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use criterion::Criterion;
use gradwire::lane::{Backoff, Fabric, LaneConfig, LaneEnd, LaneId, Port, Waiting, WriteError, shm, tcp};
use gradwire::wire::ids::ShardId;
use gradwire::wire::{HEADER_BYTES, Header, Kind};
use gradwire_bench::{Claim, Work, criterion};

/// Records of one call.
const RECORDS: u64 = 64;
/// Bytes after which a sender ends its turn: what a client with several requests at hand does.
const TURN_BYTES: usize = 32 << 10;
/// Payload of a round trip.
const SMALL: usize = 64;
/// `flow` of a record that is to be answered.
const ANSWER: u64 = 1;
/// Longest time without progress.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a sleep in a wait may last.
const NAP: Duration = Duration::from_millis(100);

/// Stops a bench whose peer went silent.
struct Watchdog {
    idle: u32,
    since: Instant,
}

impl Watchdog {
    fn new() -> Self {
        Self { idle: 0, since: Instant::now() }
    }

    /// One idle turn. The clock is read once in 65,536 of them, and after a sleep.
    fn idle(&mut self, slept: bool) {
        self.idle = self.idle.wrapping_add(1);
        if slept || self.idle.is_multiple_of(1 << 16) {
            assert!(
                self.since.elapsed() < PATIENCE,
                "the other end of the lane has been silent for {PATIENCE:?}"
            );
        }
    }
}

/// One end of a lane and how it waits.
struct Link {
    port: Port,
    lane: LaneId,
    backoff: Backoff,
    events: Vec<gradwire::lane::Event>,
    payload: Vec<u8>,
}

impl Link {
    fn new(end: LaneEnd, waiting: Waiting) -> Self {
        let mut port = Port::new().expect("descriptors for a port");
        let lane = port.adopt(end).expect("a lane that is up");
        Self { port, lane, backoff: Backoff::new(waiting), events: Vec::new(), payload: Vec::new() }
    }

    /// One turn: true when something happened.
    fn turn(&mut self) -> bool {
        self.events.clear();
        self.port.poll(&mut self.events);
        !self.events.is_empty()
    }

    fn down(&self) -> bool {
        self.events.iter().any(|event| matches!(event, gradwire::lane::Event::Down { .. }))
    }

    /// Writes a record, waiting for credit; false when the lane is over.
    fn send(&mut self, header: &[u8], payload: &[u8]) -> bool {
        let mut watchdog = Watchdog::new();
        loop {
            match self.port.write(self.lane, &[header, payload], true) {
                Ok(()) => return true,
                Err(WriteError::Down) => return false,
                Err(WriteError::Full) => {}
                Err(error) => panic!("a record of {} bytes: {error}", payload.len()),
            }
            if self.turn() {
                self.backoff.busy();
            } else {
                watchdog.idle(self.backoff.idle(|| self.port.wait(NAP)));
            }
        }
    }

    /// Takes the next record's payload out; its `flow`, or none when there is no record.
    fn take(&mut self) -> Option<u64> {
        let header = self.port.peek(self.lane)?;
        self.payload.resize(header.length as usize, 0);
        self.port.copy_payload(self.lane, 0, &mut self.payload);
        self.port.consume(self.lane);
        Some(header.flow)
    }

    /// Waits for an answer.
    fn await_answer(&mut self) {
        let mut watchdog = Watchdog::new();
        while self.take().is_none() {
            if self.turn() {
                assert!(!self.down(), "the lane went down");
                self.backoff.busy();
            } else {
                watchdog.idle(self.backoff.idle(|| self.port.wait(NAP)));
            }
        }
    }
}

fn header_of(payload: usize, flow: u64) -> [u8; HEADER_BYTES] {
    Header { flow, ..Header::new(Kind::Push, payload as u32) }.to_bytes()
}

/// Takes records, answers those that ask for it, and ends with the lane.
fn receive_and_answer(end: LaneEnd, waiting: Waiting) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut link = Link::new(end, waiting);
        let answer = header_of(SMALL, 0);
        loop {
            let happened = link.turn();
            let mut taken = 0;
            while let Some(flow) = link.take() {
                taken += 1;
                if flow == ANSWER {
                    if !link.send(&answer, &[0; SMALL]) {
                        return;
                    }
                    link.port.flush();
                }
            }
            if link.down() {
                return;
            }
            if happened || taken > 0 {
                link.backoff.busy();
            } else {
                link.backoff.idle(|| link.port.wait(NAP));
            }
        }
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Carrier {
    Shm,
    Tcp,
}

/// A lane between this thread and one that takes and answers.
fn lane(carrier: Carrier, waiting: Waiting) -> (Link, JoinHandle<()>) {
    let config = LaneConfig::default();
    let (near, far) = match carrier {
        Carrier::Shm => shm::pair(config.ring_bytes).expect("shared memory for a lane"),
        Carrier::Tcp => {
            let listener = tcp::Listener::bind("127.0.0.1:0").expect("a loopback port");
            let address = listener.address().to_string();
            let deadline = Instant::now() + PATIENCE;
            let accepting = std::thread::spawn(move || {
                let incoming = listener.accept(PATIENCE).expect("a listening socket").expect("a connection");
                incoming.welcome(1, config, deadline).expect("a hello").0
            });
            let hello = tcp::Hello {
                cluster: 1,
                shard: ShardId(0),
                ring_bytes: config.ring_bytes,
                flags: 0,
                link: None,
            };
            let near = tcp::connect(&address, &hello, deadline).expect("a lane");
            (near, accepting.join().expect("the accepting thread"))
        }
    };
    (Link::new(near, waiting), receive_and_answer(far, waiting))
}

fn end(link: Link, peer: JoinHandle<()>) {
    drop(link);
    peer.join().expect("the receiving thread");
}

/// Sends `calls * RECORDS` records and waits until the last one is answered.
fn stream(link: &mut Link, payload: &[u8], calls: u64) {
    let (plain, last) = (header_of(payload.len(), 0), header_of(payload.len(), ANSWER));
    let a_turn = (TURN_BYTES / payload.len()).max(1) as u64;
    for record in 1..calls * RECORDS {
        assert!(link.send(&plain, payload), "the lane went down");
        if record % a_turn == 0 {
            link.port.flush();
        }
    }
    assert!(link.send(&last, payload), "the lane went down");
    link.port.flush();
    link.await_answer();
}

/// The receiving end of a bare stream: a count of bytes, those bytes, one byte back, until the peer hangs up.
fn take_stream(mut socket: impl Read + Write + Send + 'static) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 256 << 10];
        let mut count = [0; 8];
        while socket.read_exact(&mut count).is_ok() {
            let mut left = usize::try_from(u64::from_le_bytes(count)).expect("a count");
            while left > 0 {
                let room = left.min(buffer.len());
                match socket.read(&mut buffer[..room]) {
                    Ok(0) | Err(_) => return,
                    Ok(bytes) => left -= bytes,
                }
            }
            if socket.write_all(&[0]).is_err() {
                return;
            }
        }
    })
}

/// Sends `calls` times the bytes of `RECORDS` payloads, `piece` by `piece`.
fn send_stream(socket: &mut (impl Read + Write), payload: usize, piece: &[u8], calls: u64) {
    let bytes = calls * RECORDS * payload as u64;
    assert!(bytes.is_multiple_of(piece.len() as u64), "whole pieces");
    socket.write_all(&bytes.to_le_bytes()).expect("the peer reads");
    for _ in 0..bytes / piece.len() as u64 {
        socket.write_all(piece).expect("the peer reads");
    }
    socket.read_exact(&mut [0]).expect("the peer answers");
}

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let near = TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection");
    let (far, _) = listener.accept().expect("the connection");
    for socket in [&near, &far] {
        socket.set_nodelay(true).expect("a socket option");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    }
    (near, far)
}

fn streams(criterion: &mut Criterion) {
    for (size, bytes) in [("1 KB", 1 << 10), ("40 KB", 40 << 10)] {
        let payload = vec![7u8; bytes];
        let work = Work::Bytes(RECORDS * bytes as u64);

        let mut claim = Claim::new(criterion, format!("ring/stream/shm/{size}"), work);
        let (mut near, far) = UnixStream::pair().expect("a socket pair");
        let taking = take_stream(far);
        claim.baseline_many("Unix socket", |calls| send_stream(&mut near, bytes, &payload, calls));
        drop(near);
        taking.join().expect("the receiving thread");
        let (mut link, peer) = lane(Carrier::Shm, Waiting::default());
        claim.case_many("lane", |calls| stream(&mut link, &payload, calls));
        end(link, peer);
        let mut copy = vec![0u8; bytes];
        claim.bound("memcpy", || {
            (0..RECORDS).for_each(|_| black_box(&mut copy[..]).copy_from_slice(black_box(&payload)));
        });
        claim.finish();

        let mut claim = Claim::new(criterion, format!("ring/stream/tcp loopback/{size}"), work);
        let (mut link, peer) = lane(Carrier::Tcp, Waiting::default());
        claim.case_many("lane", |calls| stream(&mut link, &payload, calls));
        end(link, peer);
        let (mut near, far) = tcp_pair();
        let taking = take_stream(far);
        // As many bytes a system call as a lane sends in a turn.
        let turn = payload.repeat((TURN_BYTES / bytes).max(1));
        claim.bound_many("std TcpStream", |calls| send_stream(&mut near, bytes, &turn, calls));
        drop(near);
        taking.join().expect("the receiving thread");
        claim.finish();
    }
}

fn lane_round_trips(claim: &mut Claim, carrier: Carrier) {
    let ask = header_of(SMALL, ANSWER);
    for (name, waiting) in [("lane, polling", Waiting::POLL), ("lane, default waiting", Waiting::default())] {
        let (mut link, peer) = lane(carrier, waiting);
        claim.latency(name, || {
            assert!(link.send(&ask, &[1; SMALL]), "the lane went down");
            link.port.flush();
            link.await_answer();
        });
        end(link, peer);
    }
}

/// A number alone in its cache line, and out of reach of the neighbour prefetch.
#[repr(align(128))]
struct Line(AtomicU64);

/// Passes rising numbers over one line and gets them back over another: the least that two threads can do.
fn cache_lines(claim: &mut Claim) {
    const STOP: u64 = u64::MAX;
    let lines = Arc::new([Line(AtomicU64::new(0)), Line(AtomicU64::new(0))]);
    let theirs = Arc::clone(&lines);
    let peer = std::thread::spawn(move || {
        let mut seen = 0;
        loop {
            // Acquire and Release as a ring would: the numbers stand for the bytes before them.
            let asked = theirs[0].0.load(Ordering::Acquire);
            if asked == STOP {
                return;
            }
            if asked != seen {
                seen = asked;
                theirs[1].0.store(asked, Ordering::Release);
            } else {
                spin_loop();
            }
        }
    });
    let mut number = 0;
    claim.latency_bound("cache lines, polling", || {
        number += 1;
        lines[0].0.store(number, Ordering::Release);
        let mut watchdog = Watchdog::new();
        while lines[1].0.load(Ordering::Acquire) != number {
            spin_loop();
            watchdog.idle(false);
        }
    });
    lines[0].0.store(STOP, Ordering::Release);
    peer.join().expect("the answering thread");
}

/// Reads all of `bytes`, polling where the socket does not block; false when the peer hung up.
fn read_whole(socket: &mut TcpStream, bytes: &mut [u8]) -> bool {
    let (mut filled, mut watchdog) = (0, Watchdog::new());
    while filled < bytes.len() {
        match socket.read(&mut bytes[filled..]) {
            Ok(0) => return false,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => watchdog.idle(false),
            Err(_) => return false,
        }
    }
    true
}

/// A bare socket that carries as many bytes as a lane's record, there and back.
fn bare_socket(claim: &mut Claim, polling: bool) {
    let (mut near, mut far) = tcp_pair();
    for socket in [&near, &far] {
        socket.set_nonblocking(polling).expect("a socket option");
    }
    let peer = std::thread::spawn(move || {
        let mut record = [0; HEADER_BYTES + SMALL];
        // While polling, an idle peer stays in `read_whole` for less than its watchdog's patience.
        while read_whole(&mut far, &mut record) && far.write_all(&record).is_ok() {}
    });
    let mut record = [1; HEADER_BYTES + SMALL];
    let round_trip = || {
        near.write_all(&record).expect("the peer reads");
        assert!(read_whole(&mut near, &mut record), "the peer hung up");
    };
    if polling {
        claim.latency_bound("std TcpStream, polling", round_trip);
    } else {
        claim.latency_baseline("std TcpStream, blocking", round_trip);
    }
    drop(near);
    peer.join().expect("the answering thread");
}

fn round_trips(criterion: &mut Criterion) {
    let one = Work::Count(1, "round trips");
    let mut claim = Claim::new(criterion, "ring/round trip/shm", one);
    lane_round_trips(&mut claim, Carrier::Shm);
    cache_lines(&mut claim);
    claim.finish();

    let mut claim = Claim::new(criterion, "ring/round trip/tcp loopback", one);
    bare_socket(&mut claim, false);
    lane_round_trips(&mut claim, Carrier::Tcp);
    bare_socket(&mut claim, true);
    claim.finish();
}

fn main() {
    let mut criterion = criterion(Duration::from_secs(1));
    streams(&mut criterion);
    round_trips(&mut criterion);
    criterion.final_summary();
}
