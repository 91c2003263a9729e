//! Bytes on their way into a TCP socket.
//!
//! Records wait here in order when the socket takes no more, or when they may be sent together. One state record
//! at a time goes ahead of everything that waits, at the next record boundary. The peer's credit bounds owner
//! records here; bulk is taken only while all remaining credit would still fit.

use std::io::IoSlice;

use gradwire_ffi::private_ring::PrivateRing;
use gradwire_ffi::socket::Moved;

use super::driver::{Driver, Flow, Outgoing, Sending};
use super::measure::{record_bytes, to_next_record};
use crate::wire::HEADER_BYTES;

/// More parts than this are copied together first; the kernel takes 1024, and a write seldom has more than 4.
const MAX_PARTS: usize = 32;
/// Bytes of records given to the kernel at once: state goes ahead of the rest.
const MAX_POSTED: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct Outbox {
    ring: PrivateRing,
    /// Position of the first byte not sent.
    sent: u64,
    tail: u64,
    /// Start of the first record not begun, or the tail.
    boundary: u64,
    /// The state record under way, to be sent when `sent` reaches `ahead_at`.
    ahead: Vec<u8>,
    ahead_at: u64,
    ahead_sent: usize,
}

/// How far a send came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// Nothing waits any more.
    All,
    /// The socket takes no more now.
    Blocked,
    /// The socket failed.
    Failed(i32),
}

impl Outbox {
    pub(super) fn new(ring: PrivateRing) -> Self {
        Self { ring, sent: 0, tail: 0, boundary: 0, ahead: Vec::new(), ahead_at: 0, ahead_sent: 0 }
    }

    /// Bytes of records that wait.
    pub(super) fn pending(&self) -> usize {
        (self.tail - self.sent) as usize
    }

    /// Bytes that may be appended.
    pub(super) fn free(&self) -> usize {
        self.ring.ring_bytes() - self.pending()
    }

    /// Whether nothing waits, state included.
    pub(super) fn is_empty(&self) -> bool {
        self.sent == self.tail && self.ahead.is_empty()
    }

    /// Appends whole records.
    pub(super) fn append(&mut self, parts: &[&[u8]]) {
        self.append_from(parts, 0);
    }

    /// Appends what follows the first `skip` bytes of `parts`.
    fn append_from(&mut self, parts: &[&[u8]], mut skip: usize) {
        for part in parts {
            let here = skip.min(part.len());
            skip -= here;
            let rest = &part[here..];
            assert!(rest.len() <= self.free(), "credit bounds what waits here");
            self.ring.slice_mut(self.tail, rest.len()).copy_from_slice(rest);
            self.tail += rest.len() as u64;
        }
    }

    /// Whether a state record may be put ahead.
    pub(super) fn ahead_is_free(&self) -> bool {
        self.ahead.is_empty()
    }

    /// Puts a state record ahead of every record not begun.
    pub(super) fn put_ahead(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        assert!(self.ahead.is_empty(), "one state record at a time is under way");
        encode(&mut self.ahead);
        self.ahead_at = self.boundary;
        self.ahead_sent = 0;
    }

    /// Sends until nothing waits or the socket takes no more; notes what became of an earlier send.
    pub(super) fn send(&mut self, driver: &mut dyn Driver, flow: Flow) -> Sent {
        while !self.is_empty() {
            let before = if self.ahead.is_empty() { 0 } else { (self.ahead_at - self.sent) as usize };
            let bytes = self.pending().min(before + MAX_POSTED);
            let inserted = &self.ahead[self.ahead_sent..];
            let outgoing = Outgoing { ring: &mut self.ring, from: self.sent, bytes, inserted, before };
            match driver.send(flow, outgoing) {
                Sending::Done(Moved::Bytes(bytes)) => self.advance(bytes),
                Sending::Done(Moved::WouldBlock | Moved::End) => return Sent::Blocked,
                Sending::Done(Moved::Failed(errno)) => return Sent::Failed(errno),
                Sending::Posted(bytes) => {
                    // The kernel may send all of these: state goes after them.
                    self.raise_boundary(self.sent + bytes as u64);
                    return Sent::Blocked;
                }
            }
        }
        Sent::All
    }

    /// Sends what waits and then `parts` straight from where they lie; what does not go is appended.
    pub(super) fn send_with(&mut self, driver: &mut dyn Driver, flow: Flow, parts: &[&[u8]]) -> Sent {
        if !self.ahead.is_empty() || parts.len() >= MAX_PARTS {
            self.append(parts);
            return self.send(driver, flow);
        }
        let pending = self.pending();
        let mut slices = [IoSlice::new(&[]); MAX_PARTS + 1];
        slices[0] = IoSlice::new(self.ring.slice(self.sent, pending));
        for (slice, part) in slices[1..].iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
        }
        let first = usize::from(pending == 0);
        let moved = driver.send_now(flow, &slices[first..=parts.len()]);
        let bytes = match moved {
            Moved::Bytes(bytes) => bytes,
            Moved::WouldBlock | Moved::End => 0,
            Moved::Failed(errno) => return Sent::Failed(errno),
        };
        if bytes < pending {
            self.advance(bytes);
            self.append(parts);
            return self.send(driver, flow);
        }
        self.advance(pending);
        let direct = bytes - pending;
        let boundary = to_next_record(parts, direct);
        self.append_from(parts, direct);
        self.boundary = self.sent + boundary as u64;
        self.send(driver, flow)
    }

    fn advance(&mut self, bytes: usize) {
        let mut rest = bytes as u64;
        if !self.ahead.is_empty() {
            let before = rest.min(self.ahead_at - self.sent);
            self.sent += before;
            rest -= before;
            let ahead = rest.min((self.ahead.len() - self.ahead_sent) as u64);
            self.ahead_sent += ahead as usize;
            rest -= ahead;
            if self.ahead_sent == self.ahead.len() {
                self.ahead.clear();
                self.ahead_sent = 0;
            }
        }
        self.sent += rest;
        self.raise_boundary(self.sent);
        if self.is_empty() {
            // Start again where the cache is warm.
            self.sent = 0;
            self.tail = 0;
            self.boundary = 0;
        }
    }

    /// Moves the boundary to the first record that begins at `position` or later.
    fn raise_boundary(&mut self, position: u64) {
        // What was just sent still lies in the ring: nothing was appended over it since.
        while self.boundary < position {
            self.boundary += record_bytes(self.ring.slice(self.boundary, HEADER_BYTES)) as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::driver::Source;
    use crate::wire::{Header, Kind};
    use gradwire_ffi::MachineError;
    use gradwire_ffi::event::Ready;
    use gradwire_ffi::private_ring::Loan;
    use proptest::prelude::*;
    use std::time::Duration;

    const FLOW: Flow = Flow(0);

    /// Takes as many bytes as the script says, call by call; or borrows them and tells how many with the next call.
    struct Script {
        posts: bool,
        room: Vec<usize>,
        taken: Vec<u8>,
        posted: Option<(Loan, Vec<u8>, usize)>,
    }

    impl Script {
        fn new(posts: bool, room: Vec<usize>) -> Self {
            Self { posts, room, taken: Vec::new(), posted: None }
        }

        fn take(&mut self, all: &[u8]) -> Moved {
            let bytes = self.room.pop().unwrap_or(0).min(all.len());
            self.taken.extend(&all[..bytes]);
            if bytes == 0 { Moved::WouldBlock } else { Moved::Bytes(bytes) }
        }
    }

    impl Driver for Script {
        fn watch(&mut self, _: Source, _: u64) -> Result<Flow, MachineError> {
            Ok(FLOW)
        }
        fn attach(&mut self, _: Source, _: u64) -> Result<Flow, MachineError> {
            Ok(FLOW)
        }
        fn detach(&mut self, _: Flow) {}
        fn arm(&mut self, _: Flow, _: &mut PrivateRing, _: u64, _: usize) {}
        fn receive(&mut self, _: Flow, _: &mut PrivateRing, _: u64, _: usize) -> Option<Moved> {
            None
        }
        fn send(&mut self, _: Flow, outgoing: Outgoing<'_>) -> Sending {
            let Outgoing { ring, from, bytes, inserted, before } = outgoing;
            if let Some((loan, all, _)) = self.posted.take() {
                ring.take_back(loan);
                return Sending::Done(self.take(&all));
            }
            let mut all = ring.slice(from, bytes).to_vec();
            all.splice(before..before, inserted.iter().copied());
            if self.posts && bytes > 0 && self.room.last().is_some_and(|room| room % 2 == 0) {
                self.posted = Some((ring.lend(from, bytes, false), all, bytes));
                return Sending::Posted(bytes);
            }
            Sending::Done(self.take(&all))
        }
        fn send_now(&mut self, _: Flow, parts: &[IoSlice<'_>]) -> Moved {
            if self.posted.is_some() {
                return Moved::WouldBlock;
            }
            let all: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
            self.take(&all)
        }
        fn receives_by_itself(&self) -> bool {
            self.posts
        }
        fn has_news(&mut self) -> bool {
            false
        }
        fn has_queued(&self) -> bool {
            false
        }
        fn wait(&mut self, _: Duration, _: &mut Vec<Ready>) {}
    }

    fn record(kind: Kind, fill: u8, length: usize) -> Vec<u8> {
        let header = Header::new(kind, length as u32);
        let mut bytes = header.to_bytes().to_vec();
        bytes.resize(header.record_bytes(), fill);
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn records_leave_in_order_and_state_between_them_however_the_socket_cuts(
            posts in any::<bool>(),
            steps in prop::collection::vec((0u8..4, 1usize..2000, prop::collection::vec(0usize..3000, 0..4)), 1..60),
        ) {
            let mut outbox = Outbox::new(PrivateRing::create(64 << 10).unwrap());
            let mut script = Script::new(posts, Vec::new());
            let (mut written, mut states) = (Vec::new(), 0);
            for (at, (what, length, room)) in steps.iter().enumerate() {
                script.room.clone_from(room);
                let bytes = record(Kind::Push, at as u8, *length);
                let fits = outbox.free() >= bytes.len();
                match what {
                    0 if outbox.ahead_is_free() => {
                        outbox.put_ahead(|out| *out = record(Kind::State, at as u8, 16));
                        states += 1;
                    }
                    1 if fits => { outbox.append(&[&bytes]); written.push((at as u8, *length)); }
                    2 if fits => {
                        outbox.send_with(&mut script, FLOW, &[&bytes[..84], &bytes[84..]]);
                        written.push((at as u8, *length));
                    }
                    _ => { outbox.send(&mut script, FLOW); }
                }
            }
            script.room = vec![usize::MAX; 100];
            while outbox.send(&mut script, FLOW) != Sent::All {}
            let (mut rest, mut got, mut seen_states) = (&script.taken[..], Vec::new(), 0);
            while !rest.is_empty() {
                let header = Header::read(rest[..HEADER_BYTES].try_into().unwrap()).unwrap();
                if header.kind == Kind::State { seen_states += 1 } else {
                    got.push((rest[HEADER_BYTES], header.length as usize));
                }
                rest = &rest[header.record_bytes()..];
            }
            prop_assert_eq!(got, written);
            prop_assert_eq!(seen_states, states);
        }
    }

    #[test]
    fn state_goes_ahead_of_every_record_not_begun() {
        let mut outbox = Outbox::new(PrivateRing::create(64 << 10).unwrap());
        let mut script = Script::new(false, vec![10]);
        for fill in 1..=3 {
            outbox.append(&[&record(Kind::Push, fill, 8)]);
        }
        assert_eq!(outbox.send(&mut script, FLOW), Sent::Blocked);
        outbox.put_ahead(|out| *out = record(Kind::State, 9, 16));
        script.room = vec![usize::MAX];
        assert_eq!(outbox.send(&mut script, FLOW), Sent::All);
        let kinds: Vec<u8> = [0, 88, 88 + 96].iter().map(|at| script.taken[at + HEADER_BYTES]).collect();
        assert_eq!(kinds, [1, 9, 2]);
    }

    #[test]
    fn state_goes_after_all_that_the_kernel_was_given() {
        let mut outbox = Outbox::new(PrivateRing::create(64 << 10).unwrap());
        let mut script = Script::new(true, vec![1000]);
        for fill in 1..=2 {
            outbox.append(&[&record(Kind::Push, fill, 8)]);
        }
        assert_eq!(outbox.send(&mut script, FLOW), Sent::Blocked);
        outbox.append(&[&record(Kind::Push, 3, 8)]);
        outbox.put_ahead(|out| *out = record(Kind::State, 9, 16));
        // What was given is over in two pieces; the second and the rest go at once.
        script.room = vec![usize::MAX, usize::MAX, 90];
        assert_eq!(outbox.send(&mut script, FLOW), Sent::All);
        let kinds: Vec<u8> =
            [0, 88, 2 * 88, 2 * 88 + 96].iter().map(|at| script.taken[at + HEADER_BYTES]).collect();
        assert_eq!(kinds, [1, 2, 9, 3]);
    }
}
