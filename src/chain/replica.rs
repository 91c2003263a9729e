//! One replica of one partition: decides what is ordered, and answers for it.

use thiserror::Error;

use super::admission::{AckError, Admission, ControlEntry, Outcome, PushHead, RetryReason, Verdict};
use super::batch::{BATCH_HEADER_BYTES, ENTRY_HEADER_BYTES, EntryFlags, EntryHead, EntryKind, entry_bytes};
use super::log::{FIRST_BYTES, Fit, Log};
use super::sessions::{SessionStatus, Sessions};
use crate::wire::ids::{Clock, Epoch, Lsn, PartitionId, Sequence, SessionId};
use crate::wire::{HEADER_BYTES, RefusalCode};

/// A batch is sealed before it would grow past this: large enough that headers and checksums cost nothing, small
/// enough to stay in a core's second cache level between copy and forward. A larger entry is a batch of its own.
pub const SEAL_BYTES: usize = 256 << 10;

/// Where a replica stands in its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// Head and tail of a chain of one.
    Only,
    /// Takes pushes, has successors.
    Head,
    /// Neither.
    Middle,
    /// Answers strong pulls, has predecessors.
    Tail,
}

impl Position {
    /// Whether it takes pushes.
    #[must_use]
    pub fn heads(self) -> bool {
        matches!(self, Self::Only | Self::Head)
    }

    /// Whether what it has applied is applied everywhere.
    #[must_use]
    pub fn tails(self) -> bool {
        matches!(self, Self::Only | Self::Tail)
    }
}

/// What a replica is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaConfig {
    /// The partition it holds.
    pub partition: PartitionId,
    /// The version of its chain.
    pub epoch: Epoch,
    /// Its place there.
    pub position: Position,
    /// Most bytes of batches kept for acknowledgement: a power of two. A payload may take a quarter of it.
    pub log_bytes: usize,
}

/// Why there is no such replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The log's size.
    #[error("a partition's log of {found} bytes: give a power of two from {FIRST_BYTES} to {}", 1u32 << 30)]
    LogBytes {
        /// The size given.
        found: usize,
    },
}

/// Room in the log for one admitted push. Dropping it is [`Replica::abandon`]; it is void once the replica has
/// admitted or ordered anything else.
#[derive(Debug)]
#[must_use = "commit, refuse or abandon it"]
pub struct LogSlot {
    head: PushHead,
    at: usize,
    serial: u64,
}

impl LogSlot {
    /// What was admitted.
    #[must_use]
    pub fn head(&self) -> &PushHead {
        &self.head
    }
}

/// See [`super`]. A clone is a replica of its own: model checkers go back to earlier states.
#[derive(Clone, Debug)]
pub struct Replica {
    pub(super) partition: PartitionId,
    pub(super) epoch: Epoch,
    pub(super) position: Position,
    orphan: bool,
    pub(super) lsn: Lsn,
    pub(super) acked: Lsn,
    /// Batches above are kept for a joiner.
    pub(super) kept_after: Option<Lsn>,
    max_payload: usize,
    /// Raised by everything that moves the log's end or may move its bytes.
    pub(super) serial: u64,
    pub(super) log: Log,
    pub(super) sessions: Sessions,
}

impl Replica {
    /// An empty partition: no session, no batch.
    ///
    /// # Errors
    /// [`ConfigError::LogBytes`].
    pub fn new(config: ReplicaConfig) -> Result<Self, ConfigError> {
        let log_bytes = config.log_bytes;
        if !log_bytes.is_power_of_two() || !(FIRST_BYTES..=1 << 30).contains(&log_bytes) {
            return Err(ConfigError::LogBytes { found: log_bytes });
        }
        Ok(Self {
            partition: config.partition,
            epoch: config.epoch,
            position: config.position,
            orphan: false,
            lsn: Lsn(0),
            acked: Lsn(0),
            kept_after: None,
            // A quarter: while others fill the log, a large push still finds its room soon.
            max_payload: log_bytes / 4 - BATCH_HEADER_BYTES - ENTRY_HEADER_BYTES,
            serial: 0,
            // A log is two rings and a record a quarter of one: a sealed batch, with its header, is always carried on.
            log: Log::new(log_bytes, SEAL_BYTES.min(log_bytes / 8 - HEADER_BYTES)),
            sessions: Sessions::default(),
        })
    }

    /// Decides on a push by its header. Only [`Admission::Order`] wants its payload.
    pub fn admit(&mut self, head: PushHead) -> Admission {
        match self.turn(head.session, head.sequence, head.epoch) {
            Turn::Now => {}
            Turn::Duplicate => return Admission::Duplicate,
            Turn::Retry(reason) => return Admission::Retry(reason),
            Turn::Ended => return Admission::Ended,
        }
        // A refusal may follow, and must be remembered until the client knows of it.
        if !self.sessions.get(head.session).is_some_and(|session| session.can_refuse(head.resolved)) {
            return Admission::Retry(RetryReason::RefusalsFull);
        }
        let oversize = head.bytes > self.max_payload;
        let Some(at) = self.find_room(if oversize { 0 } else { head.bytes }) else {
            return Admission::Retry(RetryReason::LogFull);
        };
        self.serial += 1;
        let slot = LogSlot { head, at, serial: self.serial };
        if oversize {
            self.refuse(slot, RefusalCode::Unsupported);
            return Admission::Refused;
        }
        Admission::Order(slot)
    }

    /// The 8-aligned room for the payload, `head.bytes` long; what it held before is undefined.
    pub fn log_mut(&mut self, slot: &LogSlot) -> &mut [u8] {
        self.check_slot(slot);
        self.log.bytes_mut(slot.at + ENTRY_HEADER_BYTES, slot.head.bytes)
    }

    /// The push is the next entry of the open batch. The caller has applied it to its store already: an entry in a
    /// batch always applies. Stochastic rounding draws from [`Self::open_lsn`].
    pub fn commit(&mut self, slot: LogSlot, flags: EntryFlags) {
        let entry = Self::entry_of(&slot, EntryKind::Push);
        let Ok(bytes) = u32::try_from(slot.head.bytes) else { unreachable!("a slot of {}", slot.head.bytes) };
        self.order(&slot, EntryHead { flags, bytes, ..entry });
        if slot.head.level == crate::wire::Level::Applied {
            self.sessions.restate(slot.head.session);
        }
    }

    /// The push can never be applied: final, ordered, and its sequence is used up by an empty entry (C3).
    pub fn refuse(&mut self, slot: LogSlot, code: RefusalCode) {
        let entry = Self::entry_of(&slot, EntryKind::Refused);
        self.order(&slot, EntryHead { refusal: Some(code), ..entry });
        if slot.head.level == crate::wire::Level::Applied {
            self.sessions.restate(slot.head.session);
        }
    }

    /// The push can't be applied now (its key list is missing): nothing has changed, the client resends in order.
    pub fn abandon(&mut self, slot: LogSlot) {
        self.check_slot(&slot);
        self.serial += 1;
    }

    /// A clock record: a push without keys, sequenced as one. A clock lower than the session's is ordered and
    /// ignored.
    pub fn clock(
        &mut self,
        session: SessionId,
        sequence: Sequence,
        epoch: Epoch,
        resolved: Sequence,
        clock: Clock,
    ) -> Verdict {
        match self.turn(session, sequence, epoch) {
            Turn::Now => {}
            Turn::Duplicate => return Verdict::Duplicate,
            Turn::Retry(reason) => return Verdict::Retry(reason),
            Turn::Ended => return Verdict::Ended,
        }
        let entry = EntryHead { session, sequence, resolved, clock, ..EntryHead::new(EntryKind::Clock) };
        self.order_bare(entry, &[])
    }

    /// An event, ordered for every replica. As with a push, the caller applies it first; to be sure that it can be
    /// ordered then, ask [`Self::has_room`] before.
    pub fn control(&mut self, event: ControlEntry<'_>) -> Verdict {
        if !self.position.heads() {
            return Verdict::Retry(RetryReason::WrongHead);
        }
        let (entry, payload): (EntryHead, &[u8]) = match event {
            ControlEntry::ClientBegan { session, worker } => {
                if self.sessions.has_ended(session) {
                    return Verdict::Ended;
                }
                if self.sessions.get(session).is_some() {
                    return Verdict::Duplicate;
                }
                // The head decides the clock; successors take it from the entry.
                let clock = self.sessions.min_clock().unwrap_or_default();
                let flags = if worker { EntryFlags::WORKER } else { EntryFlags::NONE };
                (EntryHead { session, clock, flags, ..EntryHead::new(EntryKind::ClientBegan) }, &[])
            }
            ControlEntry::ClientEnded { session } => {
                if self.sessions.has_ended(session) {
                    return Verdict::Duplicate;
                }
                (EntryHead { session, ..EntryHead::new(EntryKind::ClientEnded) }, &[])
            }
            ControlEntry::TableCreated { table, schema } => {
                (EntryHead { table, ..EntryHead::new(EntryKind::TableCreated) }, schema)
            }
            ControlEntry::TableDropped { table } => {
                (EntryHead { table, ..EntryHead::new(EntryKind::TableDropped) }, &[])
            }
        };
        self.order_bare(entry, payload)
    }

    /// Whether an event with `payload` bytes (a table's schema; otherwise 0) would find room now.
    pub fn has_room(&mut self, payload: usize) -> bool {
        self.serial += 1;
        payload <= self.max_payload && self.find_room(payload).is_some()
    }

    /// Closes the open batch, if there is one, and gives its number. What is in it is applied here already.
    pub fn seal(&mut self) -> Option<Lsn> {
        let lsn = self.open_lsn();
        if !self.log.seal(self.partition, self.epoch, lsn) {
            return None;
        }
        self.serial += 1;
        self.lsn = lsn;
        Some(lsn)
    }

    /// Every replica has applied all batches up to `lsn`. Absolute: a repeated or older one changes nothing. On
    /// the tail the caller says so itself after [`Self::seal`].
    ///
    /// # Errors
    /// [`AckError::Ahead`], of a peer that acknowledges what does not exist; nothing has changed.
    pub fn acked(&mut self, lsn: Lsn) -> Result<(), AckError> {
        if lsn > self.lsn {
            return Err(AckError::Ahead { acked: lsn, sealed: self.lsn });
        }
        if lsn > self.acked {
            self.acked = lsn;
            self.sessions.acked(lsn, self.position.heads());
        }
        // A successor's word: it has come from the tail, so a former joiner has all that too.
        if !self.position.tails() && self.kept_after.is_some_and(|kept| lsn > kept) {
            self.kept_after = (lsn < self.acked).then_some(lsn);
        }
        self.release();
        Ok(())
    }

    /// Hands each outcome that has changed, or that a duplicate asked for, to `tell`, in the order in which they
    /// became due. `tell` says whether it could pass the outcome on; if not, it is handed over again next time. Only
    /// a head has any; one that has just become head has one for every session.
    pub fn outcomes(&mut self, tell: impl FnMut(Outcome<'_>) -> bool) {
        self.sessions.outcomes(tell);
    }

    /// Whether [`Self::outcomes`] has anything to tell.
    #[must_use]
    pub fn has_outcomes(&self) -> bool {
        self.sessions.any_due()
    }

    /// A sealed batch that is still kept, as it travels; `None` once it is acknowledged. A tail behind which nobody
    /// joins keeps none of its predecessor's.
    pub fn batch(&mut self, lsn: Lsn) -> Option<&[u8]> {
        self.log.batch(lsn)
    }

    /// Gives the log's memory back if nothing is kept in it: for a partition that has been idle for a while.
    pub fn trim(&mut self) {
        self.serial += 1;
        self.log.trim();
    }

    /// Refuses pushes for now (or takes them again): the server lost its coordinator for too long.
    pub fn set_orphan(&mut self, orphan: bool) {
        self.orphan = orphan;
    }

    /// The partition it holds.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// The version of its chain.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Its place there.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// The last sealed batch; applied here.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// The batch that is being filled, or would be by the next entry.
    #[must_use]
    pub fn open_lsn(&self) -> Lsn {
        self.lsn.next()
    }

    /// The last batch that every replica has applied.
    #[must_use]
    pub fn acked_lsn(&self) -> Lsn {
        self.acked
    }

    /// Whether the session has ended in this chain; one that has ended later than this replica's last batch has not.
    #[must_use]
    pub fn has_ended(&self, session: SessionId) -> bool {
        self.sessions.has_ended(session)
    }

    /// The sequence a session's next push has; none when it is not live here.
    #[must_use]
    pub fn expected(&self, session: SessionId) -> Option<Sequence> {
        self.sessions.get(session).map(|state| state.ordered.next())
    }

    /// Lowest clock of the live workers; none without workers. What was pushed before it is applied here.
    #[must_use]
    pub fn min_clock(&self) -> Option<Clock> {
        self.sessions.min_clock()
    }

    /// Every live session, ascending by id.
    pub fn sessions(&self) -> impl Iterator<Item = SessionStatus<'_>> {
        self.sessions.iter()
    }

    /// Bytes of batches kept for acknowledgement, the open one included.
    #[must_use]
    pub fn log_bytes(&self) -> usize {
        self.log.live_bytes()
    }

    /// Bytes of memory the log takes.
    #[must_use]
    pub fn log_memory_bytes(&self) -> usize {
        self.log.memory_bytes()
    }

    /// Whose turn it is: everything but room.
    fn turn(&mut self, session: SessionId, sequence: Sequence, epoch: Epoch) -> Turn {
        // Before the epoch: an end is durable at the coordinator, so it is true under every epoch.
        if self.sessions.has_ended(session) {
            return Turn::Ended;
        }
        // Before the session: a successor may not know of one that lives.
        if !self.position.heads() {
            return Turn::Retry(RetryReason::WrongHead);
        }
        let Some(state) = self.sessions.get(session) else { return Turn::Ended };
        let expected = state.ordered.next();
        if epoch != self.epoch {
            return Turn::Retry(RetryReason::UnknownEpoch { ours: self.epoch });
        }
        if self.orphan {
            return Turn::Retry(RetryReason::Orphan);
        }
        if sequence < expected {
            self.sessions.restate(session);
            return Turn::Duplicate;
        }
        if sequence > expected {
            return Turn::Retry(RetryReason::SequenceGap { expected });
        }
        Turn::Now
    }

    /// Where an entry with `payload` bytes goes; seals the open batch when it needs a new one.
    fn find_room(&mut self, payload: usize) -> Option<usize> {
        let bytes = entry_bytes(payload);
        let mut fit = self.log.fit(bytes);
        if fit == Fit::AfterSeal {
            self.seal();
            fit = self.log.fit(bytes);
        }
        match fit {
            Fit::At(at) => Some(at),
            Fit::Full => None,
            Fit::AfterSeal => unreachable!("no batch is open after a seal"),
        }
    }

    fn order_bare(&mut self, entry: EntryHead, payload: &[u8]) -> Verdict {
        let Ok(bytes) = u32::try_from(payload.len()) else { return Verdict::Retry(RetryReason::LogFull) };
        let Some(at) = self.find_room(payload.len()) else { return Verdict::Retry(RetryReason::LogFull) };
        self.log.bytes_mut(at + ENTRY_HEADER_BYTES, payload.len()).copy_from_slice(payload);
        self.write_entry(at, EntryHead { bytes, ..entry });
        Verdict::Ordered
    }

    fn entry_of(slot: &LogSlot, kind: EntryKind) -> EntryHead {
        let PushHead { session, sequence, resolved, table, clock, .. } = slot.head;
        EntryHead { session, sequence, resolved, table, clock, ..EntryHead::new(kind) }
    }

    fn order(&mut self, slot: &LogSlot, entry: EntryHead) {
        self.check_slot(slot);
        self.write_entry(slot.at, entry);
    }

    /// Makes the entry at `at`, whose payload is written, part of the open batch and of the replicated state.
    fn write_entry(&mut self, at: usize, entry: EntryHead) {
        let payload_end = ENTRY_HEADER_BYTES + entry.bytes as usize;
        let space = self.log.bytes_mut(at, entry.entry_bytes());
        space[..ENTRY_HEADER_BYTES].copy_from_slice(&entry.to_bytes());
        // Nothing of an older record leaves with this one.
        space[payload_end..].fill(0);
        self.log.commit(at, entry.entry_bytes());
        self.serial += 1;
        let applied = self.sessions.apply(self.open_lsn(), &entry);
        assert!(
            applied.is_ok(),
            "partition {}: the head ordered what it can't apply: {applied:?}",
            self.partition
        );
    }

    fn check_slot(&self, slot: &LogSlot) {
        assert!(
            slot.serial == self.serial,
            "partition {}: a slot for session {} sequence {} outlived its turn",
            self.partition,
            slot.head.session,
            slot.head.sequence
        );
    }
}

/// What a session's order says of a record.
enum Turn {
    Now,
    Duplicate,
    Retry(RetryReason),
    Ended,
}
