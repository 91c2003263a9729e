//! The raw limit of `bench latency`: 64 bytes there and back between two threads that wait as the bench does, over a bare
//! loopback socket, or over two cache lines with the futex behind `park` for sleeping. No records, credits or checks.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use gradwire_ffi::affinity::pin_current_thread;
use gradwire_ffi::socket::wait_readable;

use super::histogram::Histogram;
use super::on_second_core;
use crate::cli::failure::Failure;
use crate::lane::{Backoff, FabricKind, Waiting};

const MESSAGE: usize = 64;
const WORDS: usize = MESSAGE / 8;
/// Longest sleep before the other end is looked for.
const NAP: Duration = Duration::from_millis(100);
/// Longest silence of the other end.
const PATIENCE: Duration = Duration::from_secs(10);

/// One end; the other end's thread is the other user.
trait End: Send {
    fn send(&mut self, message: &[u64; WORDS]) -> io::Result<()>;
    /// Takes the next message if it is there; none when it is not, an error when the other end is gone.
    fn try_receive(&mut self) -> io::Result<Option<[u64; WORDS]>>;
    /// Sleeps until a message may be there.
    fn sleep(&mut self);
}

/// Adds round trips for `duration` between this thread and one on the first core, where the bench's server runs.
pub(super) fn raw(
    fabric: FabricKind,
    waiting: Waiting,
    duration: Duration,
    times: &mut Histogram,
) -> Result<(), Failure> {
    match fabric {
        FabricKind::Tcp => {
            let listener = TcpListener::bind("127.0.0.1:0").map_err(Failure::work)?;
            let ours = TcpStream::connect(listener.local_addr().map_err(Failure::work)?);
            let ours = Socket::new(ours.map_err(Failure::work)?);
            let theirs = Socket::new(listener.accept().map_err(Failure::work)?.0);
            play(ours.map_err(Failure::work)?, theirs.map_err(Failure::work)?, waiting, duration, times)
        }
        FabricKind::Shm => {
            let lines = Arc::new([Line::default(), Line::default()]);
            let end = |own| Memory { lines: Arc::clone(&lines), own, seen: 0, sent: 0 };
            play(end(0), end(1), waiting, duration, times)
        }
    }
}

fn play(
    mut ours: impl End,
    mut theirs: impl End + 'static,
    waiting: Waiting,
    duration: Duration,
    times: &mut Histogram,
) -> Result<(), Failure> {
    let over = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&over);
    let echo = thread::Builder::new().name("ping-pong".into()).spawn(move || {
        pin_current_thread(0);
        while let Some(message) = receive(&mut theirs, waiting, &ended)? {
            theirs.send(&message)?;
        }
        io::Result::Ok(())
    });
    let echo = echo.map_err(Failure::work)?;
    let ping = || {
        let began = Instant::now();
        let mut number = 0;
        while began.elapsed() < duration {
            number += 1;
            let sent = Instant::now();
            ours.send(&[number; WORDS]).map_err(Failure::work)?;
            let back = receive(&mut ours, waiting, &over).map_err(Failure::work)?;
            times.record(u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX));
            if back != Some([number; WORDS]) {
                return Err(Failure::work("a ping came back as another one"));
            }
        }
        Ok(())
    };
    let outcome = on_second_core(ping);
    over.store(true, Ordering::Release);
    echo.thread().unpark();
    drop(ours);
    let echoed = echo.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    outcome.and(echoed.map_err(Failure::work))
}

/// Waits for a message as a shard or a client waits; none when the game is over.
fn receive(end: &mut impl End, waiting: Waiting, over: &AtomicBool) -> io::Result<Option<[u64; WORDS]>> {
    let mut backoff = Backoff::new(waiting);
    let (mut began, mut turns) = (None, 0_u32);
    loop {
        match end.try_receive() {
            Ok(Some(message)) => return Ok(Some(message)),
            Ok(None) => {}
            Err(_) if over.load(Ordering::Acquire) => return Ok(None),
            Err(error) => return Err(error),
        }
        let slept = backoff.idle(|| end.sleep());
        turns = turns.wrapping_add(1);
        if slept || turns.is_multiple_of(1 << 12) {
            if over.load(Ordering::Acquire) {
                return Ok(None);
            }
            if began.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                return Err(io::Error::new(ErrorKind::TimedOut, "the other end of the ping-pong is silent"));
            }
        }
    }
}

struct Socket {
    stream: TcpStream,
    room: [u8; MESSAGE],
    filled: usize,
}

impl Socket {
    fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, room: [0; MESSAGE], filled: 0 })
    }
}

impl End for Socket {
    fn send(&mut self, message: &[u64; WORDS]) -> io::Result<()> {
        let mut bytes = [0; MESSAGE];
        for (part, word) in bytes.chunks_exact_mut(8).zip(message) {
            part.copy_from_slice(&word.to_le_bytes());
        }
        // One message under way: the socket's buffer is empty.
        self.stream.write_all(&bytes)
    }

    fn try_receive(&mut self) -> io::Result<Option<[u64; WORDS]>> {
        match self.stream.read(&mut self.room[self.filled..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => self.filled += bytes,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        if self.filled < MESSAGE {
            return Ok(None);
        }
        self.filled = 0;
        let mut message = [0; WORDS];
        for (word, part) in message.iter_mut().zip(self.room.as_chunks().0) {
            *word = u64::from_le_bytes(*part);
        }
        Ok(Some(message))
    }

    fn sleep(&mut self) {
        // A failure shows with the next read.
        wait_readable(&self.stream, NAP).ok();
    }
}

/// A message and its number in one line, with the thread to wake in another.
#[derive(Default)]
#[repr(align(128))]
struct Line {
    words: [AtomicU64; WORDS],
    sleeper: std::sync::Mutex<Option<Thread>>,
    asleep: AtomicBool,
}

struct Memory {
    lines: Arc<[Line; 2]>,
    own: usize,
    seen: u64,
    sent: u64,
}

impl End for Memory {
    fn send(&mut self, message: &[u64; WORDS]) -> io::Result<()> {
        let line = &self.lines[1 - self.own];
        for (word, value) in line.words[1..].iter().zip(&message[1..]) {
            word.store(*value, Ordering::Relaxed);
        }
        self.sent += 1;
        line.words[0].store(self.sent, Ordering::Release);
        // With the sleeper's fence: one of the two sees the other's write.
        fence(Ordering::SeqCst);
        if line.asleep.load(Ordering::Relaxed)
            && let Ok(sleeper) = line.sleeper.lock()
            && let Some(thread) = &*sleeper
        {
            thread.unpark();
        }
        Ok(())
    }

    fn try_receive(&mut self) -> io::Result<Option<[u64; WORDS]>> {
        let line = &self.lines[self.own];
        if line.words[0].load(Ordering::Acquire) == self.seen {
            return Ok(None);
        }
        self.seen += 1;
        let mut message = [self.seen; WORDS];
        for (value, word) in message[1..].iter_mut().zip(&line.words[1..]) {
            *value = word.load(Ordering::Relaxed);
        }
        Ok(Some(message))
    }

    fn sleep(&mut self) {
        let line = &self.lines[self.own];
        if let Ok(mut sleeper) = line.sleeper.lock() {
            sleeper.get_or_insert_with(thread::current);
        }
        line.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if line.words[0].load(Ordering::Acquire) == self.seen {
            thread::park_timeout(NAP);
        }
        line.asleep.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_come_back_however_the_ends_wait() {
        for fabric in [FabricKind::Shm, FabricKind::Tcp] {
            for waiting in [Waiting::POLL, Waiting::BLOCK, Waiting::default()] {
                let mut times = Histogram::new();
                let played = raw(fabric, waiting, Duration::from_millis(5), &mut times);
                assert!(played.is_ok(), "{fabric:?} {waiting:?}: {played:?}");
                assert!(times.count() > 0 && times.quantile(0.5) > 0.0);
            }
        }
    }
}
