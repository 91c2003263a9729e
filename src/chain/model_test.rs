//! Thousands of random schedules of model clients, a network that loses, doubles and reorders, a store that
//! refuses and postpones, and a tail that acknowledges when it likes, against one [`Replica`].
//!
//! Checked throughout: what is told as replicated is applied and its batch acknowledged. Checked at the end, after
//! a phase in which the network is kind: everybody is done; every acknowledged push is applied once and in order;
//! no refused one is; the log is empty and no refusal is still kept; a successor that has nothing but the batches
//! has applied the same and has the same state. Planted faults show that each of these checks can fail.

use std::collections::BTreeMap;

use super::model_client::{Client, Fate, Random, Reply, Request, Work};
use super::sessions::Sessions;
use super::*;
use crate::wire::ids::{Clock, Epoch, Lsn, PartitionId, Sequence, SessionId, TableId};
use crate::wire::{Level, RefusalCode};

const EPOCH: Epoch = Epoch(1);

/// A way in which the code around or inside a replica could be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    ApplyDuplicates,
    ApplyWhatIsRetried,
    ApplyWhatWasAbandoned,
    ApplyWhatWasRefused,
    ApplyAfterTheEnd,
    AcknowledgeWhatIsOnlyApplied,
    ForgetRefusals,
    TellOnceAndNeverAgain,
    NeverAcknowledge,
    DamageABatch,
    LoseABatch,
    SuccessorSkipsClocks,
}

const FAULTS: [Fault; 12] = [
    Fault::ApplyDuplicates,
    Fault::ApplyWhatIsRetried,
    Fault::ApplyWhatWasAbandoned,
    Fault::ApplyWhatWasRefused,
    Fault::ApplyAfterTheEnd,
    Fault::AcknowledgeWhatIsOnlyApplied,
    Fault::ForgetRefusals,
    Fault::TellOnceAndNeverAgain,
    Fault::NeverAcknowledge,
    Fault::DamageABatch,
    Fault::LoseABatch,
    Fault::SuccessorSkipsClocks,
];

/// How often the interesting things happened, so that a schedule that avoids them is noticed.
#[derive(Debug, Default)]
struct Seen {
    duplicates: u32,
    gaps: u32,
    full: u32,
    abandoned: u32,
    refused: u32,
    oversize: u32,
    ended: u32,
    auto_sealed: u32,
}

struct Server {
    replica: Replica,
    fault: Fault,
    /// What the store has seen, in order.
    applied: Vec<(SessionId, u64)>,
    /// The batch of each sequence, from 1.
    ordered: BTreeMap<SessionId, Vec<Lsn>>,
    clocks: BTreeMap<SessionId, Clock>,
    ended: Vec<SessionId>,
    batches: Vec<Vec<u8>>,
    told_before: BTreeMap<SessionId, Sequence>,
    seen: Seen,
}

impl Server {
    fn new(fault: Fault, sessions: &[SessionId]) -> Self {
        let config = ReplicaConfig {
            partition: PartitionId(0),
            epoch: EPOCH,
            position: Position::Only,
            log_bytes: 1 << 14,
        };
        let mut replica = Replica::new(config).unwrap();
        for &session in sessions {
            let began = ControlEntry::ClientBegan { session, worker: true };
            assert_eq!(replica.control(began), Verdict::Ordered);
        }
        Self {
            replica,
            fault,
            applied: Vec::new(),
            ordered: sessions.iter().map(|&session| (session, Vec::new())).collect(),
            clocks: sessions.iter().map(|&session| (session, Clock(0))).collect(),
            ended: Vec::new(),
            batches: Vec::new(),
            told_before: BTreeMap::new(),
            seen: Seen::default(),
        }
    }

    fn receive(&mut self, request: &Request, postpone: bool) -> Option<Reply> {
        let before = self.replica.lsn();
        let reply = match request.work {
            Work::Push { id, bytes, bad } => self.receive_push(request, id, bytes, bad, postpone),
            Work::Clock(clock) => self.receive_clock(request, clock),
        };
        self.seen.auto_sealed += u32::from(self.replica.lsn() > before);
        self.capture();
        reply
    }

    fn receive_push(
        &mut self,
        request: &Request,
        id: u64,
        bytes: usize,
        bad: bool,
        postpone: bool,
    ) -> Option<Reply> {
        let &Request { session, sequence, resolved, .. } = request;
        let head = PushHead {
            session,
            sequence,
            epoch: EPOCH,
            resolved,
            table: TableId(1),
            clock: Clock(0),
            level: if id.is_multiple_of(2) { Level::Applied } else { Level::Replicated },
            bytes,
        };
        match self.replica.admit(head) {
            Admission::Order(slot) if postpone => {
                self.seen.abandoned += 1;
                self.replica.log_mut(&slot).fill(0xaa);
                self.replica.abandon(slot);
                self.apply_if(Fault::ApplyWhatWasAbandoned, session, id);
                return Some(Reply::Retry { session, sequence, reason: RetryReason::Orphan });
            }
            Admission::Order(slot) => {
                self.order_of(session).push(Lsn(0));
                let space = self.replica.log_mut(&slot);
                space.fill(id as u8);
                space[..8].copy_from_slice(&id.to_le_bytes());
                if bad {
                    self.seen.refused += 1;
                    self.replica.refuse(slot, RefusalCode::Unsorted);
                    self.apply_if(Fault::ApplyWhatWasRefused, session, id);
                } else {
                    self.applied.push((session, id));
                    self.replica.commit(slot, EntryFlags::CREATES);
                }
            }
            Admission::Duplicate => {
                self.seen.duplicates += 1;
                self.apply_if(Fault::ApplyDuplicates, session, id);
                return None;
            }
            Admission::Refused => {
                self.seen.oversize += 1;
                self.order_of(session).push(Lsn(0));
            }
            Admission::Retry(reason) => return Some(self.retried(request, reason, Some(id))),
            Admission::Ended => {
                self.apply_if(Fault::ApplyAfterTheEnd, session, id);
                return Some(Reply::Ended { session });
            }
        }
        self.note_lsn(session);
        None
    }

    fn receive_clock(&mut self, request: &Request, clock: Clock) -> Option<Reply> {
        let &Request { session, sequence, resolved, .. } = request;
        match self.replica.clock(session, sequence, EPOCH, resolved, clock) {
            Verdict::Ordered => {
                self.order_of(session).push(Lsn(0));
                self.note_lsn(session);
                self.clocks.insert(session, clock);
                None
            }
            Verdict::Duplicate => None,
            Verdict::Retry(reason) => Some(self.retried(request, reason, None)),
            Verdict::Ended => Some(Reply::Ended { session }),
        }
    }

    fn retried(&mut self, request: &Request, reason: RetryReason, id: Option<u64>) -> Reply {
        match reason {
            RetryReason::SequenceGap { .. } => self.seen.gaps += 1,
            RetryReason::LogFull => self.seen.full += 1,
            other => panic!("{other:?}"),
        }
        if let Some(id) = id {
            self.apply_if(Fault::ApplyWhatIsRetried, request.session, id);
        }
        Reply::Retry { session: request.session, sequence: request.sequence, reason }
    }

    fn apply_if(&mut self, fault: Fault, session: SessionId, id: u64) {
        if self.fault == fault {
            self.applied.push((session, id));
        }
    }

    fn order_of(&mut self, session: SessionId) -> &mut Vec<Lsn> {
        self.ordered.get_mut(&session).unwrap()
    }

    fn note_lsn(&mut self, session: SessionId) {
        let lsn = self.replica.open_lsn();
        *self.order_of(session).last_mut().unwrap() = lsn;
    }

    /// Copies each batch as it is sealed, as forwarding to a successor would.
    fn capture(&mut self) {
        for lsn in self.batches.len() as u64 + 1..=self.replica.lsn().0 {
            self.batches.push(self.replica.batch(Lsn(lsn)).unwrap().to_vec());
        }
    }

    fn seal(&mut self) {
        self.replica.seal();
        self.capture();
    }

    fn acknowledge(&mut self, lsn: Lsn) {
        if self.fault != Fault::NeverAcknowledge {
            self.replica.acked(lsn).unwrap();
        }
    }

    fn end(&mut self, session: SessionId) {
        if self.replica.control(ControlEntry::ClientEnded { session }) == Verdict::Ordered {
            self.seen.ended += 1;
            self.clocks.remove(&session);
            self.ended.push(session);
        }
        self.capture();
    }

    /// Every outcome that is due, checked against what has really happened.
    fn tell(&mut self, room: u64) -> Result<Vec<Reply>, String> {
        let Self { replica, ordered, fault, told_before, .. } = self;
        let acked = replica.acked_lsn();
        let mut wrong = None;
        let mut told = Vec::new();
        replica.outcomes(|outcome| {
            let Outcome { session, applied, mut replicated, refused } = outcome;
            if *fault == Fault::AcknowledgeWhatIsOnlyApplied {
                replicated = applied;
            }
            let order = &ordered[&session];
            if applied.0 as usize > order.len() || replicated > applied {
                wrong =
                    Some(format!("session {session} was told {replicated} of {applied} of {}", order.len()));
            } else if replicated.0 > 0 && order[replicated.0 as usize - 1] > acked {
                wrong = Some(format!("session {session} was told {replicated} ahead of lsn {acked}"));
            }
            if told.len() as u64 >= room {
                return false;
            }
            let news = told_before.insert(session, replicated) != Some(replicated);
            if *fault == Fault::TellOnceAndNeverAgain && !news {
                return true;
            }
            let refused = if *fault == Fault::ForgetRefusals { Vec::new() } else { refused.to_vec() };
            told.push(Reply::Outcome { session, replicated, refused });
            true
        });
        wrong.map_or(Ok(told), Err)
    }
}

fn work(random: &mut Random, session: SessionId, count: u64) -> Vec<Work> {
    let mut clock = 0;
    (0..count)
        .map(|index| match random.below(12) {
            0 => {
                clock += 1;
                Work::Clock(Clock(clock))
            }
            1 => Work::Push { id: session.0 << 32 | index, bytes: 8, bad: true },
            2 => Work::Push { id: session.0 << 32 | index, bytes: 5000, bad: true },
            3..=5 => Work::Push { id: session.0 << 32 | index, bytes: 3000, bad: false },
            size => Work::Push { id: session.0 << 32 | index, bytes: 8 + size as usize * 13, bad: false },
        })
        .collect()
}

struct Run {
    random: Random,
    /// How often the tail acknowledges, of the times it could: a lazy one lets the log fill.
    tail_percent: u64,
    server: Server,
    clients: Vec<Client>,
    requests: Vec<Request>,
    replies: Vec<Reply>,
}

fn take<T: Clone>(random: &mut Random, messages: &mut Vec<T>) -> Option<T> {
    if messages.is_empty() {
        return None;
    }
    // Mostly in order, sometimes any; sometimes it stays and comes again.
    let index = if random.percent(60) { 0 } else { random.below(messages.len() as u64) as usize };
    Some(if random.percent(12) { messages[index].clone() } else { messages.remove(index) })
}

impl Run {
    fn new(seed: u64, fault: Fault) -> Self {
        let mut random = Random(seed);
        let clients: Vec<Client> = (1..=1 + random.below(3))
            .map(|number| {
                let session = SessionId(number);
                let count = 5 + random.below(30);
                Client::new(session, work(&mut random, session, count), 1 + random.below(8) as usize)
            })
            .collect();
        let sessions: Vec<SessionId> = clients.iter().map(|client| client.session).collect();
        let server = Server::new(fault, &sessions);
        let tail_percent = [100, 40, 4][random.below(3) as usize];
        Self { random, tail_percent, server, clients, requests: Vec::new(), replies: Vec::new() }
    }

    fn step(&mut self) -> Result<(), String> {
        let random = &mut self.random;
        match random.below(100) {
            0..30 => {
                let index = random.below(self.clients.len() as u64) as usize;
                if let Some(request) = self.clients[index].send()
                    && !random.percent(15)
                {
                    self.requests.push(request);
                }
            }
            30..60 => {
                if let Some(request) = take(random, &mut self.requests) {
                    let reply = self.server.receive(&request, random.percent(8));
                    if !random.percent(15) {
                        self.replies.extend(reply);
                    }
                }
            }
            60..75 => {
                if let Some(reply) = take(random, &mut self.replies) {
                    self.deliver(&reply);
                }
            }
            75..82 => self.server.seal(),
            82..90 if !random.percent(self.tail_percent) => {}
            82..90 => {
                let (acked, lsn) = (self.server.replica.acked_lsn().0, self.server.replica.lsn().0);
                // Sometimes an old one, again.
                let lsn = acked.saturating_sub(1) + random.below(lsn - acked + 2);
                self.server.acknowledge(Lsn(lsn.min(self.server.replica.lsn().0)));
            }
            90..96 => {
                for reply in self.server.tell(random.below(4))? {
                    if !self.random.percent(25) {
                        self.replies.push(reply);
                    }
                }
            }
            96..99 => {
                let index = random.below(self.clients.len() as u64) as usize;
                self.clients[index].time_out();
            }
            _ => {
                if random.percent(10) {
                    self.server.end(SessionId(1));
                }
            }
        }
        Ok(())
    }

    fn deliver(&mut self, reply: &Reply) {
        let (Reply::Outcome { session, .. } | Reply::Retry { session, .. } | Reply::Ended { session }) =
            reply;
        self.clients[session.0 as usize - 1].receive(reply);
    }

    /// A kind network: everybody gets done, or the protocol has lost something for good.
    fn settle(&mut self) -> Result<(), String> {
        self.requests.clear();
        self.replies.clear();
        for _ in 0..500 {
            if self.clients.iter().all(Client::is_done) {
                return Ok(());
            }
            for index in 0..self.clients.len() {
                self.clients[index].time_out();
                while let Some(request) = self.clients[index].send() {
                    let reply = self.server.receive(&request, false);
                    if let Some(reply) = reply {
                        self.deliver(&reply);
                        break;
                    }
                }
            }
            self.server.seal();
            self.server.acknowledge(self.server.replica.lsn());
            for reply in self.server.tell(u64::MAX)? {
                self.deliver(&reply);
            }
        }
        Err("somebody never gets done".into())
    }

    /// The whole of a seed.
    fn play(mut self) -> Result<Seen, String> {
        for _ in 0..600 {
            self.step()?;
        }
        self.settle()?;
        // One more record of each tells the server that all before it is resolved.
        for client in &mut self.clients {
            client.work.push(Work::Clock(Clock(1_000_000)));
        }
        self.settle()?;
        self.server.seal();
        self.server.acknowledge(self.server.replica.lsn());
        self.check_clients()?;
        self.check_server()?;
        self.check_successor()?;
        Ok(self.server.seen)
    }

    fn check_clients(&self) -> Result<(), String> {
        for client in &self.clients {
            let session = client.session;
            let applied: Vec<u64> =
                self.server.applied.iter().filter(|(of, _)| *of == session).map(|&(_, id)| id).collect();
            let mut acked = Vec::new();
            for (work, fate) in client.work.iter().zip(&client.fates) {
                match (work, fate) {
                    (Work::Push { id, bad: false, .. }, Fate::Acked) => acked.push(*id),
                    (Work::Push { bad: true, .. }, Fate::Refused(_)) | (Work::Clock(_), Fate::Acked) => {}
                    wrong => return Err(format!("session {session} learnt {wrong:?}")),
                }
            }
            // What an ended session had under way may be applied, but only once, in order and as a prefix.
            let expected: Vec<u64> = client
                .work
                .iter()
                .filter_map(|work| match work {
                    Work::Push { id, bad: false, .. } => Some(*id),
                    _ => None,
                })
                .take(applied.len())
                .collect();
            if applied != expected || !applied.starts_with(&acked) || (!client.ended && applied != acked) {
                return Err(format!("session {session}: acknowledged {acked:?}, applied {applied:?}"));
            }
        }
        Ok(())
    }

    fn check_server(&self) -> Result<(), String> {
        let replica = &self.server.replica;
        if replica.log_bytes() != 0 {
            return Err(format!("{} bytes are left in the log", replica.log_bytes()));
        }
        if let Some(state) = replica.sessions().find(|state| !state.refused.is_empty()) {
            return Err(format!("resolved refusals are still kept: {state:?}"));
        }
        if replica.min_clock() != self.server.clocks.values().min().copied() {
            return Err(format!("lowest clock {:?} of {:?}", replica.min_clock(), self.server.clocks));
        }
        let live: Vec<SessionId> = replica.sessions().map(|state| state.session).collect();
        let expected: Vec<SessionId> = self.server.clocks.keys().copied().collect();
        if live != expected { Err(format!("live {live:?}, not {expected:?}")) } else { Ok(()) }
    }

    fn check_successor(&mut self) -> Result<(), String> {
        let server = &mut self.server;
        match server.fault {
            Fault::DamageABatch => server.batches[0][BATCH_HEADER_BYTES + 20] ^= 1,
            Fault::LoseABatch => drop(server.batches.remove(0)),
            _ => {}
        }
        let mut successor = Sessions::default();
        let mut applied = Vec::new();
        let mut last = Lsn(0);
        for bytes in &server.batches {
            let batch = Batch::parse(bytes).map_err(|error| error.to_string())?;
            if batch.head.lsn != last.next() || batch.head.epoch != EPOCH {
                return Err(format!("after lsn {last} came {:?}", batch.head));
            }
            last = batch.head.lsn;
            for Entry { head, payload } in batch.entries() {
                if server.fault == Fault::SuccessorSkipsClocks && head.kind == EntryKind::Clock {
                    continue;
                }
                successor.apply(last, &head).map_err(|error| error.to_string())?;
                if head.kind == EntryKind::Push {
                    let id = u64::from_le_bytes(payload[..8].try_into().unwrap());
                    if payload[8..].iter().any(|&byte| byte != id as u8) {
                        return Err(format!("push {id} arrived with another's bytes"));
                    }
                    applied.push((head.session, id));
                }
            }
        }
        if applied != server.applied || !successor.iter().eq(server.replica.sessions()) {
            return Err("a successor made from the batches is not what the head is".into());
        }
        if successor.min_clock() != server.replica.min_clock() {
            return Err("head and successor differ in their lowest clock".into());
        }
        Ok(())
    }
}

#[test]
fn over_thousands_of_schedules_every_push_is_applied_once_or_refused_and_its_client_knows_which() {
    let mut total = Seen::default();
    for seed in 0..4000 {
        let seen = Run::new(seed, Fault::None).play().unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        total.duplicates += seen.duplicates;
        total.gaps += seen.gaps;
        total.full += seen.full;
        total.abandoned += seen.abandoned;
        total.refused += seen.refused;
        total.oversize += seen.oversize;
        total.ended += seen.ended;
        total.auto_sealed += seen.auto_sealed;
    }
    let Seen { duplicates, gaps, full, abandoned, refused, oversize, ended, auto_sealed } = total;
    let rarest = [duplicates, gaps, full, abandoned, refused, oversize, ended, auto_sealed].into_iter().min();
    assert!(rarest > Some(500), "the schedules avoid what they should try: {total:?}");
}

#[test]
fn every_planted_fault_is_found() {
    for fault in FAULTS {
        let found = (0..300).filter(|&seed| Run::new(seed, fault).play().is_err()).count();
        assert!(found > 0, "{fault:?} passed 300 schedules");
    }
}

#[test]
fn a_seed_repeats_its_schedule() {
    let trace = |seed| {
        let mut run = Run::new(seed, Fault::None);
        for _ in 0..600 {
            run.step().unwrap();
        }
        run.server.seal();
        (run.server.applied, run.server.batches)
    };
    assert_eq!(trace(11), trace(11));
    assert_ne!(trace(11), trace(12));
}

#[test]
fn a_batch_that_does_not_continue_a_session_is_a_divergence() {
    let mut successor = Sessions::default();
    let session = SessionId(1);
    let began = EntryHead { session, ..EntryHead::new(EntryKind::ClientBegan) };
    let push =
        |sequence| EntryHead { session, sequence: Sequence(sequence), ..EntryHead::new(EntryKind::Push) };
    let life = |kind| Err(Divergence::Life { session, kind });
    assert_eq!(successor.apply(Lsn(1), &push(1)), life(EntryKind::Push));
    successor.apply(Lsn(1), &began).unwrap();
    assert_eq!(successor.apply(Lsn(1), &began), life(EntryKind::ClientBegan));
    successor.apply(Lsn(2), &push(1)).unwrap();
    for found in [1, 3] {
        let found = Sequence(found);
        assert_eq!(
            successor.apply(Lsn(3), &push(found.0)),
            Err(Divergence::Sequence { session, expected: Sequence(2), found })
        );
    }
    assert_eq!(successor.iter().next().unwrap().lsn, Lsn(2), "nothing changed");
}
