//! What a shard is told to hold: new places in chains, partitions that come and go, tables and sessions that a new head
//! has to bring into its order.
//!
//! All of it happens between two records, so nobody sees a head that does not know a live session.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use thiserror::Error;

use super::chain::{Held, position_in};
use super::event::Event;
use super::{NOT_HERE, Shard};
use crate::chain::ConfigError;
use crate::cluster::{Role, encode_schema};
use crate::lane::Fabric;
use crate::store::{TableError, TableSchema};
use crate::wire::PullStatus;
use crate::wire::ids::{PartitionId, SessionId, ShardId, TableId};

/// What one thread is to hold.
#[derive(Clone, Debug)]
pub(crate) struct Holds {
    /// Partitions of the cluster.
    pub(crate) partition_count: u32,
    /// Its own, each once.
    pub(crate) roles: Vec<Role>,
    /// Tables there are, up to the newest.
    pub(crate) tables: Arc<[(TableId, Arc<TableSchema>)]>,
    pub(crate) last_table: TableId,
    /// Sessions there are, up to the newest.
    pub(crate) sessions: Arc<[SessionId]>,
    pub(crate) last_session: SessionId,
}

/// Why a shard does not hold what it was told to.
#[derive(Debug, Error)]
pub(crate) enum HoldError {
    /// It should be a member of a chain whose rows it has never got.
    #[error(
        "server thread {shard} was told to hold partition {partition} as if it had its rows, which it never got; \
         start this server anew"
    )]
    Rows { shard: ShardId, partition: PartitionId },
    /// Beyond the cluster, or named twice.
    #[error("partition {partition} of {partition_count} was given twice or does not exist")]
    Partition { partition: PartitionId, partition_count: u32 },
    /// A log size that is not allowed.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A table that is missing cannot be made.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// How long a head that is to follow waits for the acknowledgement of what it ordered (design, section 7).
const HANDOVER: Duration = Duration::from_millis(100);

/// An order that waits for heads to finish.
pub(super) struct Waiting {
    holds: Holds,
    reply: Sender<Result<(), HoldError>>,
    pub(super) until: Instant,
}

impl<F: Fabric> Shard<F> {
    /// Holds what it is told, at once or, where it has to follow another head, when what it ordered is acknowledged.
    pub(super) fn begin_hold(&mut self, holds: Holds, reply: Sender<Result<(), HoldError>>, now: Instant) {
        if let Some(before) = self.waiting.take() {
            before.reply.send(self.hold(&before.holds, now)).ok();
        }
        for role in &holds.roles {
            let Some(place) = self.place_of(role.partition) else { continue };
            let held = &mut self.held[place];
            let follows = position_in(&role.chain, self.shard).is_some_and(|position| !position.heads());
            if follows && role.chain.epoch > held.chain.epoch && held.heads() {
                held.settle();
                held.yields = true;
                self.touch(place);
            }
        }
        self.waiting = Some(Waiting { holds, reply, until: now + HANDOVER });
        self.end_wait(now);
    }

    /// Carries out the order that waits, if it need not wait any longer. False when there is none, or it still waits.
    pub(super) fn end_wait(&mut self, now: Instant) -> bool {
        let unfinished = self.held.iter().any(|held| held.yields && held.is_ahead());
        match self.waiting.take_if(|waiting| !unfinished || now >= waiting.until) {
            Some(waiting) => {
                waiting.reply.send(self.hold(&waiting.holds, now)).ok();
                true
            }
            None => false,
        }
    }

    /// Holds these partitions and no others. One that is held under the same epoch stays as it is; one under an older
    /// epoch keeps what it has and takes its new place; the others begin empty.
    ///
    /// # Errors
    /// [`HoldError`]; what was held is held on.
    pub(super) fn hold(&mut self, holds: &Holds, now: Instant) -> Result<(), HoldError> {
        let places = self.places_of(holds)?;
        let mut before: BTreeMap<PartitionId, Held> =
            self.held.drain(..).map(|held| (held.partition, held)).collect();
        let mut outcome = Ok(());
        for role in &holds.roles {
            let held = before.remove(&role.partition);
            match self.place_held(held, role) {
                Ok(held) => self.held.push(held),
                // A log size, which the first partition of this process would have refused already.
                Err(error) => outcome = Err(error),
            }
        }
        for partition in before.into_keys() {
            self.rows.drop_partition(partition);
        }
        self.places = places;
        self.unsent.clear();
        self.touched.clear();
        for place in 0..self.held.len() {
            (self.held[place].touched, self.held[place].unsent) = (false, false);
            self.touch(place);
        }
        self.rehome_pulls(now);
        for session in holds.sessions.iter() {
            self.sessions.entry(*session).or_insert(None);
        }
        // What one partition lacks keeps none of the others from its neighbours.
        let outcome = outcome.and(self.bring_up_to_date(holds));
        self.open_links(now);
        for link in std::mem::take(&mut self.early) {
            self.on_early_link(link, now);
        }
        outcome
    }

    fn places_of(&self, holds: &Holds) -> Result<Vec<u32>, HoldError> {
        let partition_count = holds.partition_count;
        let mut places = vec![NOT_HERE; partition_count as usize];
        for (place, role) in holds.roles.iter().enumerate() {
            let partition = role.partition;
            let known = places.get_mut(partition.0 as usize).filter(|known| **known == NOT_HERE);
            *known.ok_or(HoldError::Partition { partition, partition_count })? = place as u32;
            let fresh = self.place_of(partition).is_none() && role.chain.members.contains(&self.shard);
            if fresh && role.chain.began < role.chain.epoch {
                return Err(HoldError::Rows { shard: self.shard, partition });
            }
        }
        Ok(places)
    }

    /// What is held of a partition from now on.
    fn place_held(&mut self, held: Option<Held>, role: &Role) -> Result<Held, HoldError> {
        let (chain, own) = (&role.chain, self.shard);
        let Some(mut held) = held else {
            return Ok(Held::empty(role.partition, chain, own, self.log_bytes)?);
        };
        if chain.epoch <= held.chain.epoch {
            return Ok(held);
        }
        // Placed anew since, with nothing in it, here and at everybody else who holds it.
        let anew = held.chain.epoch < chain.began;
        // A joiner whose copy is not complete has nothing that counts; it is never made a member.
        let whole = held.joining.as_ref().is_none_or(|joining| joining.is_complete());
        match position_in(chain, own) {
            Some(position) if whole && !anew => {
                let astray = !position.heads() && held.is_ahead();
                held.take_up(chain, own, position);
                if astray {
                    // The new head has other batches under the same numbers, or will have.
                    self.leave(&mut held, "another heads, and what this one had ordered is not acknowledged");
                }
                Ok(held)
            }
            _ => {
                self.rows.drop_partition(role.partition);
                let mut fresh = Held::empty(role.partition, chain, own, self.log_bytes)?;
                if !anew && fresh.joining.is_none() {
                    self.leave(&mut fresh, "it was made a member before its copy was complete");
                }
                Ok(fresh)
            }
        }
    }

    /// Pulls that wait find their partitions at their new places; what is not held any more is asked elsewhere.
    fn rehome_pulls(&mut self, now: Instant) {
        let mut gone = Vec::new();
        for mut parked in std::mem::take(&mut self.parked) {
            let Some(at) = self.seat_of(parked.lane) else { unreachable!("pulls of a lane leave with it") };
            match self.place_of(parked.answer.request().partition) {
                Some(place) => {
                    parked.place = place;
                    self.parked.push(parked);
                }
                None => {
                    self.lanes[at].parked -= 1;
                    gone.push((at, parked.answer));
                }
            }
        }
        for at in 0..self.lanes.len() {
            for answer in std::mem::take(&mut self.lanes[at].answers) {
                match self.place_of(answer.request().partition) {
                    Some(_) => self.lanes[at].answers.push_back(answer),
                    None => gone.push((at, answer)),
                }
            }
        }
        for (at, answer) in gone {
            self.end_pull(at, answer, PullStatus::NotServing, now);
        }
    }

    /// Orders what a head's partitions lack of the tables and sessions there are, and ends what is there no more. Those
    /// newer than the list are left alone: they came after it was written.
    fn bring_up_to_date(&mut self, holds: &Holds) -> Result<(), HoldError> {
        let tables: BTreeSet<TableId> = holds.tables.iter().map(|(table, _)| *table).collect();
        let sessions: BTreeSet<SessionId> = holds.sessions.iter().copied().collect();
        let mut outcome = Ok(());
        self.sessions.retain(|session, _| sessions.contains(session) || *session > holds.last_session);
        for place in (0..self.held.len()).filter(|place| self.held[*place].heads()).collect::<Vec<_>>() {
            let partition = self.held[place].partition;
            for (table, schema) in holds.tables.iter() {
                match self.rows.create(*table, schema, partition) {
                    Ok(true) => {
                        self.order_event(place, Event::TableCreated(*table, encode_schema(schema).into()));
                    }
                    Ok(false) => {}
                    Err(error) => outcome = outcome.and(Err(error.into())),
                }
            }
            for table in self.rows.tables_of(partition) {
                if !tables.contains(&table) && table <= holds.last_table && self.rows.drop(table, partition) {
                    self.order_event(place, Event::TableDropped(table));
                }
            }
            let live: Vec<SessionId> =
                self.held[place].replica.sessions().map(|session| session.session).collect();
            for session in &sessions {
                if self.held[place].replica.expected(*session).is_none() {
                    self.order_event(place, Event::ClientBegan(*session));
                }
            }
            for session in live {
                if !sessions.contains(&session) && session <= holds.last_session {
                    self.rows.end_session(session);
                    self.order_event(place, Event::ClientEnded(session));
                }
            }
        }
        outcome
    }
}
