//! A live coordinator against peers that speak something else, say half of it, or nothing: each is cut and the rest
//! is served on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use gradwire::Cluster;
use gradwire::cluster::message::{ClientHello, FromCoordinator, Timing, ToCoordinator};
use gradwire::control::protocol::{decode, encode};
use gradwire::server::coordinator::{CoordinatorConfig, CoordinatorProcess, CoordinatorStop};
use gradwire::wire::control_frame;

/// What hangs fails by this.
const WATCHDOG: Duration = Duration::from_secs(60);

struct Running {
    stop: CoordinatorStop,
    thread: Option<std::thread::JoinHandle<()>>,
    address: String,
    _store: tempfile::TempDir,
}

impl Running {
    fn start() -> Self {
        let store = tempfile::tempdir().unwrap();
        let process = CoordinatorProcess::start(&CoordinatorConfig {
            listen: "127.0.0.1:0".into(),
            store: store.path().to_owned(),
            partitions: None,
            replicas: 1,
            timing: Timing::default(),
        })
        .unwrap();
        let (stop, address) = (process.stopper(), process.address().to_string());
        let thread = std::thread::spawn(move || process.run(|_| {}).unwrap());
        Self { stop, thread: Some(thread), address, _store: store }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(WATCHDOG)).unwrap();
        stream.set_write_timeout(Some(WATCHDOG)).unwrap();
        stream
    }

    /// It answers someone who speaks properly.
    fn serves(&self) {
        let status = Cluster::status_of(&self.address, WATCHDOG).unwrap();
        assert!(!status.complete && status.servers.is_empty());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.stop();
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Everything until the coordinator closes; the reason it gave, if it gave one.
fn until_cut(mut stream: &TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => {
            let kind = error.kind();
            assert_eq!(kind, std::io::ErrorKind::ConnectionReset, "it was not cut: {error}");
        }
    }
    let mut rest = &bytes[..];
    while let Ok(Some(received)) = decode::<FromCoordinator>(rest) {
        rest = &rest[received.bytes..];
        if let FromCoordinator::Refused { reason } = received.message {
            return Some(reason);
        }
    }
    None
}

fn hello() -> Vec<u8> {
    let hello = ClientHello { client: 9, process: "a test".into(), sessions: Vec::new() };
    encode(0, 0, &ToCoordinator::Client(hello)).unwrap()
}

#[test]
fn a_peer_that_speaks_something_else_is_told_and_cut() {
    let running = Running::start();
    let good = hello();
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let mut endless = good.clone();
    endless[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    let cases: [(&str, Vec<u8>, &str); 8] = [
        ("http", b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n".to_vec(), "control protocol"),
        ("tls", b"\x16\x03\x01\x02\x00\x01".to_vec(), "control protocol"),
        ("another version", changed(4, 77), "version 77"),
        ("4 GiB", endless, "4294967295"),
        ("a bad crc", changed(good.len() - 2, b'!'), "checksum"),
        ("no json", control_frame::encode(0, 0, b"\xff\xfe").unwrap(), "cannot be read"),
        ("a message before its hello", encode(0, 0, &ToCoordinator::Heartbeat).unwrap(), "who you are"),
        (
            "another cluster",
            {
                let hello = ClientHello { client: 9, process: String::new(), sessions: Vec::new() };
                encode(77, 1, &ToCoordinator::Client(hello)).unwrap()
            },
            "cluster",
        ),
    ];
    for (what, bytes, word) in cases {
        let mut stream = running.connect();
        stream.write_all(&bytes).unwrap();
        // What it had to say is sent before the reset that bytes left unread may cause.
        if let Some(reason) = until_cut(&stream) {
            assert!(reason.contains(word), "{what}: {reason}");
        }
        running.serves();
    }
}

#[test]
fn half_a_message_and_then_nothing_is_cut() {
    let running = Running::start();
    let good = hello();
    for whole_hello in [false, true] {
        let mut stream = running.connect();
        if whole_hello {
            stream.write_all(&good).unwrap();
        }
        stream.write_all(&good[..good.len() / 2]).unwrap();
        let reason = until_cut(&stream).expect("a reason is given");
        let word = if whole_hello { "rest of a message" } else { "hello" };
        assert!(reason.contains(word), "{reason}");
        running.serves();
    }
}

#[test]
fn a_thousand_silent_connections_are_cut_and_disturb_nobody() {
    gradwire_ffi::process::raise_descriptor_limit();
    let running = Running::start();
    let mut silent = Vec::new();
    for _ in 0..1000 {
        match TcpStream::connect(&running.address) {
            Ok(stream) => silent.push(stream),
            Err(error) => {
                println!("skipped case: {} connections of 1000: {error}", silent.len());
                break;
            }
        }
    }
    running.serves();
    for stream in silent {
        stream.set_read_timeout(Some(WATCHDOG)).unwrap();
        assert!(until_cut(&stream).is_some_and(|reason| reason.contains("hello")));
    }
    running.serves();
}

/// Each of its characters is longer when it is shown, so an answer that quotes it is longer than a message may be.
#[test]
fn an_answer_that_would_be_too_long_is_another_one_and_the_coordinator_lives() {
    use gradwire::cluster::message::Request;
    let running = Running::start();
    let mut stream = running.connect();
    let request = Request::Barrier { name: "\u{7f}".repeat(3 << 20), count: 0, caller: 0 };
    let request = ToCoordinator::Request { id: 1, deadline_ms: 60_000, request };
    stream.write_all(&[hello(), encode(0, 0, &request).unwrap()].concat()).unwrap();
    let (mut answers, mut room) = (Vec::new(), [0; 4096]);
    let answer = loop {
        let read = stream.read(&mut room).unwrap();
        assert_ne!(read, 0, "it was cut");
        answers.extend_from_slice(&room[..read]);
        if let Ok(Some(received)) = decode::<FromCoordinator>(&answers) {
            answers.drain(..received.bytes);
            if let FromCoordinator::Answer { id: 1, result } = received.message {
                break result;
            }
        }
    };
    assert!(format!("{answer:?}").len() < 1000, "a long answer came");
    assert!(answer.is_err());
    running.serves();
}

#[test]
fn a_flood_of_requests_that_nobody_can_answer_is_bounded_and_disturbs_nobody() {
    use gradwire::cluster::message::Request;
    let running = Running::start();
    let mut stream = running.connect();
    stream.write_all(&hello()).unwrap();
    // There are no servers: every one of them waits.
    let flood = 10_000u64;
    let mut bytes = Vec::new();
    for id in 1..=flood {
        let request = ToCoordinator::Request { id, deadline_ms: 3_600_000, request: Request::BeginSession };
        bytes.extend(encode(0, 0, &request).unwrap());
    }
    let mut writing = stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || drop(writing.write_all(&bytes)));
    // The answers are those to the ones beyond the bound.
    let mut answers = Vec::new();
    let mut room = [0; 4096];
    let mut refused = 0;
    while refused < flood - (1 << 11) {
        let read = stream.read(&mut room).unwrap();
        assert_ne!(read, 0, "it was cut");
        answers.extend_from_slice(&room[..read]);
        let mut used = 0;
        while let Some(received) = decode::<FromCoordinator>(&answers[used..]).unwrap() {
            used += received.bytes;
            refused += u64::from(matches!(received.message, FromCoordinator::Answer { result: Err(_), .. }));
        }
        answers.drain(..used);
    }
    writer.join().unwrap();
    running.serves();
}
