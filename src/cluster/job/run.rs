//! One job: its members, its tasks, who has which.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::error::JobError;
use super::message::{BlockTally, JobId, JobPhase, JobStatus, LeaseId, MemberId, Task, Totals};
use super::spec::{JobPlan, JobSpec, Part, place};

/// Epochs with blocks given out at a time (J3).
const OPEN_EPOCHS: usize = 2;
/// Most processes over a job's life.
const MAX_MEMBERS: usize = 1 << 16;

/// One task and who has it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Slot {
    /// Nobody's; `last` is the lease that was lost, whose holder may still come back before another asks.
    Free { last: Option<LeaseId> },
    /// Somebody's.
    Leased { lease: LeaseId, member: MemberId, until_ms: u64 },
    /// Done.
    Done,
}

impl Slot {
    const FRESH: Self = Self::Free { last: None };

    /// Whether `lease` is the newest one and the task is not done.
    fn is_under(self, lease: LeaseId) -> bool {
        match self {
            Self::Free { last } => last == Some(lease),
            Self::Leased { lease: newest, .. } => newest == lease,
            Self::Done => false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct OpenEpoch {
    slots: Vec<Slot>,
    tally: BlockTally,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Phase {
    Prepare(Slot),
    Train,
    Evaluate(Slot),
    Finished { report: String },
    Failed { reason: String },
}

/// Who joins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Joining {
    pub(super) threads: u32,
    pub(super) part: Option<Part>,
    pub(super) token: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Member {
    token: u64,
    part: Option<Part>,
    /// None once it is lost or has left.
    seen_ms: Option<u64>,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) name: String,
    pub(super) spec: JobSpec,
    pub(super) plan: JobPlan,
    phase: Phase,
    members: BTreeMap<MemberId, Member>,
    /// The epochs that have blocks given out or done and are not done: `first_open..`.
    open: VecDeque<OpenEpoch>,
    first_open: u32,
    /// Which member was given a block last: it has the block in memory. Not who did it last, so that what one process
    /// alone is given does not hang on how fast it is.
    homes: Vec<Option<MemberId>>,
    totals: Totals,
    /// Under coordinators before this one.
    trained_before_ms: u64,
    began_ms: u64,
    /// When the newest block was done.
    trained_at_ms: u64,
    signs: u64,
}

impl Run {
    pub(super) fn new(name: String, spec: JobSpec, plan: JobPlan, now_ms: u64) -> Self {
        let phase = if spec.prepare { Phase::Prepare(Slot::FRESH) } else { Phase::Train };
        Self {
            name,
            phase,
            members: BTreeMap::new(),
            open: VecDeque::new(),
            first_open: 0,
            homes: vec![None; plan.blocks as usize],
            totals: Totals::default(),
            trained_before_ms: 0,
            began_ms: now_ms,
            trained_at_ms: now_ms,
            signs: 0,
            spec,
            plan,
        }
    }

    /// What another process must have been given alike.
    pub(super) fn check_same(&self, spec: &JobSpec, plan: &JobPlan) -> Result<(), JobError> {
        let parts = |plan: &JobPlan| match plan.parts {
            0 => "none".to_owned(),
            count => format!("I/{count}"),
        };
        let difference = self.spec.difference(spec).or_else(|| {
            let (theirs, ours) = (parts(&self.plan), parts(plan));
            (theirs != ours).then(|| ("--part".to_owned(), theirs, ours))
        });
        match difference {
            None => Ok(()),
            Some((field, theirs, ours)) => {
                Err(JobError::Mismatch { job: self.name.clone(), field, theirs, ours })
            }
        }
    }

    pub(super) fn join(
        &mut self,
        member: MemberId,
        joining: Joining,
        now_ms: u64,
    ) -> Result<MemberId, JobError> {
        let Joining { threads, part, token } = joining;
        if let Some((known, _)) = self.members.iter().find(|(_, m)| m.token == token && m.seen_ms.is_some()) {
            return Ok(*known);
        }
        if self.members.len() >= MAX_MEMBERS {
            return Err(JobError::TooMany { what: "processes of a job".to_owned(), most: MAX_MEMBERS });
        }
        if let Some(part) = part
            && self.members.values().any(|other| other.part == Some(part) && other.seen_ms.is_some())
        {
            return Err(JobError::PartTaken { job: self.name.clone(), part });
        }
        self.members.insert(member, Member { token, part, seen_ms: Some(now_ms) });
        self.signs += 1;
        self.totals.processes += 1;
        self.totals.threads = self.totals.threads.saturating_add(threads);
        Ok(member)
    }

    /// Notes that `member` lives; one that was lost is back, unless its part has another holder.
    pub(super) fn seen(&mut self, id: JobId, member: MemberId, now_ms: u64) -> Result<(), JobError> {
        let Some(found) = self.members.get(&member) else { return Err(JobError::NoMember { job: id }) };
        if found.seen_ms.is_none()
            && let Some(part) = found.part
            && self.members.values().any(|other| other.part == Some(part) && other.seen_ms.is_some())
        {
            return Err(JobError::PartTaken { job: self.name.clone(), part });
        }
        if let Some(found) = self.members.get_mut(&member) {
            found.seen_ms = Some(now_ms);
        }
        Ok(())
    }

    /// Frees what ran out, and what members had who said nothing for a lease's time.
    pub(super) fn expire(&mut self, now_ms: u64, lease_ms: u64) {
        let quiet =
            |member: &Member| member.seen_ms.is_some_and(|seen| now_ms.saturating_sub(seen) > lease_ms);
        let lost: Vec<MemberId> = self.members.iter().filter(|(_, m)| quiet(m)).map(|(id, _)| *id).collect();
        for member in &lost {
            if let Some(member) = self.members.get_mut(member) {
                member.seen_ms = None;
            }
        }
        self.free(|member, until_ms| until_ms <= now_ms || lost.contains(&member));
    }

    /// A member is gone for certain.
    pub(super) fn leave(&mut self, member: MemberId) {
        if let Some(found) = self.members.get_mut(&member) {
            found.seen_ms = None;
        }
        self.free(|holder, _| holder == member);
        self.signs += 1;
    }

    fn free(&mut self, which: impl Fn(MemberId, u64) -> bool) {
        let mut freed = 0;
        for slot in self.slots() {
            if let Slot::Leased { lease, member, until_ms } = *slot
                && which(member, until_ms)
            {
                *slot = Slot::Free { last: Some(lease) };
                freed += 1;
            }
        }
        self.totals.handed_on += freed;
    }

    fn slots(&mut self) -> impl Iterator<Item = &mut Slot> {
        let phase = match &mut self.phase {
            Phase::Prepare(slot) | Phase::Evaluate(slot) => Some(slot),
            _ => None,
        };
        self.open.iter_mut().flat_map(|epoch| epoch.slots.iter_mut()).chain(phase)
    }

    /// Finds a task for `member`, of at most `most` blocks; leases are numbered from `first`.
    pub(super) fn next(&mut self, member: MemberId, first: LeaseId, most: u32, until_ms: u64) -> Task {
        let taken = |lease| Slot::Leased { lease, member, until_ms };
        let totals = self.totals_now();
        match &mut self.phase {
            Phase::Finished { report } => return Task::Finished { report: report.clone() },
            Phase::Failed { reason } => return Task::Failed { reason: reason.clone() },
            Phase::Prepare(slot @ Slot::Free { .. }) => {
                *slot = taken(first);
                self.signs += 1;
                return Task::Prepare { lease: first };
            }
            Phase::Evaluate(slot @ Slot::Free { .. }) => {
                *slot = taken(first);
                self.signs += 1;
                return Task::Evaluate { lease: first, totals };
            }
            Phase::Prepare(_) | Phase::Evaluate(_) => {}
            Phase::Train => {
                if let Some((at, picked)) = self.pick(member, most) {
                    let leases = (first.0..).map(LeaseId);
                    let blocks: Vec<(LeaseId, u32)> = leases.zip(picked).collect();
                    for (lease, block) in &blocks {
                        self.open[at].slots[*block as usize] = taken(*lease);
                        self.homes[*block as usize] = Some(member);
                    }
                    self.signs += 1;
                    return Task::Blocks { epoch: self.first_open + at as u32, blocks };
                }
            }
        }
        Task::Wait { signs: self.signs, missing: self.missing_part() }
    }

    /// An open epoch and blocks in it for `member`; opens the next epoch when it may (J3).
    fn pick(&mut self, member: MemberId, most: u32) -> Option<(usize, Vec<u32>)> {
        let part = self.members.get(&member)?.part;
        for at in 0..OPEN_EPOCHS {
            let epoch = self.first_open + at as u32;
            if epoch >= self.spec.epochs {
                return None;
            }
            if at == self.open.len() {
                let slots = vec![Slot::FRESH; self.plan.blocks as usize];
                self.open.push_back(OpenEpoch { slots, tally: BlockTally::default() });
            }
            let free = |(block, slot): (usize, &Slot)| {
                let block = block as u32;
                let mine = part.is_none_or(|part| part.has(block));
                (mine && matches!(slot, Slot::Free { .. })).then_some(block)
            };
            let mut free: Vec<u32> = self.open[at].slots.iter().enumerate().filter_map(free).collect();
            if !free.is_empty() {
                let count = self.share(free.len()).min(most.max(1) as usize);
                let order = |block| place(self.spec.seed, epoch, block);
                free.sort_unstable_by_key(|&block| (self.distance(member, block), order(block)));
                free.truncate(count);
                free.sort_unstable_by_key(|&block| order(block));
                return Some((at, free));
            }
        }
        None
    }

    /// How many of `free` blocks one process may take at once. Many, for rows of distant blocks to mix; fewer as an
    /// epoch comes to its end, for all processes to end it together; never so few that they no longer mix.
    fn share(&self, free: usize) -> usize {
        let live = self.members.values().filter(|member| member.seen_ms.is_some()).count().max(1);
        let least = self.plan.blocks as usize / (4 * live);
        free.div_ceil(2 * live).max(least).max(1)
    }

    /// Blocks stay with who has them in memory; those of nobody that lives come next, then those of others.
    fn distance(&self, member: MemberId, block: u32) -> u8 {
        match self.homes[block as usize] {
            Some(home) if home == member => 0,
            Some(home) if self.members.get(&home).is_some_and(|m| m.seen_ms.is_some()) => 2,
            _ => 1,
        }
    }

    /// The first share with a block that is not done and with no process that lives.
    fn missing_part(&self) -> Option<Part> {
        let (epoch, count) = (self.open.front()?, self.plan.parts);
        let live = self.members.values().filter(|member| member.seen_ms.is_some());
        let held: BTreeSet<u32> = live.filter_map(|member| Some(member.part?.index)).collect();
        let undone = epoch.slots.iter().enumerate().filter(|(_, slot)| **slot != Slot::Done);
        let index = |(block, _): (usize, &Slot)| Some((block as u32).checked_rem(count)? + 1);
        let index = undone.filter_map(index).filter(|index| !held.contains(index)).min()?;
        Some(Part { index, count })
    }

    /// Renews a lease; false when it is lost (J1).
    pub(super) fn renew(&mut self, member: MemberId, lease: LeaseId, until_ms: u64) -> bool {
        self.signs += 1;
        match self.slots().find(|slot| slot.is_under(lease)) {
            Some(slot) => {
                *slot = Slot::Leased { lease, member, until_ms };
                true
            }
            None => false,
        }
    }

    /// Notes a task as done; whether it counts (J2).
    pub(super) fn done(&mut self, lease: LeaseId, tally: BlockTally, now_ms: u64) -> bool {
        self.signs += 1;
        if let Phase::Prepare(slot) = &self.phase {
            let counts = slot.is_under(lease);
            if counts {
                self.phase = Phase::Train;
            }
            return counts;
        }
        for epoch in &mut self.open {
            let Some(block) = epoch.slots.iter().position(|slot| slot.is_under(lease)) else { continue };
            epoch.slots[block] = Slot::Done;
            epoch.tally.examples += tally.examples;
            epoch.tally.loss += tally.loss;
            self.trained_at_ms = now_ms;
            self.totals.all.examples += tally.examples;
            self.totals.all.loss += tally.loss;
            self.close_epochs();
            return true;
        }
        false
    }

    fn close_epochs(&mut self) {
        while self.open.front().is_some_and(|epoch| epoch.slots.iter().all(|slot| *slot == Slot::Done)) {
            let Some(epoch) = self.open.pop_front() else { return };
            self.totals.last = epoch.tally;
            self.first_open += 1;
        }
        if self.first_open == self.spec.epochs {
            self.phase = Phase::Evaluate(Slot::FRESH);
        }
    }

    /// Ends the job with its figures; whether they count (J4).
    pub(super) fn report(&mut self, lease: LeaseId, report: String) -> bool {
        let counts = matches!(&self.phase, Phase::Evaluate(slot) if slot.is_under(lease));
        if counts {
            self.phase = Phase::Finished { report };
        }
        self.signs += 1;
        counts
    }

    /// Ends the job without; whether that counts.
    pub(super) fn fail(&mut self, reason: String) -> bool {
        let counts = !self.is_over();
        if counts {
            self.phase = Phase::Failed { reason };
            self.open.clear();
        }
        counts
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Finished { .. } | Phase::Failed { .. })
    }

    pub(super) fn is_failed(&self) -> bool {
        matches!(self.phase, Phase::Failed { .. })
    }

    pub(super) fn finished(&self) -> Option<&str> {
        match &self.phase {
            Phase::Finished { report } => Some(report),
            _ => None,
        }
    }

    /// Whether nobody takes part.
    pub(super) fn is_abandoned(&self) -> bool {
        self.members.values().all(|member| member.seen_ms.is_none())
    }

    /// A coordinator started again: every lease runs anew from now, and nobody is lost before it ran out.
    pub(super) fn rebase(&mut self, now_ms: u64, lease_ms: u64) {
        for slot in self.slots() {
            if let Slot::Leased { until_ms, .. } = slot {
                *until_ms = now_ms + lease_ms;
            }
        }
        for member in self.members.values_mut().filter(|member| member.seen_ms.is_some()) {
            member.seen_ms = Some(now_ms);
        }
        self.trained_before_ms += self.trained_at_ms.saturating_sub(self.began_ms);
        (self.began_ms, self.trained_at_ms) = (now_ms, now_ms);
    }

    fn totals_now(&self) -> Totals {
        let trained_ms = self.trained_before_ms + self.trained_at_ms.saturating_sub(self.began_ms);
        Totals { trained_ms, ..self.totals }
    }

    pub(super) fn status(&self, job: JobId, now_ms: u64, lease_ms: u64) -> JobStatus {
        let lives = |seen_ms: u64| now_ms.saturating_sub(seen_ms) <= lease_ms;
        let done = |epoch: &OpenEpoch| epoch.slots.iter().filter(|slot| **slot == Slot::Done).count() as u32;
        JobStatus {
            job,
            name: self.name.clone(),
            phase: match self.phase {
                Phase::Prepare(_) => JobPhase::Preparing,
                Phase::Train => JobPhase::Training,
                Phase::Evaluate(_) => JobPhase::Evaluating,
                Phase::Finished { .. } => JobPhase::Finished,
                Phase::Failed { .. } => JobPhase::Failed,
            },
            epoch: self.first_open,
            epochs: self.spec.epochs,
            blocks_done: self.open.front().map_or(0, done),
            blocks: self.plan.blocks,
            examples: self.totals.all.examples,
            processes: self.members.values().filter(|member| member.seen_ms.is_some_and(lives)).count()
                as u32,
        }
    }
}
