//! One partition held here: its replica, its neighbours in the chain, and how far each has come.

use std::collections::VecDeque;

use crossbeam_channel::Sender;

use super::Notice;
use super::copy::Copying;
use super::event::Event;
use super::join::Joining;
use crate::chain::{ConfigError, Position, Replica, ReplicaConfig};
use crate::cluster::PartitionChain;
use crate::lane::LaneId;
use crate::wire::RetryCode;
use crate::wire::ids::{Lsn, PartitionId, ShardId};

/// See the module.
pub(super) struct Held {
    pub(super) partition: PartitionId,
    /// The version of the chain that is in force here.
    pub(super) chain: PartitionChain,
    pub(super) replica: Replica,
    /// Where batches come from, once the predecessor has linked under this epoch.
    pub(super) up: Option<LaneId>,
    /// What the predecessor knows to be acknowledged under this epoch.
    pub(super) told: Option<Lsn>,
    /// Of a tail that has still to report: what its predecessor had ordered when it took up this epoch (C7).
    pub(super) owed: Option<Lsn>,
    /// It has reported so.
    pub(super) reported: bool,
    /// The predecessor was asked to go back, and has not yet.
    pub(super) gap_told: bool,
    /// A batch found no room in the log and was dropped.
    pub(super) full: bool,
    /// Another is about to head in its place: it orders nothing more.
    pub(super) yields: bool,
    /// Who gets batches from here.
    pub(super) down: Option<Downstream>,
    /// This replica is no member yet.
    pub(super) joining: Option<Joining>,
    /// It could not go on and has said so; what comes for it is dropped until the coordinator has placed it elsewhere.
    pub(super) left: bool,
    /// Events that found no room in the log yet. No push goes before them.
    pub(super) events: VecDeque<Event>,
    /// In `Shard::touched` already.
    pub(super) touched: bool,
    /// In `Shard::unsent` already.
    pub(super) unsent: bool,
}

/// The next thread behind this one.
pub(super) struct Downstream {
    pub(super) shard: ShardId,
    /// It joins: nobody waits for what it applies.
    pub(super) joiner: bool,
    /// A link was sent on this lane under this epoch.
    pub(super) lane: Option<LaneId>,
    /// The next batch it gets; none before it has answered.
    pub(super) next: Option<Lsn>,
    /// Of a joiner: batches above this are kept for it.
    pub(super) kept: Lsn,
    /// What a joiner has still to be sent.
    pub(super) copy: Option<Copying>,
}

impl Held {
    /// An empty partition under `chain`.
    ///
    /// # Errors
    /// A log size that is not allowed.
    pub(super) fn empty(
        partition: PartitionId,
        chain: &PartitionChain,
        own: ShardId,
        log_bytes: usize,
    ) -> Result<Self, ConfigError> {
        let position = position_in(chain, own);
        let config = ReplicaConfig {
            partition,
            epoch: chain.epoch,
            position: position.unwrap_or(Position::Tail),
            log_bytes,
        };
        Ok(Self {
            partition,
            chain: chain.clone(),
            replica: Replica::new(config)?,
            up: None,
            told: None,
            owed: None,
            reported: false,
            gap_told: false,
            full: false,
            yields: false,
            down: Downstream::of(chain, own),
            joining: position.is_none().then(Joining::default),
            left: false,
            events: VecDeque::new(),
            touched: false,
            unsent: false,
        })
    }

    /// Takes up a newer version of its chain as a member; rows, sessions and log stay.
    pub(super) fn take_up(&mut self, chain: &PartitionChain, own: ShardId, position: Position) {
        self.replica.reconfigure(chain.epoch, position);
        if position.tails() {
            // A joiner that became a member may still lack what is acknowledged: its own acknowledgements end that.
            self.replica.keep_after(None);
        }
        self.chain = chain.clone();
        (self.up, self.told, self.owed, self.reported) = (None, None, None, false);
        (self.gap_told, self.full, self.yields) = (false, false, false);
        self.down = Downstream::of(chain, own);
        self.joining = None;
        self.left = false;
        if !position.heads() {
            // The head brings its order up to date by itself.
            self.events.clear();
        }
    }

    /// Says, once, that this replica cannot go on. A process that ends has nobody listening.
    pub(super) fn leave(&mut self, shard: ShardId, notices: &Sender<Notice>, reason: &str) {
        if !std::mem::replace(&mut self.left, true) {
            let (partition, epoch, reason) = (self.partition, self.chain.epoch, reason.to_owned());
            notices.send(Notice::Leave { partition, epoch, shard, reason }).ok();
        }
    }

    /// Whether it takes pushes.
    pub(super) fn heads(&self) -> bool {
        self.joining.is_none() && !self.left && !self.yields && self.replica.position().heads()
    }

    /// Why a session's record has no place in the order here, if it has none. A session that is not live here may be one
    /// that only the head knows yet.
    pub(super) fn turns_away(&self, live: bool) -> Option<RetryCode> {
        match (self.heads(), self.events.is_empty(), live) {
            (false, ..) => Some(RetryCode::WrongHead),
            (true, false, _) => Some(RetryCode::LogFull),
            (true, true, false) => Some(RetryCode::Ended),
            (true, true, true) => None,
        }
    }

    /// Whether strong pulls are its to answer (C5): the tail, once it has all that its predecessor had.
    pub(super) fn answers_strongly(&self) -> bool {
        let caught_up = !self.chain.unsynced || self.reported;
        self.joining.is_none() && !self.left && caught_up && self.replica.position().tails()
    }

    /// Whether it has ordered what is not acknowledged yet. Another head may order something else in its place.
    pub(super) fn is_ahead(&self) -> bool {
        self.replica.position().heads() && self.replica.acked_lsn() < self.replica.lsn()
    }

    /// Whether what is ordered here is sent on.
    pub(super) fn forwards(&self) -> bool {
        self.down.is_some()
    }

    /// Who sends batches to `own`.
    pub(super) fn predecessor(&self, own: ShardId) -> Option<ShardId> {
        let members = &self.chain.members;
        match members.iter().position(|member| *member == own) {
            Some(at) => at.checked_sub(1).map(|before| members[before]),
            None => members.last().copied(),
        }
    }

    /// Closes the open batch. On the tail what is applied here is applied everywhere, so it is acknowledged at once.
    pub(super) fn settle(&mut self) {
        if self.replica.position().heads() {
            self.replica.seal();
        }
        if self.replica.position().tails() {
            let acked = self.replica.acked(self.replica.lsn());
            assert!(acked.is_ok(), "partition {}: its own lsn is ahead of it: {acked:?}", self.partition);
        }
    }
}

impl Downstream {
    fn of(chain: &PartitionChain, own: ShardId) -> Option<Self> {
        let at = chain.members.iter().position(|member| *member == own)?;
        let (shard, joiner) = match chain.members.get(at + 1) {
            Some(next) => (*next, false),
            None => (chain.joiner?, true),
        };
        Some(Self { shard, joiner, lane: None, next: None, kept: Lsn(0), copy: None })
    }
}

/// Where a thread stands in a chain; none for a joiner.
pub(super) fn position_in(chain: &PartitionChain, own: ShardId) -> Option<Position> {
    let at = chain.members.iter().position(|member| *member == own)?;
    Some(match (at, chain.members.len() - 1 - at) {
        (0, 0) => Position::Only,
        (0, _) => Position::Head,
        (_, 0) => Position::Tail,
        _ => Position::Middle,
    })
}
