//! What a TCP peer may do wrong: every case ends in a typed error or a cut lane, never in a panic or a hang.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use gradwire::lane::{DownReason, Fabric, LaneConfig, SetupError, tcp};
use gradwire::wire::ids::{RequestId, Sequence};
use gradwire::wire::{HEADER_BYTES, Header, Kind, WireError};

use crate::pairing::{CLUSTER, PATIENCE, hello};
use crate::{Dice, Side, record, watchdog};

const RING: usize = 64 << 10;

/// A connection whose far end is a plain socket, and what our handshake made of it.
fn handshake(
    patience: Duration,
    peer: impl FnOnce(TcpStream) + Send + 'static,
) -> Result<(gradwire::lane::LaneEnd, tcp::Hello), SetupError> {
    let listener = tcp::Listener::bind("127.0.0.1:0").unwrap();
    let address = listener.address();
    let peer = thread::spawn(move || peer(TcpStream::connect(address).unwrap()));
    let incoming = listener.accept(PATIENCE).unwrap().unwrap();
    let result = incoming.welcome(CLUSTER, LaneConfig { ring_bytes: RING }, Instant::now() + patience);
    peer.join().unwrap();
    result
}

fn hello_record(cluster: u64, ring_bytes: u64) -> Vec<u8> {
    let mut bytes = Header::new(Kind::Hello, 48).to_bytes().to_vec();
    for word in [cluster, ring_bytes, 0, 0, 0, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes
}

#[test]
fn a_peer_that_speaks_http_is_told_apart() {
    watchdog(|| {
        let result = handshake(PATIENCE, |mut peer| {
            let request = format!("GET / HTTP/1.1\r\nHost: here\r\nUser-Agent: {}\r\n\r\n", "x".repeat(80));
            peer.write_all(request.as_bytes()).unwrap();
            // It is closed on, not answered.
            let _ = peer.read(&mut [0; 16]);
        });
        assert!(
            matches!(result, Err(SetupError::Protocol { error: WireError::Magic { .. }, .. })),
            "{result:?}"
        );
    });
}

#[test]
fn another_version_another_cluster_and_a_wrong_ring_are_told_their_reason() {
    watchdog(|| {
        let mut version = hello_record(CLUSTER, RING as u64);
        version[4] = 99;
        let cases: [(Vec<u8>, u64); 3] = [
            (version, tcp::RejectReason::Version as u64),
            (hello_record(CLUSTER + 1, RING as u64), tcp::RejectReason::Cluster as u64),
            (hello_record(CLUSTER, u64::MAX), tcp::RejectReason::Ring as u64),
        ];
        for (hello, reason) in cases {
            let result = handshake(PATIENCE, move |mut peer| {
                peer.write_all(&hello).unwrap();
                let mut answer = [0; HEADER_BYTES + 48];
                peer.read_exact(&mut answer).unwrap();
                let header = Header::read(answer[..HEADER_BYTES].try_into().unwrap()).unwrap();
                assert_eq!(header.kind, Kind::Reject);
                assert_eq!(answer[HEADER_BYTES + 24..HEADER_BYTES + 32], reason.to_le_bytes());
            });
            assert!(
                matches!(result, Err(SetupError::Refused { .. } | SetupError::Protocol { .. })),
                "{result:?}"
            );
        }
    });
}

#[test]
fn half_a_hello_and_then_nothing_meets_the_deadline() {
    watchdog(|| {
        for bytes in [0, 1, 79, 80, 111] {
            let (done, wait) = std::sync::mpsc::channel::<()>();
            let keeper = thread::spawn(move || wait.recv());
            let result = handshake(Duration::from_millis(50), move |mut peer| {
                peer.write_all(&hello_record(CLUSTER, RING as u64)[..bytes]).unwrap();
                // The connection stays open beyond the deadline.
                std::mem::forget(peer);
            });
            assert!(matches!(result, Err(SetupError::Deadline { .. })), "{bytes}: {result:?}");
            drop(done);
            let _ = keeper.join();
        }
        let gone = handshake(PATIENCE, |mut peer| {
            peer.write_all(&hello_record(CLUSTER, RING as u64)[..40]).unwrap();
        });
        assert!(matches!(gone, Err(SetupError::Closed { .. })), "{gone:?}");
    });
}

#[test]
fn a_server_that_refuses_or_is_none_gives_a_typed_error() {
    watchdog(|| {
        let refuse = tcp::Listener::bind("127.0.0.1:0").unwrap();
        let address = refuse.address().to_string();
        let server = thread::spawn(move || {
            let incoming = refuse.accept(PATIENCE).unwrap().unwrap();
            let greeted = incoming.hello(Instant::now() + PATIENCE).unwrap();
            let _ = greeted.reject(tcp::RejectReason::Busy);
        });
        let error = tcp::connect(&address, &hello(RING), Instant::now() + PATIENCE).unwrap_err();
        assert!(matches!(error, SetupError::Rejected { reason: tcp::RejectReason::Busy, .. }), "{error}");
        server.join().unwrap();

        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let soon = Instant::now() + Duration::from_millis(50);
        let error = tcp::connect(&address, &hello(RING), soon).unwrap_err();
        assert!(matches!(error, SetupError::Deadline { .. }), "{error}");
    });
}

/// A lane whose peer is a plain socket that knows the handshake.
fn raw_peer() -> (Side, TcpStream) {
    let listener = tcp::Listener::bind("127.0.0.1:0").unwrap();
    let mut raw = TcpStream::connect(listener.address()).unwrap();
    raw.write_all(&hello_record(CLUSTER, RING as u64)).unwrap();
    let incoming = listener.accept(PATIENCE).unwrap().unwrap();
    let deadline = Instant::now() + PATIENCE;
    let (end, _) = incoming.welcome(CLUSTER, LaneConfig { ring_bytes: RING }, deadline).unwrap();
    raw.read_exact(&mut [0; HEADER_BYTES + 48]).unwrap();
    raw.set_nonblocking(false).unwrap();
    (Side::new(end), raw)
}

fn cut_by(bytes: &[u8]) -> DownReason {
    let (mut side, mut raw) = raw_peer();
    raw.write_all(&record(0, 100)).unwrap();
    // The lane may be cut before all is written.
    let _ = raw.write_all(bytes);
    side.poll_until(|side| side.down.is_some());
    assert_eq!(side.take(), Some(0), "what came whole before can be read");
    assert_eq!(side.take(), None);
    side.down.unwrap()
}

#[test]
fn bytes_that_are_no_record_cut_the_lane() {
    watchdog(|| {
        assert!(matches!(cut_by(&[0x5a; 200]), DownReason::BadRecord(WireError::Magic { .. })));
        let mut damaged = record(1, 10);
        damaged[20] ^= 1;
        assert!(matches!(cut_by(&damaged), DownReason::BadRecord(WireError::Crc { .. })));
        let huge = Header::new(Kind::Push, u32::MAX).to_bytes();
        assert!(matches!(cut_by(&huge), DownReason::RecordTooLarge { .. }));
        let bad_state = [&Header::new(Kind::State, 8).to_bytes()[..], &[0; 8]].concat();
        assert!(matches!(cut_by(&bad_state), DownReason::Impossible { .. }));
        let hello_again = hello_record(CLUSTER, RING as u64);
        assert!(matches!(cut_by(&hello_again), DownReason::BadRecord(WireError::Kind { .. })));
    });
}

#[test]
fn lane_records_that_no_correct_peer_sends_cut_the_lane() {
    watchdog(|| {
        let mut consumed_too_much = Header::new(Kind::State, 16).to_bytes().to_vec();
        consumed_too_much.extend([0xff; 16]);
        assert!(matches!(cut_by(&consumed_too_much), DownReason::Impossible { .. }));
        for (kind, length) in [(Kind::Place, 8), (Kind::Read, 24), (Kind::Read, 8), (Kind::ReadReply, 8)] {
            let header =
                Header { request: RequestId(5), sequence: Sequence(u64::MAX), ..Header::new(kind, length) };
            let bytes = [&header.to_bytes()[..], &vec![0; length as usize]].concat();
            assert!(matches!(cut_by(&bytes), DownReason::Impossible { .. }), "{kind:?}");
        }
    });
}

#[test]
fn a_peer_beyond_its_credit_is_cut() {
    watchdog(|| {
        let (mut side, mut raw) = raw_peer();
        let writer = thread::spawn(move || {
            let mut number = 0;
            while raw.write_all(&record(number, 2000)).is_ok() {
                number += 1;
            }
        });
        side.poll_until(|side| side.down.is_some());
        assert_eq!(side.down, Some(DownReason::CreditExceeded { unit: "bytes" }));
        let taken = std::iter::from_fn(|| side.take()).count();
        assert!(taken >= 16 && taken * 2080 <= RING, "{taken}");
        side.port.fence(side.lane).unwrap();
        writer.join().unwrap();
    });
}

#[test]
fn a_peer_with_too_many_small_records_is_cut() {
    watchdog(|| {
        let (mut side, mut raw) = raw_peer();
        let small: Vec<u8> = (0..600).flat_map(|number| record(number, 0)).collect();
        let _ = raw.write_all(&small);
        side.poll_until(|side| side.down.is_some());
        assert!(matches!(side.down, Some(DownReason::CreditExceeded { .. })), "{:?}", side.down);
    });
}

#[test]
fn half_a_record_and_then_the_end_is_the_end() {
    watchdog(|| {
        for bytes in [1, 79, 80, 100, 179] {
            let (mut side, mut raw) = raw_peer();
            raw.write_all(&record(0, 100)).unwrap();
            raw.write_all(&record(1, 100)[..bytes]).unwrap();
            raw.shutdown(Shutdown::Write).unwrap();
            side.poll_until(|side| side.down.is_some());
            assert_eq!(side.down, Some(DownReason::PeerClosed));
            assert_eq!((side.take(), side.take()), (Some(0), None));
        }
    });
}

#[test]
fn a_lost_state_record_is_healed_by_the_next() {
    watchdog(|| {
        let (mut side, mut raw) = raw_peer();
        let mut written = 0;
        while side.write(written, 1000, true).is_ok() {
            written += 1;
        }
        side.port.flush();
        let mut stream = vec![0; written as usize * 1080];
        raw.read_exact(&mut stream).unwrap();
        // The peer consumed a third, then all; the first of both updates never went out.
        let all = (written * 1080, written);
        let mut state = Header::new(Kind::State, 16).to_bytes().to_vec();
        state.extend(all.0.to_le_bytes());
        state.extend(all.1.to_le_bytes());
        raw.write_all(&state).unwrap();
        side.poll_until(|side| side.port.credit(side.lane) > RING / 2);
        for number in 0..written {
            assert_eq!(side.write(number, 1000, true), Ok(()));
        }
        assert!(side.write(0, 1000, true).is_err());
    });
}

#[test]
fn random_damage_to_a_stream_never_panics_and_never_invents_records() {
    watchdog(|| {
        let mut dice = Dice(4242);
        for _ in 0..60 {
            let (mut side, mut raw) = raw_peer();
            let mut stream: Vec<u8> =
                (0..20).flat_map(|number| record(number, number as usize * 9)).collect();
            let at = dice.below(stream.len());
            let header_of_damaged = stream[..at].len();
            stream[at] ^= 1 << dice.below(8);
            let _ = raw.write_all(&stream);
            drop(raw);
            side.poll_until(|side| side.down.is_some());
            let mut count = 0;
            while let Some(header) = side.port.peek(side.lane) {
                assert_eq!(header.flow, count, "damage at {header_of_damaged}");
                side.port.consume(side.lane);
                count += 1;
            }
            assert!(count <= 20);
        }
    });
}
