//! The replicated state of a partition that is not rows: per session its place in the order, its refusals and its
//! clock. It changes only by [`Sessions::apply`], one entry at a time, on head and successors alike (C0), so that
//! any replica can head the chain next. What the outside is told (marks, dirty sessions) is kept beside it.
//!
//! Memory: a session costs `size_of::<Session>()` = 88 bytes and its key, about 150 with the map's slack, per
//! partition; 16 bytes a refusal it has not resolved; 24 bytes a batch under way in which it has entries. An ended
//! session costs nothing beyond its share of a range of ended ids. A map ordered by id, not a hashed one: order of
//! iteration must be the same on every replica and in every simulation.

use std::collections::{BTreeMap, VecDeque};

use thiserror::Error;

use super::admission::Outcome;
use super::batch::{EntryFlags, EntryHead, EntryKind};
use super::decode::{Batch, Entry};
use super::id_ranges::IdRanges;
use crate::wire::RefusalCode;
use crate::wire::ids::{Clock, Lsn, Sequence, SessionId};

/// Refusals kept for one session in one partition before it has to resolve some. A client's window is smaller.
pub const REFUSALS_KEPT: usize = 1024;

#[derive(Clone, Debug, Default)]
pub(super) struct Session {
    /// Last sequence in the order, and applied at the head.
    pub(super) ordered: Sequence,
    /// The batch it is in: with `ordered` the dedup entry of C3.
    pub(super) lsn: Lsn,
    /// Last sequence that every replica has applied.
    replicated: Sequence,
    /// Number of the session's newest mark.
    mark: u64,
    pub(super) clock: Clock,
    /// Ascending; pruned by the `resolved` of ordered entries only, so that replicas agree.
    pub(super) refused: Vec<(Sequence, RefusalCode)>,
    pub(super) worker: bool,
    dirty: bool,
}

const _: () = assert!(size_of::<Session>() <= 88);

/// In batch `lsn`, the session's last entry is `sequence`.
#[derive(Clone, Copy, Debug)]
struct Mark {
    lsn: Lsn,
    session: SessionId,
    sequence: Sequence,
}

/// An entry that this replica's state does not allow. On the head it is our bug; a successor that meets it has
/// diverged, leaves its chain and joins empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Divergence {
    /// The order of a session is broken.
    #[error(
        "session {session}: sequence {found} in the batch, {expected} would be next; leave the chain and rejoin"
    )]
    Sequence {
        /// Whose.
        session: SessionId,
        /// What would be next.
        expected: Sequence,
        /// What came.
        found: Sequence,
    },
    /// A session without a begin, or after its end, or with a second begin.
    #[error("session {session}: a {kind:?} entry does not fit its life here; leave the chain and rejoin")]
    Life {
        /// Whose.
        session: SessionId,
        /// What came.
        kind: EntryKind,
    },
}

/// One session's state, for `status` and for a joiner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionStatus<'a> {
    /// Whose.
    pub session: SessionId,
    /// Last sequence in the order.
    pub sequence: Sequence,
    /// The batch it is in.
    pub lsn: Lsn,
    /// Iterations it has finished.
    pub clock: Clock,
    /// Whether that clock counts.
    pub worker: bool,
    /// Refusals it has not resolved.
    pub refused: &'a [(Sequence, RefusalCode)],
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions {
    live: BTreeMap<SessionId, Session>,
    ended: IdRanges,
    /// How many live workers stand at each clock.
    clocks: BTreeMap<Clock, u32>,
    /// Ascending by lsn, one per (session, batch) not yet acknowledged; `first_mark` numbers the front.
    marks: VecDeque<Mark>,
    first_mark: u64,
    dirty: Vec<SessionId>,
    /// What a batch under check makes of the sessions in it: their last sequences, or none of one that ends. Ascending;
    /// here only to keep its memory.
    foreseen: Vec<(SessionId, Option<Sequence>)>,
}

impl Sessions {
    /// A joiner's. Given ascending.
    pub(super) fn restore(live: Vec<(SessionId, Session)>, ended: IdRanges) -> Self {
        let mut clocks = BTreeMap::new();
        for (_, state) in live.iter().filter(|(_, state)| state.worker) {
            *clocks.entry(state.clock).or_default() += 1;
        }
        Self { live: live.into_iter().collect(), ended, clocks, ..Self::default() }
    }

    pub(super) fn live(&self) -> &BTreeMap<SessionId, Session> {
        &self.live
    }

    pub(super) fn ended(&self) -> &IdRanges {
        &self.ended
    }

    pub(super) fn get(&self, session: SessionId) -> Option<&Session> {
        self.live.get(&session)
    }

    pub(super) fn has_ended(&self, session: SessionId) -> bool {
        self.ended.contains(session.0)
    }

    /// Lowest clock of the live workers.
    pub(super) fn min_clock(&self) -> Option<Clock> {
        self.clocks.first_key_value().map(|(&clock, _)| clock)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = SessionStatus<'_>> {
        self.live.iter().map(|(&session, state)| SessionStatus {
            session,
            sequence: state.ordered,
            lsn: state.lsn,
            clock: state.clock,
            worker: state.worker,
            refused: &state.refused,
        })
    }

    /// Whether every entry of a batch can be applied, one after the other. Changes nothing.
    pub(super) fn check(&mut self, batch: &Batch<'_>) -> Result<(), Divergence> {
        self.foreseen.clear();
        for Entry { head, .. } in batch.entries() {
            let (session, kind) = (head.session, head.kind);
            let after = match kind {
                EntryKind::Push | EntryKind::Refused | EntryKind::Clock => {
                    let last = self.foresee(session).ok_or(Divergence::Life { session, kind })?;
                    if head.sequence != last.next() {
                        let (expected, found) = (last.next(), head.sequence);
                        return Err(Divergence::Sequence { session, expected, found });
                    }
                    Some(head.sequence)
                }
                EntryKind::ClientBegan => {
                    let is_known = self.foreseen_at(session).is_ok() || self.live.contains_key(&session);
                    if is_known || self.has_ended(session) {
                        return Err(Divergence::Life { session, kind });
                    }
                    Some(Sequence(0))
                }
                EntryKind::ClientEnded => None,
                EntryKind::TableCreated | EntryKind::TableDropped => continue,
            };
            match self.foreseen_at(session) {
                Ok(at) => self.foreseen[at].1 = after,
                Err(at) => self.foreseen.insert(at, (session, after)),
            }
        }
        Ok(())
    }

    /// The last sequence of a session behind the entries checked so far; none when it is not live then.
    fn foresee(&self, session: SessionId) -> Option<Sequence> {
        match self.foreseen_at(session) {
            Ok(at) => self.foreseen[at].1,
            Err(_) => self.live.get(&session).map(|state| state.ordered),
        }
    }

    fn foreseen_at(&self, session: SessionId) -> Result<usize, usize> {
        self.foreseen.binary_search_by_key(&session, |&(other, _)| other)
    }

    /// Applies one entry of batch `lsn`. On an error nothing has changed.
    pub(super) fn apply(&mut self, lsn: Lsn, entry: &EntryHead) -> Result<(), Divergence> {
        match entry.kind {
            EntryKind::Push | EntryKind::Refused | EntryKind::Clock => self.apply_sequenced(lsn, entry),
            EntryKind::ClientBegan => self.apply_began(lsn, entry),
            EntryKind::ClientEnded => {
                if let Some(state) = self.live.remove(&entry.session)
                    && state.worker
                {
                    self.leave_clock(state.clock);
                }
                self.ended.insert(entry.session.0);
                Ok(())
            }
            // The store's business.
            EntryKind::TableCreated | EntryKind::TableDropped => Ok(()),
        }
    }

    fn apply_sequenced(&mut self, lsn: Lsn, entry: &EntryHead) -> Result<(), Divergence> {
        let session = entry.session;
        let Some(state) = self.live.get_mut(&session) else {
            return Err(Divergence::Life { session, kind: entry.kind });
        };
        let expected = state.ordered.next();
        if entry.sequence != expected {
            return Err(Divergence::Sequence { session, expected, found: entry.sequence });
        }
        state.ordered = entry.sequence;
        state.lsn = lsn;
        let open_mark = state.mark.checked_sub(self.first_mark).map(|index| index as usize);
        match open_mark.and_then(|index| self.marks.get_mut(index)) {
            // A mark number is never reused, but a session's may be another's before its first.
            Some(mark) if mark.session == session && mark.lsn == lsn => mark.sequence = entry.sequence,
            _ => {
                state.mark = self.first_mark + self.marks.len() as u64;
                self.marks.push_back(Mark { lsn, session, sequence: entry.sequence });
            }
        }
        if state.refused.first().is_some_and(|&(sequence, _)| sequence < entry.resolved) {
            state.refused.retain(|&(sequence, _)| sequence >= entry.resolved);
        }
        if let Some(code) = entry.refusal {
            state.refused.push((entry.sequence, code));
        }
        // A clock never goes back: a lower one is a client's mistake that only concerns itself.
        if entry.kind == EntryKind::Clock && entry.clock > state.clock {
            let before = std::mem::replace(&mut state.clock, entry.clock);
            if state.worker {
                // In before out: the map's last node is not freed and made anew.
                *self.clocks.entry(entry.clock).or_default() += 1;
                self.leave_clock(before);
            }
        }
        Ok(())
    }

    fn apply_began(&mut self, lsn: Lsn, entry: &EntryHead) -> Result<(), Divergence> {
        let session = entry.session;
        if self.live.contains_key(&session) || self.has_ended(session) {
            return Err(Divergence::Life { session, kind: entry.kind });
        }
        let worker = entry.flags.contains(EntryFlags::WORKER);
        if worker {
            *self.clocks.entry(entry.clock).or_default() += 1;
        }
        self.live.insert(session, Session { lsn, clock: entry.clock, worker, ..Session::default() });
        Ok(())
    }

    fn leave_clock(&mut self, clock: Clock) {
        let Some(count) = self.clocks.get_mut(&clock) else {
            unreachable!("no worker stands at clock {clock}")
        };
        *count -= 1;
        if *count == 0 {
            self.clocks.remove(&clock);
        }
    }

    /// Every replica has applied all up to `lsn`: what stands there is replicated. Only a head `tells` its clients.
    pub(super) fn acked(&mut self, lsn: Lsn, tells: bool) {
        while let Some(&mark) = self.marks.front()
            && mark.lsn <= lsn
        {
            self.marks.pop_front();
            self.first_mark += 1;
            if let Some(state) = self.live.get_mut(&mark.session) {
                state.replicated = mark.sequence;
                if tells {
                    self.restate(mark.session);
                }
            }
        }
    }

    /// A new head tells everybody how they stand; one that is no head any more tells nobody.
    pub(super) fn restate_all(&mut self, tells: bool) {
        self.dirty.clear();
        for (&session, state) in &mut self.live {
            state.dirty = tells;
            if tells {
                self.dirty.push(session);
            }
        }
    }

    /// The session's outcome is due (again).
    pub(super) fn restate(&mut self, session: SessionId) {
        if let Some(state) = self.live.get_mut(&session)
            && !state.dirty
        {
            state.dirty = true;
            self.dirty.push(session);
        }
    }

    /// Hands every due outcome to `tell`; one it could not pass on stays due.
    pub(super) fn outcomes(&mut self, mut tell: impl FnMut(Outcome<'_>) -> bool) {
        let live = &mut self.live;
        self.dirty.retain(|&session| {
            let Some(state) = live.get_mut(&session) else { return false };
            let told = tell(Outcome {
                session,
                applied: state.ordered,
                replicated: state.replicated,
                refused: &state.refused,
            });
            state.dirty = !told;
            !told
        });
    }

    pub(super) fn any_due(&self) -> bool {
        !self.dirty.is_empty()
    }
}

impl Session {
    /// A joiner's: all that is ordered is applied by everybody before it in the chain.
    pub(super) fn restored(
        ordered: Sequence,
        lsn: Lsn,
        clock: Clock,
        worker: bool,
        refused: Vec<(Sequence, RefusalCode)>,
    ) -> Self {
        Self { ordered, lsn, replicated: ordered, clock, refused, worker, ..Self::default() }
    }

    /// Whether another refusal could be kept once everything below `resolved` is forgotten.
    pub(super) fn can_refuse(&self, resolved: Sequence) -> bool {
        self.refused.len() < REFUSALS_KEPT
            || self.refused.iter().filter(|&&(sequence, _)| sequence >= resolved).count() < REFUSALS_KEPT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_costs_one_mark_a_batch_however_often_it_pushes() {
        let mut sessions = Sessions::default();
        let ids = [SessionId(1), SessionId(2)];
        for session in ids {
            sessions.apply(Lsn(1), &EntryHead { session, ..EntryHead::new(EntryKind::ClientBegan) }).unwrap();
        }
        let mut sequence = Sequence(0);
        for lsn in 2..12 {
            for push in 0..50 {
                if push == 25 {
                    sessions.acked(Lsn(lsn - 1), true);
                }
                sequence = sequence.next();
                for session in ids {
                    let push = EntryHead { session, sequence, ..EntryHead::new(EntryKind::Push) };
                    sessions.apply(Lsn(lsn), &push).unwrap();
                }
            }
            assert_eq!(sessions.marks.len(), 2, "at lsn {lsn}");
        }
    }
}
