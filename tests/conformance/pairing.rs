//! Ways to make the two ends of a lane, and the watchdog.

use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use gradwire::lane::{LaneConfig, LaneEnd, shm, tcp};
use gradwire::wire::ids::ShardId;

/// Longer than any test takes on a busy machine; a test that needs it is hung.
const HUNG: Duration = Duration::from_secs(120);
/// For set-up steps between live peers.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Makes lanes of one fabric.
pub(crate) trait Pairing: Sync {
    fn lane(&self, ring_bytes: usize) -> (LaneEnd, LaneEnd);
}

/// Shared memory between threads.
pub(crate) struct InProcess;

impl Pairing for InProcess {
    fn lane(&self, ring_bytes: usize) -> (LaneEnd, LaneEnd) {
        shm::pair(ring_bytes).unwrap()
    }
}

/// Shared memory whose descriptors travel over a Unix socket, as between processes.
pub(crate) struct Sent;

impl Pairing for Sent {
    fn lane(&self, ring_bytes: usize) -> (LaneEnd, LaneEnd) {
        let (left, right) = UnixStream::pair().unwrap();
        let config = LaneConfig { ring_bytes };
        let offered = shm::offer(left, config).unwrap();
        (offered, shm::accept(right, config, PATIENCE).unwrap())
    }
}

/// TCP over loopback.
pub(crate) struct Tcp;

pub(crate) const CLUSTER: u64 = 77;

pub(crate) fn hello(ring_bytes: usize) -> tcp::Hello {
    tcp::Hello { cluster: CLUSTER, shard: ShardId(0), ring_bytes, flags: 0, link: None }
}

impl Pairing for Tcp {
    fn lane(&self, ring_bytes: usize) -> (LaneEnd, LaneEnd) {
        let listener = tcp::Listener::bind("127.0.0.1:0").unwrap();
        let address = listener.address().to_string();
        let deadline = Instant::now() + PATIENCE;
        let connecting = thread::spawn(move || tcp::connect(&address, &hello(ring_bytes), deadline).unwrap());
        let incoming = listener.accept(PATIENCE).unwrap().unwrap();
        let (accepted, said) = incoming.welcome(CLUSTER, LaneConfig { ring_bytes }, deadline).unwrap();
        assert_eq!(said, hello(ring_bytes));
        (connecting.join().unwrap(), accepted)
    }
}

/// Runs a test in a thread of its own and fails when it does not end.
pub(crate) fn watchdog(test: impl FnOnce() + Send + 'static) {
    let (done, over) = channel();
    let body = thread::spawn(move || {
        let result = catch_unwind(AssertUnwindSafe(test));
        let _ = done.send(());
        if let Err(panic) = result {
            resume_unwind(panic);
        }
    });
    if over.recv_timeout(HUNG) == Err(RecvTimeoutError::Timeout) {
        panic!("the test hangs");
    }
    if let Err(panic) = body.join() {
        resume_unwind(panic);
    }
}
