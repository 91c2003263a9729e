//! A server with one replica: what a shard does around [`Replica`], one message a step.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use gradwire::chain::{
    Admission, Batch, ControlEntry, EntryFlags, EntryKind, Position, PushHead, Received, Replica,
    ReplicaConfig, Verdict,
};
use gradwire::wire::ids::{Clock, Epoch, Lsn, PartitionId, SessionId, TableId};
use gradwire::wire::{Level, RefusalCode};

use super::faults::Fault;
use super::message::{Chain, Hold, Message, Push, Who};

/// What goes to the next in the chain, or to the joiner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Lane {
    Closed,
    /// The handshake is under way.
    Linking,
    /// This batch goes next.
    Open(Lsn),
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) id: u8,
    pub(crate) up: bool,
    /// Whether it may answer strong reads.
    pub(crate) lease: bool,
    pub(crate) chain: Chain,
    /// None of a joiner that waits for its copy.
    pub(crate) replica: Option<Replica>,
    /// The rows: pushes in the order in which they were applied.
    pub(crate) rows: Vec<u16>,
    /// Something that must never happen did.
    pub(crate) broken: Option<String>,
    /// Whether batches are sealed at once, and whether one is open.
    seals_at_once: bool,
    pub(crate) is_open: bool,
    lane: Lane,
    /// What it had ordered or applied when it confirmed the epoch.
    confirmed_at: Lsn,
    /// The newest link of its predecessor.
    link: Option<(u8, Epoch, Lsn, bool)>,
    /// What it has to have before it counts under this epoch; none before the handshake.
    synced_from: Option<Lsn>,
    has_reported: bool,
    /// What the tail has acknowledged under this epoch.
    acked_here: Option<Lsn>,
    digest: u64,
}

/// Messages to send.
pub(crate) type Sends = Vec<(Who, Message)>;

fn client_of(session: SessionId) -> Who {
    Who::Client((session.0 - 1) as u8)
}

fn position_in(chain: &Chain, node: u8) -> Position {
    match (chain.head() == node, chain.tail() == node) {
        (true, true) => Position::Only,
        (true, false) => Position::Head,
        (false, false) if chain.members.contains(&node) => Position::Middle,
        _ => Position::Tail,
    }
}

impl Node {
    pub(crate) fn new(id: u8, seals_at_once: bool) -> Self {
        let chain = Chain { epoch: Epoch(0), members: vec![u8::MAX], joiner: None, unsynced: false };
        Self {
            id,
            up: true,
            lease: true,
            chain,
            replica: None,
            rows: Vec::new(),
            broken: None,
            seals_at_once,
            is_open: false,
            lane: Lane::Closed,
            confirmed_at: Lsn(0),
            link: None,
            synced_from: None,
            has_reported: false,
            acked_here: None,
            digest: 0,
        }
    }

    /// Of the first chain, whose members begin empty.
    pub(crate) fn begin(&mut self, chain: &Chain) {
        let mut config = self.config();
        config.position = position_in(chain, self.id);
        self.replica = Replica::new(config).ok();
    }

    fn config(&self) -> ReplicaConfig {
        let (partition, epoch) = (PartitionId(0), self.chain.epoch);
        ReplicaConfig { partition, epoch, position: Position::Tail, log_bytes: 1 << 12 }
    }

    fn is_joiner(&self) -> bool {
        self.chain.joiner == Some(self.id)
    }

    /// Everything needed to tell two states apart, computed after each step.
    pub(crate) fn settle_digest(&mut self) {
        let mut hasher = DefaultHasher::new();
        (self.id, self.up, self.lease, &self.chain, &self.rows, self.is_open).hash(&mut hasher);
        (self.lane_number(), self.confirmed_at, self.link, self.synced_from).hash(&mut hasher);
        (self.has_reported, self.acked_here, &self.broken).hash(&mut hasher);
        if let Some(replica) = &mut self.replica {
            let (lsn, acked) = (replica.lsn(), replica.acked_lsn());
            (lsn, acked, replica.epoch(), replica.position() as u8).hash(&mut hasher);
            (replica.min_clock(), replica.log_bytes(), replica.has_outcomes()).hash(&mut hasher);
            for session in replica.sessions() {
                (session.session, session.sequence, session.lsn, session.clock).hash(&mut hasher);
                for (sequence, _) in session.refused {
                    sequence.hash(&mut hasher);
                }
            }
            for lsn in 1..=lsn.0 {
                replica.batch(Lsn(lsn)).hash(&mut hasher);
            }
        }
        self.digest = hasher.finish();
    }

    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    fn lane_number(&self) -> (u8, u64) {
        match self.lane {
            Lane::Closed => (0, 0),
            Lane::Linking => (1, 0),
            Lane::Open(next) => (2, next.0),
        }
    }

    pub(crate) fn receive(&mut self, from: Who, message: Message, fault: Fault, out: &mut Sends) {
        match (from, message) {
            (_, Message::Hold(hold)) => self.on_hold(hold, fault, out),
            (_, Message::Begin { session }) => {
                self.on_event(ControlEntry::ClientBegan { session, worker: true }, fault, out);
                out.push((Who::Coordinator, Message::Begun { session }));
            }
            (_, Message::End { session }) => {
                self.on_event(ControlEntry::ClientEnded { session }, fault, out);
            }
            (Who::Node(from), Message::Link { epoch, ordered, joins }) => {
                if self.link.is_none_or(|(_, before, _, _)| before <= epoch) {
                    self.link = Some((from, epoch, ordered, joins));
                    self.answer_link(fault, out);
                }
            }
            (Who::Node(from), Message::Linked { epoch, applied, wants_all }) => {
                self.on_linked(from, epoch, applied, wants_all, fault, out);
            }
            (Who::Node(from), Message::Copy { epoch, state, rows }) => {
                self.on_copy(from, epoch, &state, rows, fault, out)
            }
            (Who::Node(from), Message::Batch { epoch, bytes }) => {
                self.on_batch(from, epoch, &bytes, fault, out)
            }
            (Who::Node(from), Message::Ack { epoch, lsn }) => self.on_ack(from, epoch, lsn, fault, out),
            (_, Message::Push(push)) => self.on_push(push, fault, out),
            (_, Message::Read { epoch, read }) => {
                let rows = self.may_answer(epoch, fault).then(|| self.rows.clone());
                out.push((from, Message::Rows { read, rows }));
            }
            (_, other) => self.broken = Some(format!("{other:?} reached a node")),
        }
    }

    // What the coordinator says.

    fn on_hold(&mut self, hold: Hold, fault: Fault, out: &mut Sends) {
        if hold.chain.epoch <= self.chain.epoch {
            return;
        }
        // A lapsed lease comes back only with the word that tells what it is for.
        self.lease |= hold.renews;
        self.chain = hold.chain.clone();
        (self.lane, self.synced_from, self.acked_here, self.has_reported) = (Lane::Closed, None, None, false);
        self.is_open = false;
        if self.is_joiner() {
            self.replica = None;
            self.rows.clear();
        } else {
            let position = position_in(&self.chain, self.id);
            let Some(replica) = &mut self.replica else {
                self.broken = Some("a member without state".into());
                return;
            };
            replica.reconfigure(self.chain.epoch, position);
            if position.tails() && self.chain.joiner.is_none() {
                replica.keep_after(None);
            }
            if position.heads() && fault != Fault::NewHeadKeepsItsSessions {
                bring_in_line(replica, &hold, fault);
            }
            replica.seal();
            self.confirmed_at = replica.lsn();
            self.open_lane(out);
        }
        self.answer_link(fault, out);
        self.after_change(fault, out);
    }

    /// The first word on a lane to whoever is next.
    pub(crate) fn open_lane(&mut self, out: &mut Sends) {
        if let Some(next) = self.chain.downstream(self.id) {
            self.lane = Lane::Linking;
            let (epoch, ordered) = (self.chain.epoch, self.confirmed_at);
            let joins = self.chain.joiner == Some(next);
            out.push((Who::Node(next), Message::Link { epoch, ordered, joins }));
        }
    }

    pub(crate) fn speaks_to(&self, other: u8) -> bool {
        self.up && self.chain.downstream(self.id) == Some(other)
    }

    fn on_event(&mut self, event: ControlEntry<'_>, fault: Fault, out: &mut Sends) {
        let Some(replica) = self.replica.as_mut().filter(|replica| replica.position().heads()) else {
            return;
        };
        if let Verdict::Retry(reason) = replica.control(event) {
            self.broken = Some(format!("{event:?} is not ordered: {reason:?}"));
        }
        self.seal(fault, out);
    }

    // Between predecessor and successor.

    fn answer_link(&mut self, fault: Fault, out: &mut Sends) {
        let Some((from, epoch, ordered, joins)) = self.link else { return };
        if epoch != self.chain.epoch || self.chain.predecessor(self.id) != Some(from) {
            return;
        }
        let applied = self.replica.as_ref().map_or(Lsn(0), Replica::lsn);
        self.synced_from = Some(ordered);
        let wants_all = joins && self.replica.is_none();
        out.push((Who::Node(from), Message::Linked { epoch, applied, wants_all }));
        let is_middle = position_in(&self.chain, self.id) == Position::Middle;
        if !is_middle || fault != Fault::AcksAreNotRestated {
            self.acknowledge(fault, out);
        }
    }

    fn on_linked(
        &mut self,
        from: u8,
        epoch: Epoch,
        applied: Lsn,
        wants_all: bool,
        fault: Fault,
        out: &mut Sends,
    ) {
        if epoch != self.chain.epoch || self.chain.downstream(self.id) != Some(from) {
            return;
        }
        let Some(replica) = &mut self.replica else { return };
        if applied > replica.lsn() {
            self.broken = Some(format!("{from} has {applied}, its predecessor {}", replica.lsn()));
        }
        if wants_all {
            let state = Arc::new(replica.snapshot());
            self.is_open = false;
            if fault != Fault::JoinersBatchesAreLost {
                replica.keep_after(Some(replica.lsn()));
            }
            self.lane = Lane::Open(replica.lsn().next());
            out.push((Who::Node(from), Message::Copy { epoch, state, rows: self.rows.clone() }));
        } else if replica.can_resend_after(applied) {
            self.lane = Lane::Open(applied.next());
        } else {
            self.lane = Lane::Closed;
            out.push((Who::Coordinator, Message::Leave { epoch, node: from }));
        }
        self.after_change(fault, out);
    }

    fn on_copy(
        &mut self,
        from: u8,
        epoch: Epoch,
        state: &[u8],
        rows: Vec<u16>,
        fault: Fault,
        out: &mut Sends,
    ) {
        if epoch != self.chain.epoch || self.chain.predecessor(self.id) != Some(from) {
            return;
        }
        match Replica::restore(self.config(), state) {
            Ok(replica) => self.replica = Some(replica),
            Err(error) => self.broken = Some(error.to_string()),
        }
        self.rows = rows;
        if fault == Fault::JoinerGetsNoSessions {
            self.replica = Replica::new(self.config()).ok();
        }
        out.push((Who::Coordinator, Message::Synced { epoch }));
    }

    fn on_batch(&mut self, from: u8, epoch: Epoch, bytes: &[u8], fault: Fault, out: &mut Sends) {
        if epoch != self.chain.epoch || self.chain.predecessor(self.id) != Some(from) {
            return;
        }
        let Some(replica) = &mut self.replica else { return };
        match replica.receive(bytes) {
            Ok(Received::Old) => {}
            Ok(Received::Next(batch)) => {
                apply(&mut self.rows, &batch, fault);
                if let Err(error) = replica.accept(bytes) {
                    self.broken = Some(error.to_string());
                }
                self.after_change(fault, out);
            }
            Ok(Received::Gap { have }) => {
                out.push((Who::Node(from), Message::Linked { epoch, applied: have, wants_all: false }));
            }
            Ok(Received::Full) => self.broken = Some("a successor's log is full".into()),
            Err(error) => self.broken = Some(error.to_string()),
        }
    }

    fn on_ack(&mut self, from: u8, epoch: Epoch, lsn: Lsn, fault: Fault, out: &mut Sends) {
        let is_next = self.chain.downstream(self.id) == Some(from) && self.chain.joiner != Some(from);
        if epoch != self.chain.epoch || !is_next {
            return;
        }
        let Some(replica) = &mut self.replica else { return };
        if let Err(error) = replica.acked(lsn) {
            self.broken = Some(error.to_string());
        }
        self.acked_here = self.acked_here.max(Some(lsn));
        self.acknowledge(fault, out);
        self.tell(fault, out);
    }

    /// Says upstream, and to the coordinator, what this replica may vouch for.
    fn acknowledge(&mut self, fault: Fault, out: &mut Sends) {
        let (Some(replica), Some(ordered)) = (&mut self.replica, self.synced_from) else { return };
        let (lsn, epoch) = (replica.lsn(), self.chain.epoch);
        let Some(predecessor) = self.chain.predecessor(self.id) else { return };
        if self.chain.joiner == Some(self.id) {
            acked_by_itself(replica);
            return;
        }
        if replica.position() == Position::Tail {
            acked_by_itself(replica);
            // Before that it is no survivor; what it would say is less than what is known already.
            if lsn >= ordered {
                self.acked_here = Some(lsn);
                if self.chain.unsynced && !self.has_reported {
                    self.has_reported = true;
                    out.push((Who::Coordinator, Message::Synced { epoch }));
                }
            }
        }
        let mut told = self.acked_here;
        match (fault, replica.position()) {
            (Fault::MiddleAcknowledgesAlone, Position::Middle) => told = Some(lsn),
            (Fault::TailAcknowledgesAhead, Position::Tail) => told = told.map(Lsn::next),
            _ => {}
        }
        if let Some(lsn) = told {
            out.push((Who::Node(predecessor), Message::Ack { epoch, lsn }));
        }
    }

    /// Something was ordered or applied, or a lane has opened.
    fn after_change(&mut self, fault: Fault, out: &mut Sends) {
        let Some(replica) = &mut self.replica else { return };
        if replica.position() == Position::Only
            || (fault == Fault::HeadAcknowledgesAlone && replica.position().heads())
        {
            acked_by_itself(replica);
        }
        if let (Lane::Open(next), Some(to)) = (&mut self.lane, self.chain.downstream(self.id)) {
            while *next <= replica.lsn() {
                let Some(bytes) = replica.batch(*next) else {
                    self.broken = Some(format!("batch {next} is not kept"));
                    break;
                };
                let (epoch, bytes) = (self.chain.epoch, Arc::new(bytes.to_vec()));
                out.push((Who::Node(to), Message::Batch { epoch, bytes }));
                *next = next.next();
            }
        }
        // A handshake has said it already, where that is the only news.
        self.acknowledge(fault, out);
        self.tell(fault, out);
    }

    // What clients want.

    fn on_push(&mut self, push: Push, fault: Fault, out: &mut Sends) {
        let from = client_of(push.session);
        let retry = |reason| Message::Retry { attempt: push.attempt, at: push.sequence, reason };
        let Some(replica) = &mut self.replica else {
            out.push((from, retry(super::message::Reason::Elsewhere)));
            return;
        };
        let head = PushHead {
            session: push.session,
            sequence: push.sequence,
            epoch: push.epoch,
            resolved: push.resolved,
            table: TableId(1),
            clock: Clock(0),
            level: Level::Replicated,
            bytes: 8,
        };
        match replica.admit(head) {
            Admission::Order(slot) if push.bad => replica.refuse(slot, RefusalCode::Unsorted),
            Admission::Order(slot) => {
                replica.log_mut(&slot).copy_from_slice(&u64::from(push.id).to_le_bytes());
                self.rows.push(push.id);
                replica.commit(slot, EntryFlags::CREATES);
            }
            Admission::Duplicate if fault == Fault::DuplicatesAreApplied => self.rows.push(push.id),
            Admission::Duplicate => {}
            Admission::Refused => self.broken = Some("eight bytes are too many".into()),
            Admission::Retry(reason) => out.push((from, retry(reason.into()))),
            Admission::Ended => out.push((from, Message::Ended)),
        }
        self.is_open = true;
        if self.seals_at_once {
            self.seal(fault, out);
        } else {
            self.tell(fault, out);
        }
    }

    pub(crate) fn seal(&mut self, fault: Fault, out: &mut Sends) {
        self.is_open = false;
        if let Some(replica) = &mut self.replica {
            replica.seal();
        }
        self.after_change(fault, out);
    }

    fn tell(&mut self, fault: Fault, out: &mut Sends) {
        let Some(replica) = &mut self.replica else { return };
        replica.outcomes(|outcome| {
            let refused =
                if fault == Fault::RefusalsAreForgotten { Vec::new() } else { outcome.refused.to_vec() };
            let replicated = outcome.replicated;
            out.push((client_of(outcome.session), Message::Outcome { replicated, refused }));
            true
        });
    }

    /// C4, C5.
    fn may_answer(&self, epoch: Epoch, fault: Fault) -> bool {
        let Some(replica) = &self.replica else { return false };
        if fault == Fault::AnyoneAnswersReads {
            return true;
        }
        let has_all = self.synced_from.is_some_and(|ordered| replica.lsn() >= ordered);
        let counts = !self.chain.unsynced || has_all || fault == Fault::UnsyncedTailServes;
        let has_lease = self.lease || fault == Fault::LapsedLeaseServes;
        replica.position().tails() && !self.is_joiner() && has_lease && counts && epoch == self.chain.epoch
    }
}

/// Of a tail: what is applied here is applied everywhere.
fn acked_by_itself(replica: &mut Replica) {
    let acked = replica.acked(replica.lsn());
    assert_eq!(acked, Ok(()));
}

/// A new head knows what the coordinator knows (C0).
fn bring_in_line(replica: &mut Replica, hold: &Hold, fault: Fault) {
    let here: Vec<SessionId> = replica.sessions().map(|state| state.session).collect();
    let is_old = |session: SessionId| session <= hold.last_session || fault == Fault::NewHeadEndsTheYoung;
    for &session in here.iter().filter(|&&session| is_old(session) && !hold.sessions.contains(&session)) {
        assert_eq!(replica.control(ControlEntry::ClientEnded { session }), Verdict::Ordered);
    }
    for &session in hold.sessions.iter().filter(|session| !here.contains(session)) {
        // One that has ended since the coordinator said this is known as ended, and stays so.
        let verdict = replica.control(ControlEntry::ClientBegan { session, worker: true });
        assert!(matches!(verdict, Verdict::Ordered | Verdict::Ended), "{verdict:?}");
    }
}

/// A batch's rows.
fn apply(rows: &mut Vec<u16>, batch: &Batch<'_>, fault: Fault) {
    let before = rows.len();
    for entry in batch.entries().filter(|entry| entry.head.kind == EntryKind::Push) {
        let id = entry.payload.first_chunk::<2>().copied().map(u16::from_le_bytes);
        rows.extend(id);
    }
    match fault {
        Fault::SuccessorSkipsAPush => rows.retain(|id| id % 7 != 1),
        Fault::SuccessorReorders if before > 0 && rows.len() > before => rows.swap(before - 1, before),
        _ => {}
    }
}
