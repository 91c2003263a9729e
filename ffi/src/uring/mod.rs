//! io_uring: operations on sockets that own what they touch until the kernel is done with it.
//!
//! # Soundness
//! The kernel reads or writes an operation's memory from its submission to its last completion, whatever this
//! process does meanwhile. So every operation owns, in the table `ops`, all that it names: the bytes as a
//! [`Loan`] (mapped while it lives, and no slices of them), the gather list and state bytes in a box, and the
//! file as a shared [`Source`], so that the number in the entry cannot come to mean another file. An entry of the table is
//! freed, and its loan handed out, only when the kernel's last completion for it (no `F_MORE`) was read; numbers
//! carry a generation, so a completion is never taken for another's. Dropping a ring cancels and reads the completions of
//! everything in flight; what the kernel does not give back in time is leaked, with its mapping, never freed.
//! A ring is used by one thread at a time (`&mut self`); one set up as [`Threading::Pinned`] by one thread for
//! ever, which the kernel checks. The tests that drop a ring with receives in flight would notice a missing part.

mod deny;
mod setup;

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use io_uring::squeue::Entry;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode};
use rustix::io::Errno;

use crate::private_ring::Loan;
use crate::socket::Moved;

pub use deny::deny_io_uring;
pub use setup::{SetupMode, Threading};

/// A descriptor that operations share with their owner.
pub type Source = Arc<dyn AsFd + Send + Sync>;

/// Completions of cancellations: nobody waits for them.
const NOBODY: u64 = u64::MAX;
/// Longest wait for the kernel to give back what was cancelled; it answers at once unless the machine is stuck.
const CANCEL_PATIENCE: Duration = Duration::from_secs(1);

/// An operation in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpId {
    index: u32,
    generation: u32,
}

impl OpId {
    fn user_data(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    fn of(user_data: u64) -> Self {
        Self { index: user_data as u32, generation: (user_data >> 32) as u32 }
    }
}

/// What happened to an operation; `key` is what it was posted with.
#[derive(Debug)]
pub enum Completed {
    /// A watched descriptor stirred. It is watched on.
    Stirred {
        /// The operation's key.
        key: u64,
        /// The other side is gone or has failed.
        hung_up: bool,
    },
    /// A receive ended; [`Moved::WouldBlock`] when it was cancelled.
    Received {
        /// The operation's key.
        key: u64,
        /// Its memory.
        loan: Loan,
        /// What came.
        moved: Moved,
    },
    /// A send ended; [`Moved::WouldBlock`] when it was cancelled.
    Sent {
        /// The operation's key.
        key: u64,
        /// Its memory; none of a copy.
        loan: Option<Loan>,
        /// What went, the inserted bytes counted where they lie.
        moved: Moved,
    },
    /// A watch that was cancelled is over.
    Unwatched {
        /// The operation's key.
        key: u64,
    },
}

/// What a gathered send points to; boxed, so that it stays where it is.
struct Gather {
    inserted: Vec<u8>,
    parts: [libc::iovec; 3],
    message: libc::msghdr,
}

// SAFETY: the pointers inside lead to this box's own parts and bytes and to the mapping that the operation's loan holds;
// none belongs to a thread, and only the kernel follows them.
unsafe impl Send for Gather {}

enum Work {
    Free,
    Watch { cancelled: bool },
    Receive(Loan),
    Send(Option<Loan>, Option<Box<Gather>>),
}

struct Op {
    generation: u32,
    key: u64,
    source: Option<Source>,
    work: Work,
}

/// One thread's io_uring.
pub struct Uring {
    ring: IoUring,
    ops: Vec<Op>,
    free: Vec<u32>,
    /// Boxes for gathered sends, to be used again.
    #[allow(clippy::vec_box, reason = "the kernel is given addresses inside the boxes")]
    boxes: Vec<Box<Gather>>,
    /// Entries queued and not submitted.
    queued: usize,
    mode: SetupMode,
    /// Who set it up.
    thread: ThreadId,
    enters: u64,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring").field("mode", &self.mode).field("in_flight", &self.in_flight()).finish()
    }
}

impl Uring {
    fn over(ring: IoUring, mode: SetupMode) -> Self {
        Self {
            ring,
            ops: Vec::new(),
            free: Vec::new(),
            boxes: Vec::new(),
            queued: 0,
            mode,
            thread: thread::current().id(),
            enters: 0,
        }
    }

    /// How the kernel runs it.
    #[must_use]
    pub fn mode(&self) -> SetupMode {
        self.mode
    }

    /// Operations that the kernel has not given back.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.ops.len() - self.free.len()
    }

    /// System calls made.
    #[must_use]
    pub fn enters(&self) -> u64 {
        self.enters
    }

    /// Reports each time `source` becomes readable or hangs up, from the next submission until it is cancelled.
    pub fn watch(&mut self, source: Source, key: u64) -> OpId {
        let id = self.put(key, source, Work::Watch { cancelled: false });
        self.arm_watch(id);
        id
    }

    /// Receives into the loan, which must be one for writing.
    pub fn receive(&mut self, source: Source, loan: Loan, key: u64) -> OpId {
        assert!(loan.for_writing(), "the kernel writes what it receives");
        let bytes = u32::try_from(loan.bytes()).unwrap_or(u32::MAX);
        let entry = opcode::Recv::new(fd_of(&source), loan.start(), bytes).build();
        let id = self.put(key, source, Work::Receive(loan));
        self.push(&entry.user_data(id.user_data()));
        id
    }

    /// Sends the loan's bytes, with `inserted` after the first `before` of them. One send of a socket at a time, or their
    /// order is lost.
    ///
    /// # Panics
    /// When `before` exceeds the loan.
    pub fn send(&mut self, source: Source, loan: Loan, inserted: &[u8], before: usize, key: u64) -> OpId {
        let flags = libc::MSG_NOSIGNAL;
        let fd = fd_of(&source);
        if inserted.is_empty() {
            let bytes = u32::try_from(loan.bytes()).unwrap_or(u32::MAX);
            let entry = opcode::Send::new(fd, loan.start(), bytes).flags(flags).build();
            let id = self.put(key, source, Work::Send(Some(loan), None));
            self.push(&entry.user_data(id.user_data()));
            return id;
        }
        let mut gather = self.boxes.pop().unwrap_or_else(Gather::new);
        gather.fill(Some(&loan), inserted, before);
        self.send_gathered(source, Some(loan), gather, key)
    }

    /// Sends a copy of `bytes`. Of the socket's sends one at a time, as [`Uring::send`].
    pub fn send_copy(&mut self, source: Source, bytes: &[u8], key: u64) -> OpId {
        let mut gather = self.boxes.pop().unwrap_or_else(Gather::new);
        gather.fill(None, bytes, 0);
        self.send_gathered(source, None, gather, key)
    }

    fn send_gathered(&mut self, source: Source, loan: Option<Loan>, gather: Box<Gather>, key: u64) -> OpId {
        let flags = libc::MSG_NOSIGNAL as u32;
        let entry = opcode::SendMsg::new(fd_of(&source), &raw const gather.message).flags(flags).build();
        let id = self.put(key, source, Work::Send(loan, Some(gather)));
        self.push(&entry.user_data(id.user_data()));
        id
    }

    /// Asks for the end of an operation; its completion follows, unless it is on its way.
    pub fn cancel(&mut self, id: OpId) {
        let Some(op) = self.ops.get_mut(id.index as usize).filter(|op| op.generation == id.generation) else {
            return;
        };
        match &mut op.work {
            Work::Free => return,
            Work::Watch { cancelled } => *cancelled = true,
            Work::Receive(_) | Work::Send(..) => {}
        }
        let entry = opcode::AsyncCancel::new(id.user_data()).build();
        self.push(&entry.user_data(NOBODY));
    }

    /// Whether [`Uring::poll`] would find something; looks at shared memory only.
    #[inline]
    #[must_use]
    pub fn has_news(&mut self) -> bool {
        let submission = self.ring.submission();
        let due = submission.taskrun() || submission.cq_overflow();
        drop(submission);
        due || !self.ring.completion().is_empty()
    }

    /// Whether something waits to be submitted.
    #[inline]
    #[must_use]
    pub fn has_queued(&self) -> bool {
        self.queued > 0
    }

    /// Submits what is queued, and appends what completed; at most one system call, none when nothing is due.
    #[inline]
    pub fn poll(&mut self, completed: &mut Vec<Completed>) {
        if self.queued > 0 || self.kernel_has_work() {
            self.enter(0, Duration::ZERO);
        }
        self.reap(completed);
    }

    /// As [`Uring::poll`], but waits up to `timeout` for a completion.
    pub fn wait(&mut self, timeout: Duration, completed: &mut Vec<Completed>) {
        let before = completed.len();
        self.reap(completed);
        if completed.len() > before {
            return self.poll(completed);
        }
        self.enter(1, timeout);
        self.reap(completed);
    }

    /// Waits, for a bounded time, until these operations have ended; the completions of all are appended.
    /// True when they have; otherwise they end later, and keep what they own until then.
    pub fn settle(&mut self, ids: &[OpId], completed: &mut Vec<Completed>) -> bool {
        let deadline = Instant::now() + CANCEL_PATIENCE;
        loop {
            self.poll(completed);
            if !ids.iter().any(|id| self.is_in_flight(*id)) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.enter(1, left);
        }
    }

    fn is_in_flight(&self, id: OpId) -> bool {
        self.ops
            .get(id.index as usize)
            .is_some_and(|op| op.generation == id.generation && !matches!(op.work, Work::Free))
    }

    /// Enters an operation in the table.
    fn put(&mut self, key: u64, source: Source, work: Work) -> OpId {
        if let Some(index) = self.free.pop() {
            let op = &mut self.ops[index as usize];
            (op.key, op.source, op.work) = (key, Some(source), work);
            return OpId { index, generation: op.generation };
        }
        let index = u32::try_from(self.ops.len()).unwrap_or(u32::MAX);
        assert!(index < u32::MAX, "operations are numbered in 32 bits");
        self.ops.push(Op { generation: 0, key, source: Some(source), work });
        OpId { index, generation: 0 }
    }

    fn arm_watch(&mut self, id: OpId) {
        let Some(source) = &self.ops[id.index as usize].source else { return };
        let events = (libc::POLLIN | libc::POLLRDHUP) as u32;
        let entry = opcode::PollAdd::new(fd_of(source), events).multi(true).build();
        self.push(&entry.user_data(id.user_data()));
    }

    /// Queues an entry; submits first when the queue is full.
    fn push(&mut self, entry: &Entry) {
        let mut tries = 0;
        loop {
            // SAFETY: all that the entry points to (loan, gather list, file) is owned by its operation, which `put` entered
            // in the table before, or the entry points to nothing (watches, cancellations); see the module's essay.
            let pushed = unsafe { self.ring.submission().push(entry) };
            if pushed.is_ok() {
                self.queued += 1;
                return;
            }
            assert!(tries < 1000, "the kernel takes what is submitted");
            tries += 1;
            self.enter(0, Duration::ZERO);
        }
    }

    #[inline]
    fn kernel_has_work(&mut self) -> bool {
        let submission = self.ring.submission();
        submission.taskrun() || submission.cq_overflow()
    }

    /// One system call: submits, runs what the kernel left to this thread, waits for `want` completions.
    fn enter(&mut self, want: usize, timeout: Duration) {
        self.enters += 1;
        let timeout = Timespec::from(timeout.min(Duration::from_secs(1 << 30)));
        let entered = if want > 0 {
            self.ring.submitter().submit_with_args(want, &SubmitArgs::new().timespec(&timeout))
        } else {
            self.ring.submitter().submit()
        };
        if let Err(error) = entered {
            let errno = error
                .raw_os_error()
                .and_then(|errno| Errno::from_io_error(&std::io::Error::from_raw_os_error(errno)));
            // Over in time, interrupted, or short of memory or room for completions: the owner comes again.
            let passing = [Errno::TIME, Errno::INTR, Errno::BUSY, Errno::AGAIN, Errno::NOMEM];
            assert!(
                errno.is_some_and(|errno| passing.contains(&errno)),
                "io_uring_enter failed ({error}): a pinned port is used by the thread that made it alone"
            );
        }
        self.queued = self.ring.submission().len();
    }

    /// Takes all completions that are there.
    #[inline]
    fn reap(&mut self, completed: &mut Vec<Completed>) {
        while let Some(entry) = self.next_completion() {
            if entry.user_data() != NOBODY {
                self.on_completion(&entry, completed);
            }
        }
    }

    #[inline]
    fn next_completion(&mut self) -> Option<cqueue::Entry> {
        self.ring.completion().next()
    }

    fn on_completion(&mut self, entry: &cqueue::Entry, completed: &mut Vec<Completed>) {
        let id = OpId::of(entry.user_data());
        let op = &mut self.ops[id.index as usize];
        assert!(op.generation == id.generation, "a completion belongs to an operation in flight");
        let key = op.key;
        if let Work::Watch { cancelled } = op.work {
            let result = entry.result();
            let ended = !cqueue::more(entry.flags());
            let hung_up = result > 0
                && result & i32::from(libc::POLLHUP | libc::POLLERR | libc::POLLRDHUP) != 0
                || result < 0 && result != -libc::ECANCELED;
            if !cancelled {
                completed.push(Completed::Stirred { key, hung_up });
            }
            if ended && cancelled {
                self.release(id.index);
                completed.push(Completed::Unwatched { key });
            } else if ended && (result >= 0 || result == -libc::ECANCELED) {
                // Completions overflowed, or the thread that posted it has ended.
                self.arm_watch(id);
            } else if ended {
                // The descriptor cannot be watched; told above, and parked until it is cancelled.
                self.release(id.index);
                completed.push(Completed::Unwatched { key });
            }
            return;
        }
        let done = match self.release(id.index) {
            Work::Receive(loan) => Completed::Received { key, loan, moved: received(entry.result()) },
            Work::Send(loan, gather) => {
                self.boxes.extend(gather);
                Completed::Sent { key, loan, moved: sent(entry.result()) }
            }
            Work::Free | Work::Watch { .. } => return,
        };
        completed.push(done);
    }

    /// Frees an entry of the table after its last completion.
    fn release(&mut self, index: u32) -> Work {
        let op = &mut self.ops[index as usize];
        op.generation = op.generation.wrapping_add(1) & 0x7fff_ffff;
        op.source = None;
        self.free.push(index);
        std::mem::replace(&mut op.work, Work::Free)
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let ids: Vec<OpId> = (0u32..)
            .zip(&self.ops)
            .filter(|(_, op)| !matches!(op.work, Work::Free))
            .map(|(index, op)| OpId { index, generation: op.generation })
            .collect();
        // From another thread than a pinned ring's own the kernel takes nothing: then everything is leaked.
        let own = self.mode != SetupMode::Deferred || self.thread == thread::current().id();
        let usable = own && self.ring.submitter().submit().is_ok();
        if usable && !ids.is_empty() {
            let mut completed = Vec::new();
            for id in &ids {
                self.cancel(*id);
            }
            self.settle(&ids, &mut completed);
        }
        if self.in_flight() > 0 {
            std::mem::forget(std::mem::take(&mut self.ops));
        }
    }
}

impl Gather {
    fn new() -> Box<Self> {
        let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: `msghdr` is integers and pointers, of which zero is a valid value.
        let message = unsafe { std::mem::zeroed() };
        Box::new(Self { inserted: Vec::new(), parts: [empty; 3], message })
    }

    /// The loan's first `before` bytes, `inserted`, the rest of the loan.
    fn fill(self: &mut Box<Self>, loan: Option<&Loan>, inserted: &[u8], before: usize) {
        let (start, bytes) = loan.map_or((std::ptr::null_mut(), 0), |loan| (loan.start(), loan.bytes()));
        assert!(before <= bytes, "the place of an insertion lies in the loan");
        self.inserted.clear();
        self.inserted.extend_from_slice(inserted);
        let middle = self.inserted.as_mut_ptr().cast();
        self.parts[0] = libc::iovec { iov_base: start.cast(), iov_len: before };
        self.parts[1] = libc::iovec { iov_base: middle, iov_len: inserted.len() };
        let rest = start.wrapping_add(before);
        self.parts[2] = libc::iovec { iov_base: rest.cast(), iov_len: bytes - before };
        self.message.msg_iov = self.parts.as_mut_ptr();
        self.message.msg_iovlen = 3;
    }
}

fn fd_of(source: &Source) -> Fd {
    Fd(source.as_fd().as_raw_fd())
}

fn received(result: i32) -> Moved {
    if result == 0 { Moved::End } else { sent(result) }
}

fn sent(result: i32) -> Moved {
    match result {
        1.. => Moved::Bytes(result as usize),
        0 => Moved::WouldBlock,
        _ if [libc::ECANCELED, libc::EAGAIN, libc::EINTR].contains(&-result) => Moved::WouldBlock,
        _ => Moved::Failed(-result),
    }
}

#[cfg(test)]
mod tests;
