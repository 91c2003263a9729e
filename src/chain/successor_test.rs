//! Replicas that follow a head, change places and take in joiners, driven by hand. Schedules of whole chains are in
//! `tests/model`.

use proptest::prelude::*;

use super::*;
use crate::wire::ids::{Clock, Epoch, Lsn, PartitionId, Sequence, SessionId, TableId};
use crate::wire::{Level, RefusalCode};

const ALICE: SessionId = SessionId(7);

fn config(position: Position) -> ReplicaConfig {
    ReplicaConfig { partition: PartitionId(3), epoch: Epoch(5), position, log_bytes: 4096 }
}

fn replica(position: Position) -> Replica {
    Replica::new(config(position)).unwrap()
}

fn head_with_alice() -> Replica {
    let mut head = replica(Position::Head);
    let began = head.control(ControlEntry::ClientBegan { session: ALICE, worker: true });
    assert_eq!(began, Verdict::Ordered);
    head.seal();
    head
}

fn push_head(sequence: u64, bytes: usize) -> PushHead {
    PushHead {
        session: ALICE,
        sequence: Sequence(sequence),
        epoch: Epoch(5),
        resolved: Sequence(sequence),
        table: TableId(1),
        clock: Clock(0),
        level: Level::Replicated,
        bytes,
    }
}

/// False when the log is full.
fn push(head: &mut Replica, sequence: u64, bytes: usize) -> bool {
    let Admission::Order(slot) = head.admit(push_head(sequence, bytes)) else { return false };
    head.log_mut(&slot).fill(sequence as u8);
    if sequence % 5 == 4 {
        head.refuse(slot, RefusalCode::Shape);
    } else {
        head.commit(slot, EntryFlags::CREATES);
    }
    true
}

fn bytes_of(replica: &mut Replica, lsn: u64) -> Vec<u8> {
    replica.batch(Lsn(lsn)).unwrap().to_vec()
}

#[track_caller]
fn follow(successor: &mut Replica, bytes: &[u8]) {
    assert!(matches!(successor.receive(bytes), Ok(Received::Next(_))));
    successor.accept(bytes).unwrap();
}

#[test]
fn a_batch_is_next_once_then_old_and_one_that_comes_too_early_is_a_gap() {
    let mut head = head_with_alice();
    assert!(push(&mut head, 1, 16));
    head.seal();
    let (first, second) = (bytes_of(&mut head, 1), bytes_of(&mut head, 2));
    let mut tail = replica(Position::Tail);
    assert_eq!(tail.receive(&second), Ok(Received::Gap { have: Lsn(0) }));
    follow(&mut tail, &first);
    assert_eq!(tail.receive(&first), Ok(Received::Old));
    follow(&mut tail, &second);
    assert_eq!((tail.lsn(), tail.expected(ALICE)), (Lsn(2), Some(Sequence(2))));
    assert_eq!(tail.log_bytes(), 0, "nobody is behind the tail");
}

#[test]
fn a_batch_that_is_damaged_or_for_another_is_an_error() {
    let bytes = bytes_of(&mut head_with_alice(), 1);
    let mut damaged = bytes.clone();
    damaged[50] ^= 1;
    let tail = replica(Position::Tail);
    assert!(matches!(tail.receive(&damaged), Err(BatchError::Crc { .. })));
    assert!(matches!(tail.receive(&bytes[..30]), Err(BatchError::Length { .. })));
    assert!(matches!(replica(Position::Only).receive(&bytes), Err(BatchError::Head { .. })));
    let other = Replica::new(ReplicaConfig { partition: PartitionId(4), ..config(Position::Tail) }).unwrap();
    assert!(matches!(other.receive(&bytes), Err(BatchError::Partition { .. })));
    let late = Replica::new(ReplicaConfig { epoch: Epoch(4), ..config(Position::Tail) }).unwrap();
    assert_eq!(late.receive(&bytes), Err(BatchError::Epoch { ours: Epoch(4), found: Epoch(5) }));
}

#[test]
fn a_batch_with_one_entry_that_does_not_fit_changes_nothing() {
    let mut head = head_with_alice();
    let mut tail = replica(Position::Middle);
    follow(&mut tail, &bytes_of(&mut head, 1));
    assert!(push(&mut head, 1, 16) && push(&mut head, 2, 16));
    let began = head.control(ControlEntry::ClientBegan { session: SessionId(8), worker: true });
    assert_eq!(began, Verdict::Ordered);
    head.seal();
    let mut bytes = bytes_of(&mut head, 2);
    // The third entry begins a session that lives already.
    let third = BATCH_HEADER_BYTES + 2 * (ENTRY_HEADER_BYTES + 16);
    bytes[third + 16..third + 24].copy_from_slice(&ALICE.0.to_le_bytes());
    let divergence = Divergence::Life { session: ALICE, kind: EntryKind::ClientBegan };
    assert_eq!(tail.accept(&bytes), Err(AcceptError::Divergence(divergence)));
    assert_eq!((tail.lsn(), tail.expected(ALICE)), (Lsn(1), Some(Sequence(1))));
    assert!(tail.batch(Lsn(2)).is_none());
}

#[test]
fn a_successor_answers_wrong_head_to_who_it_does_not_know_and_ended_to_who_has_ended() {
    let mut head = head_with_alice();
    assert_eq!(head.control(ControlEntry::ClientEnded { session: ALICE }), Verdict::Ordered);
    head.seal();
    let mut tail = replica(Position::Tail);
    assert!(matches!(tail.admit(push_head(1, 8)), Admission::Retry(RetryReason::WrongHead)));
    follow(&mut tail, &bytes_of(&mut head, 1));
    assert!(matches!(tail.admit(push_head(1, 8)), Admission::Retry(RetryReason::WrongHead)));
    follow(&mut tail, &bytes_of(&mut head, 2));
    assert!(tail.has_ended(ALICE) && matches!(tail.admit(push_head(1, 8)), Admission::Ended));
}

#[test]
fn a_tail_that_becomes_head_restates_everything_and_goes_on_in_sequence() {
    let mut head = head_with_alice();
    assert!(push(&mut head, 1, 16));
    head.seal();
    let mut tail = replica(Position::Tail);
    for lsn in [1, 2] {
        follow(&mut tail, &bytes_of(&mut head, lsn));
    }
    assert!(!tail.has_outcomes(), "only a head tells clients");
    tail.reconfigure(Epoch(6), Position::Only);
    tail.acked(tail.lsn()).unwrap();
    let mut told = Vec::new();
    tail.outcomes(|outcome| {
        told.push((outcome.session, outcome.applied, outcome.replicated));
        true
    });
    assert_eq!(told, [(ALICE, Sequence(1), Sequence(1))]);
    let under_new = |sequence| PushHead { epoch: Epoch(6), ..push_head(sequence, 8) };
    assert!(matches!(tail.admit(under_new(1)), Admission::Duplicate));
    assert!(matches!(tail.admit(under_new(2)), Admission::Order(_)));
}

#[test]
fn what_is_open_when_the_chain_changes_is_sealed_under_the_old_version() {
    let mut head = head_with_alice();
    assert!(push(&mut head, 1, 16));
    head.reconfigure(Epoch(6), Position::Head);
    let bytes = bytes_of(&mut head, 2);
    assert_eq!(Batch::parse(&bytes).unwrap().head.epoch, Epoch(5));
}

#[test]
#[should_panic(expected = "does not follow")]
fn an_epoch_that_is_not_newer_is_a_bug() {
    replica(Position::Tail).reconfigure(Epoch(5), Position::Only);
}

#[test]
fn batches_kept_for_a_joiner_outlive_their_acknowledgement_until_the_joiner_has_them() {
    let mut only = replica(Position::Only);
    let began = only.control(ControlEntry::ClientBegan { session: ALICE, worker: true });
    assert_eq!(began, Verdict::Ordered);
    let state = only.snapshot();
    only.keep_after(Some(only.lsn()));
    for sequence in 1..=3 {
        assert!(push(&mut only, sequence, 16));
        only.seal();
        only.acked(only.lsn()).unwrap();
    }
    assert!(only.can_resend_after(Lsn(1)) && only.can_resend_after(Lsn(4)));
    assert!(!only.can_resend_after(Lsn(0)) && !only.can_resend_after(Lsn(5)));
    let mut joiner = Replica::restore(config(Position::Tail), &state).unwrap();
    for lsn in 2..=4 {
        follow(&mut joiner, &bytes_of(&mut only, lsn));
    }
    only.reconfigure(Epoch(6), Position::Head);
    only.acked(Lsn(3)).unwrap();
    assert!(only.batch(Lsn(3)).is_none() && only.can_resend_after(Lsn(3)));
    only.acked(Lsn(4)).unwrap();
    assert_eq!(only.log_bytes(), 0);
    assert!(joiner.sessions().eq(only.sessions()) && joiner.min_clock() == only.min_clock());
}

#[test]
fn a_log_that_is_full_of_batches_for_a_joiner_says_so_before_rows_are_applied() {
    let mut tail = replica(Position::Tail);
    tail.keep_after(Some(Lsn(0)));
    let mut head = head_with_alice();
    follow(&mut tail, &bytes_of(&mut head, 1));
    for lsn in 2.. {
        assert!(push(&mut head, lsn - 1, 512));
        head.seal();
        let bytes = bytes_of(&mut head, lsn);
        if tail.receive(&bytes) == Ok(Received::Full) {
            assert_eq!(tail.accept(&bytes), Err(AcceptError::Full { bytes: bytes.len() }));
            tail.keep_after(Some(Lsn(3)));
            tail.acked(tail.lsn()).unwrap();
            follow(&mut tail, &bytes);
            break;
        }
        follow(&mut tail, &bytes);
        head.acked(Lsn(lsn)).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_successor_has_room_for_whatever_its_head_keeps(
        steps in prop::collection::vec((0usize..920, 0u8..8), 1..150)
    ) {
        let mut head = head_with_alice();
        let mut middle = replica(Position::Middle);
        let mut sequence = 0;
        for (bytes, choice) in steps {
            sequence += u64::from(push(&mut head, sequence + 1, bytes));
            if choice < 5 {
                head.seal();
            }
            while middle.lsn() < head.lsn() {
                let batch = head.batch(middle.lsn().next()).unwrap();
                prop_assert!(matches!(middle.receive(batch), Ok(Received::Next(_))));
                middle.accept(batch).unwrap();
            }
            if choice >= 5 {
                // The middle hears first.
                let acked = Lsn(head.acked_lsn().0 + u64::from(choice - 5) * 2).min(head.lsn());
                middle.acked(acked).unwrap();
                head.acked(acked).unwrap();
            }
            for lsn in head.acked_lsn().0 + 1..=head.lsn().0 {
                prop_assert_eq!(head.batch(Lsn(lsn)).unwrap(), middle.batch(Lsn(lsn)).unwrap());
            }
            prop_assert!(head.log_memory_bytes() <= 4096 && middle.log_memory_bytes() <= 8192);
        }
        // Who becomes head fills its log no further than a head does.
        middle.reconfigure(Epoch(6), Position::Head);
        while let Admission::Order(slot) =
            middle.admit(PushHead { epoch: Epoch(6), ..push_head(sequence + 1, 100) })
        {
            middle.commit(slot, EntryFlags::NONE);
            sequence += 1;
        }
        prop_assert!(middle.log_bytes() <= 4096);
    }

    #[test]
    fn a_snapshot_restores_what_it_was_taken_from_and_a_damaged_one_is_refused(
        pushes in prop::collection::vec((0u64..4, 0u8..6), 0..60), cut in any::<usize>(), bit in 0u8..8
    ) {
        let mut only = Replica::new(ReplicaConfig { log_bytes: 1 << 16, ..config(Position::Only) }).unwrap();
        for (session, what) in pushes {
            let session = SessionId(session + 1);
            if only.has_ended(session) {
                continue;
            }
            let Some(sequence) = only.expected(session) else {
                let _ = only.control(ControlEntry::ClientBegan { session, worker: what > 0 });
                continue;
            };
            let resolved = Sequence(sequence.0.saturating_sub(2));
            match what {
                0 => drop(only.control(ControlEntry::ClientEnded { session }) == Verdict::Ordered),
                1 => drop(only.clock(session, sequence, Epoch(5), resolved, Clock(sequence.0)) == Verdict::Ordered),
                _ => {
                    let head = PushHead { session, resolved, ..push_head(sequence.0, 8) };
                    let Admission::Order(slot) = only.admit(head) else { continue };
                    if what == 2 { only.refuse(slot, RefusalCode::Shape) } else { only.commit(slot, EntryFlags::NONE) }
                }
            }
        }
        let snapshot = only.snapshot();
        let joiner = Replica::restore(config(Position::Tail), &snapshot).unwrap();
        prop_assert_eq!((joiner.lsn(), joiner.acked_lsn()), (only.lsn(), only.lsn()));
        prop_assert!(joiner.sessions().eq(only.sessions()));
        prop_assert_eq!(joiner.min_clock(), only.min_clock());
        for session in (0..6).map(SessionId) {
            prop_assert_eq!(joiner.has_ended(session), only.has_ended(session));
        }
        let mut again = joiner;
        prop_assert_eq!(again.snapshot(), snapshot.clone());
        let at = cut % snapshot.len();
        prop_assert!(Replica::restore(config(Position::Tail), &snapshot[..at]).is_err());
        let mut damaged = snapshot;
        damaged[at] ^= 1 << bit;
        prop_assert!(Replica::restore(config(Position::Tail), &damaged).is_err());
    }
}
