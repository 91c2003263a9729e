//! One rule of the design a test, on a replica driven by hand.

use super::*;
use crate::wire::ids::{Clock, Epoch, Lsn, PartitionId, Sequence, SessionId, TableId};
use crate::wire::{Level, RefusalCode};

const ALICE: SessionId = SessionId(7);
const BOB: SessionId = SessionId(9);

fn config() -> ReplicaConfig {
    ReplicaConfig { partition: PartitionId(3), epoch: Epoch(5), position: Position::Only, log_bytes: 1 << 16 }
}

fn replica() -> Replica {
    let mut replica = Replica::new(config()).unwrap();
    for session in [ALICE, BOB] {
        let began = replica.control(ControlEntry::ClientBegan { session, worker: true });
        assert_eq!(began, Verdict::Ordered);
    }
    settle(&mut replica);
    replica
}

fn head(session: SessionId, sequence: u64) -> PushHead {
    PushHead {
        session,
        sequence: Sequence(sequence),
        epoch: Epoch(5),
        resolved: Sequence(0),
        table: TableId(1),
        clock: Clock(0),
        level: Level::Replicated,
        bytes: 12,
    }
}

#[track_caller]
fn slot(replica: &mut Replica, head: PushHead) -> LogSlot {
    match replica.admit(head) {
        Admission::Order(slot) => slot,
        other => panic!("{head:?} was not admitted: {other:?}"),
    }
}

#[track_caller]
fn push(replica: &mut Replica, session: SessionId, sequence: u64) {
    let slot = slot(replica, head(session, sequence));
    replica.log_mut(&slot).fill(sequence as u8);
    replica.commit(slot, EntryFlags::CREATES);
}

#[track_caller]
fn refuse(replica: &mut Replica, session: SessionId, sequence: u64) {
    let slot = slot(replica, head(session, sequence));
    replica.refuse(slot, RefusalCode::Shape);
}

fn settle(replica: &mut Replica) {
    replica.seal();
    replica.acked(replica.lsn()).unwrap();
}

type Told = (SessionId, u64, u64, Vec<(u64, RefusalCode)>);

fn outcomes(replica: &mut Replica) -> Vec<Told> {
    let mut told = Vec::new();
    replica.outcomes(|outcome| {
        let refused = outcome.refused.iter().map(|&(sequence, code)| (sequence.0, code)).collect();
        told.push((outcome.session, outcome.applied.0, outcome.replicated.0, refused));
        true
    });
    told
}

fn retry(admission: Admission) -> RetryReason {
    match admission {
        Admission::Retry(reason) => reason,
        other => panic!("{other:?} is no retry"),
    }
}

#[test]
fn a_push_is_told_replicated_only_once_its_batch_is_acknowledged() {
    let mut replica = replica();
    push(&mut replica, ALICE, 1);
    assert_eq!(outcomes(&mut replica), []);
    assert_eq!(replica.seal(), Some(Lsn(2)));
    assert_eq!(replica.seal(), None);
    assert_eq!(outcomes(&mut replica), []);
    replica.acked(Lsn(2)).unwrap();
    assert_eq!(outcomes(&mut replica), [(ALICE, 1, 1, vec![])]);
    assert_eq!(outcomes(&mut replica), [], "told once");
}

#[test]
fn a_ticket_that_waits_for_applied_hears_before_the_chain_has_acknowledged() {
    let mut replica = replica();
    let slot = slot(&mut replica, PushHead { level: Level::Applied, ..head(BOB, 1) });
    replica.commit(slot, EntryFlags::NONE);
    replica.seal();
    assert_eq!(outcomes(&mut replica), [(BOB, 1, 0, vec![])]);
    replica.acked(replica.lsn()).unwrap();
    assert_eq!(outcomes(&mut replica), [(BOB, 1, 1, vec![])]);
}

#[test]
fn a_resent_push_is_ordered_once_and_its_outcome_restated() {
    let mut replica = replica();
    push(&mut replica, ALICE, 1);
    replica.seal();
    let log_bytes = replica.log_bytes();
    assert!(matches!(replica.admit(head(ALICE, 1)), Admission::Duplicate));
    assert_eq!(replica.log_bytes(), log_bytes);
    assert_eq!(outcomes(&mut replica), [(ALICE, 1, 0, vec![])], "acknowledged no earlier than its lsn");
    replica.acked(replica.lsn()).unwrap();
    assert_eq!(outcomes(&mut replica).len(), 1);
    assert!(matches!(replica.admit(head(ALICE, 1)), Admission::Duplicate));
    assert_eq!(outcomes(&mut replica), [(ALICE, 1, 1, vec![])], "a lost outcome heals");
}

#[test]
fn an_outcome_that_could_not_be_passed_on_stays_due() {
    let mut replica = replica();
    push(&mut replica, ALICE, 1);
    push(&mut replica, BOB, 1);
    settle(&mut replica);
    replica.outcomes(|outcome| outcome.session == BOB);
    assert!(replica.has_outcomes());
    assert_eq!(outcomes(&mut replica), [(ALICE, 1, 1, vec![])]);
    assert!(!replica.has_outcomes());
}

#[test]
fn a_gap_is_told_the_sequence_that_may_come_and_changes_nothing() {
    let mut replica = replica();
    assert_eq!(retry(replica.admit(head(ALICE, 2))), RetryReason::SequenceGap { expected: Sequence(1) });
    assert_eq!(replica.expected(ALICE), Some(Sequence(1)));
    assert_eq!(replica.log_bytes(), 0);
}

#[test]
fn a_refused_push_uses_up_its_sequence_and_is_never_told_as_acknowledged() {
    let mut replica = replica();
    refuse(&mut replica, ALICE, 1);
    push(&mut replica, ALICE, 2);
    settle(&mut replica);
    let refused = vec![(1, RefusalCode::Shape)];
    assert_eq!(outcomes(&mut replica), [(ALICE, 2, 2, refused.clone())]);
    assert!(matches!(replica.admit(head(ALICE, 1)), Admission::Duplicate));
    assert_eq!(
        outcomes(&mut replica),
        [(ALICE, 2, 2, refused)],
        "the reply was lost; the answer is the same"
    );
}

#[test]
fn a_refusal_is_forgotten_once_an_ordered_push_says_it_is_resolved() {
    let mut replica = replica();
    refuse(&mut replica, ALICE, 1);
    refuse(&mut replica, ALICE, 2);
    assert!(matches!(
        replica.admit(PushHead { resolved: Sequence(3), ..head(ALICE, 1) }),
        Admission::Duplicate
    ));
    assert_eq!(
        replica.sessions().next().unwrap().refused.len(),
        2,
        "a duplicate is no entry: replicas must agree"
    );
    let slot = slot(&mut replica, PushHead { resolved: Sequence(2), ..head(ALICE, 3) });
    replica.commit(slot, EntryFlags::NONE);
    assert_eq!(replica.sessions().next().unwrap().refused, [(Sequence(2), RefusalCode::Shape)]);
}

#[test]
fn a_client_that_resolves_nothing_can_not_grow_the_list_of_its_refusals() {
    let mut replica = replica();
    for sequence in 1..=REFUSALS_KEPT as u64 {
        refuse(&mut replica, ALICE, sequence);
        if sequence % 100 == 0 {
            settle(&mut replica);
        }
    }
    let next = REFUSALS_KEPT as u64 + 1;
    assert_eq!(retry(replica.admit(head(ALICE, next))), RetryReason::RefusalsFull);
    let slot = slot(&mut replica, PushHead { resolved: Sequence(2), ..head(ALICE, next) });
    replica.refuse(slot, RefusalCode::Memory);
    assert_eq!(replica.sessions().next().unwrap().refused.len(), REFUSALS_KEPT);
}

#[test]
fn an_abandoned_push_leaves_no_trace_and_may_come_again() {
    let mut replica = replica();
    push(&mut replica, ALICE, 1);
    let before = replica.log_bytes();
    let slot = slot(&mut replica, head(ALICE, 2));
    replica.log_mut(&slot).fill(0xff);
    replica.abandon(slot);
    assert_eq!(replica.log_bytes(), before);
    push(&mut replica, ALICE, 2);
    let lsn = replica.seal().unwrap();
    let bytes = replica.batch(lsn).unwrap().to_vec();
    let batch = Batch::parse(&bytes).unwrap();
    let payloads: Vec<&[u8]> = batch.entries().map(|entry| entry.payload).collect();
    assert_eq!(payloads, [[1; 12], [2; 12]]);
}

#[test]
#[should_panic(expected = "outlived its turn")]
fn a_slot_is_void_once_something_else_was_ordered() {
    let mut replica = replica();
    let old = slot(&mut replica, head(ALICE, 1));
    push(&mut replica, BOB, 1);
    replica.commit(old, EntryFlags::NONE);
}

#[test]
fn a_push_under_another_epoch_or_to_no_head_is_a_retry() {
    let mut replica = replica();
    let other = PushHead { epoch: Epoch(4), ..head(ALICE, 1) };
    assert_eq!(retry(replica.admit(other)), RetryReason::UnknownEpoch { ours: Epoch(5) });
    replica.set_orphan(true);
    assert_eq!(retry(replica.admit(head(ALICE, 1))), RetryReason::Orphan);
    replica.set_orphan(false);
    push(&mut replica, ALICE, 1);

    let mut tail = Replica::new(ReplicaConfig { position: Position::Tail, ..config() }).unwrap();
    let began = tail.control(ControlEntry::ClientBegan { session: ALICE, worker: true });
    assert_eq!(began, Verdict::Retry(RetryReason::WrongHead));
}

#[test]
fn an_ended_session_is_refused_for_ever_and_can_not_begin_again() {
    let mut replica = replica();
    push(&mut replica, ALICE, 1);
    assert_eq!(replica.control(ControlEntry::ClientEnded { session: ALICE }), Verdict::Ordered);
    assert_eq!(replica.control(ControlEntry::ClientEnded { session: ALICE }), Verdict::Duplicate);
    assert_eq!(replica.control(ControlEntry::ClientBegan { session: ALICE, worker: true }), Verdict::Ended);
    assert!(matches!(replica.admit(head(ALICE, 1)), Admission::Ended));
    assert!(matches!(replica.admit(head(ALICE, 2)), Admission::Ended));
    let clock = replica.clock(ALICE, Sequence(2), Epoch(5), Sequence(0), Clock(1));
    assert_eq!(clock, Verdict::Ended);
    settle(&mut replica);
    assert_eq!(outcomes(&mut replica), [], "nobody is left to be told");
    assert_eq!(replica.sessions().count(), 1);
}

#[test]
fn a_session_that_never_began_here_is_answered_as_ended() {
    assert!(matches!(replica().admit(head(SessionId(8), 1)), Admission::Ended));
}

#[test]
fn the_lowest_clock_is_that_of_live_workers_and_a_joiner_takes_it() {
    let mut replica = replica();
    let clock = |replica: &mut Replica, session, sequence, clock| {
        let verdict = replica.clock(session, Sequence(sequence), Epoch(5), Sequence(0), Clock(clock));
        assert_eq!(verdict, Verdict::Ordered);
    };
    assert_eq!(replica.min_clock(), Some(Clock(0)));
    clock(&mut replica, ALICE, 1, 4);
    clock(&mut replica, BOB, 1, 3);
    assert_eq!(replica.min_clock(), Some(Clock(3)));
    let ahead = slot(&mut replica, PushHead { clock: Clock(8), ..head(BOB, 2) });
    replica.commit(ahead, EntryFlags::NONE);
    assert_eq!(replica.min_clock(), Some(Clock(3)), "a push does not move the clock of its iteration");
    clock(&mut replica, BOB, 3, 1);
    assert_eq!(replica.min_clock(), Some(Clock(3)), "a clock never goes back");
    let (joiner, watcher) = (SessionId(10), SessionId(11));
    assert_eq!(
        replica.control(ControlEntry::ClientBegan { session: watcher, worker: false }),
        Verdict::Ordered
    );
    assert_eq!(
        replica.control(ControlEntry::ClientBegan { session: joiner, worker: true }),
        Verdict::Ordered
    );
    assert_eq!(replica.sessions().find(|state| state.session == joiner).unwrap().clock, Clock(3));
    clock(&mut replica, joiner, 1, 9);
    assert_eq!(replica.control(ControlEntry::ClientEnded { session: BOB }), Verdict::Ordered);
    assert_eq!(replica.min_clock(), Some(Clock(4)), "who is gone and who only watches hold nobody back");
    let verdict = replica.clock(ALICE, Sequence(1), Epoch(5), Sequence(0), Clock(4));
    assert_eq!(verdict, Verdict::Duplicate);
    for session in [ALICE, joiner] {
        assert_eq!(replica.control(ControlEntry::ClientEnded { session }), Verdict::Ordered);
    }
    assert_eq!(replica.min_clock(), None);
}

#[test]
fn a_full_log_asks_for_a_retry_and_an_acknowledgement_makes_room() {
    let mut replica = replica();
    let big = |sequence| PushHead { bytes: 12_000, ..head(ALICE, sequence) };
    let mut sequence = 1;
    let reason = loop {
        match replica.admit(big(sequence)) {
            Admission::Order(slot) => replica.commit(slot, EntryFlags::NONE),
            other => break retry(other),
        }
        sequence += 1;
    };
    assert_eq!(reason, RetryReason::LogFull);
    assert_eq!(sequence, 6, "five of 12,000 bytes fit into 64 KiB");
    replica.seal();
    assert!(replica.log_bytes() > 60_000 && replica.log_memory_bytes() == 1 << 16);
    replica.acked(Lsn(2)).unwrap();
    let slot = slot(&mut replica, big(sequence));
    replica.commit(slot, EntryFlags::NONE);
    replica.trim();
    assert_eq!(replica.log_memory_bytes(), 1 << 16, "what is kept stays");
    settle(&mut replica);
    assert_eq!(replica.log_bytes(), 0);
    replica.trim();
    assert_eq!(replica.log_memory_bytes(), 0);
    push(&mut replica, ALICE, sequence + 1);
    settle(&mut replica);
}

#[test]
fn a_push_that_no_log_could_take_is_refused_not_retried_for_ever() {
    let mut replica = replica();
    assert!(matches!(replica.admit(PushHead { bytes: 17_000, ..head(ALICE, 1) }), Admission::Refused));
    settle(&mut replica);
    assert_eq!(outcomes(&mut replica), [(ALICE, 1, 1, vec![(1, RefusalCode::Unsupported)])]);
    let huge = PushHead { bytes: usize::MAX / 2, ..head(ALICE, 2) };
    assert!(matches!(replica.admit(huge), Admission::Refused));
}

#[test]
fn acknowledgements_are_absolute_and_an_impossible_one_is_an_error() {
    let mut replica = replica();
    for sequence in 1..=3 {
        push(&mut replica, ALICE, sequence);
        replica.seal();
    }
    replica.acked(Lsn(3)).unwrap();
    assert!(replica.batch(Lsn(3)).is_none() && replica.batch(Lsn(4)).is_some());
    replica.acked(Lsn(2)).unwrap();
    assert_eq!(replica.acked_lsn(), Lsn(3));
    assert_eq!(replica.acked(Lsn(5)), Err(AckError::Ahead { acked: Lsn(5), sealed: Lsn(4) }));
    assert_eq!(outcomes(&mut replica), [(ALICE, 3, 2, vec![])]);
}

#[test]
fn a_tables_schema_travels_in_the_batch() {
    let mut replica = replica();
    assert!(replica.has_room(11) && !replica.has_room(1 << 20));
    let created = ControlEntry::TableCreated { table: TableId(4), schema: b"eleven byte" };
    assert_eq!(replica.control(created), Verdict::Ordered);
    assert_eq!(replica.control(ControlEntry::TableDropped { table: TableId(4) }), Verdict::Ordered);
    let lsn = replica.seal().unwrap();
    let bytes = replica.batch(lsn).unwrap();
    let batch = Batch::parse(bytes).unwrap();
    let entries: Vec<_> = batch.entries().collect();
    assert_eq!((entries[0].head.kind, entries[0].payload), (EntryKind::TableCreated, &b"eleven byte"[..]));
    assert_eq!((entries[1].head.kind, entries[1].head.table), (EntryKind::TableDropped, TableId(4)));
    assert_eq!(batch.head.lsn, lsn);
}

#[test]
fn a_batch_seals_itself_before_it_grows_past_its_size() {
    let config = ReplicaConfig { log_bytes: 1 << 22, ..config() };
    let mut replica = Replica::new(config).unwrap();
    assert_eq!(replica.control(ControlEntry::ClientBegan { session: ALICE, worker: true }), Verdict::Ordered);
    for sequence in 1..=30 {
        let slot = slot(&mut replica, PushHead { bytes: 40_000, ..head(ALICE, sequence) });
        replica.commit(slot, EntryFlags::NONE);
    }
    assert_eq!(replica.lsn(), Lsn(4), "six of 40,000 bytes a batch");
    for lsn in 1..=4 {
        assert!(replica.batch(Lsn(lsn)).unwrap().len() <= SEAL_BYTES);
    }
}

#[test]
fn a_log_that_is_no_power_of_two_is_an_error_that_says_what_to_give() {
    let error = Replica::new(ReplicaConfig { log_bytes: 5000, ..config() }).unwrap_err();
    assert!(error.to_string().contains("power of two from 4096"), "{error}");
}
