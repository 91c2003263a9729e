//! One session's pushes to one partition: in sequence, kept until replicated, resent in order (C3). Sans-IO.
//!
//! Sending goes back to the first push in question and on from there. Each such turn raises the attempt; records
//! carry it and retries repeat it, so that the retries which pushes already on their way provoke are known as old.

use std::collections::VecDeque;

use crate::wire::ids::{Epoch, Sequence};
use crate::wire::{RefusalCode, RetryCode};

/// A push that is not known to be replicated.
pub(super) struct Entry<B> {
    pub(super) sequence: Sequence,
    pub(super) body: B,
    /// The epoch under which a head said that it has applied it.
    applied: Option<Epoch>,
}

/// What became of a push.
pub(super) enum Resolution<'a, B> {
    /// The head has applied it; it is still kept.
    Applied(&'a B),
    /// Every replica has it: done. `was_applied` tells whether that had been reported.
    Replicated { body: B, was_applied: bool },
    /// Refused for good. A head that has applied it is gone if the epoch it said so under is an earlier one.
    Refused { body: B, code: RefusalCode, was_applied: Option<Epoch> },
}

/// What a retry calls for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    /// It answers an earlier attempt.
    Old,
    /// Pushes from this sequence on are to be sent again, up to the other (excluded).
    Resend { from: Sequence, until: Sequence },
    /// The partition waits for a push that it had already made replicated: it lost state.
    Lost { expected: Sequence },
}

pub(super) struct Flow<B> {
    pub(super) epoch: Epoch,
    attempt: u32,
    next: Sequence,
    entries: VecDeque<Entry<B>>,
    /// Entries sent in this attempt: a prefix.
    sent: usize,
}

impl<B> Flow<B> {
    pub(super) fn new(epoch: Epoch) -> Self {
        Self { epoch, attempt: 1, next: Sequence(1), entries: VecDeque::new(), sent: 0 }
    }

    pub(super) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Pushes that are not replicated yet.
    pub(super) fn unresolved(&self) -> usize {
        self.entries.len()
    }

    /// Whether something was sent in this attempt whose outcome has not come.
    pub(super) fn awaits_outcome(&self) -> bool {
        self.sent > 0
    }

    /// How many were sent in this attempt whose outcome has not come.
    pub(super) fn sent(&self) -> usize {
        self.sent
    }

    /// Every sequence below is resolved.
    pub(super) fn resolved(&self) -> Sequence {
        self.entries.front().map_or(self.next, |entry| entry.sequence)
    }

    pub(super) fn append(&mut self, body: B) -> Sequence {
        let sequence = self.next;
        self.next = sequence.next();
        self.entries.push_back(Entry { sequence, body, applied: None });
        sequence
    }

    /// The sequence of the next push to be appended.
    pub(super) fn next(&self) -> Sequence {
        self.next
    }

    /// What is kept of unresolved pushes, in order.
    pub(super) fn bodies(&self) -> impl Iterator<Item = &B> {
        self.entries.iter().map(|entry| &entry.body)
    }

    fn index(&self, sequence: Sequence) -> Option<usize> {
        let first = self.entries.front()?.sequence;
        let index = usize::try_from(sequence.0.checked_sub(first.0)?).ok()?;
        (index < self.entries.len()).then_some(index)
    }

    /// The entry of a sequence, unless it is resolved.
    pub(super) fn entry(&self, sequence: Sequence) -> Option<&Entry<B>> {
        self.index(sequence).map(|index| &self.entries[index])
    }

    /// Whether `sequence` is the one to send next.
    pub(super) fn is_next_to_send(&self, sequence: Sequence) -> bool {
        self.index(sequence) == Some(self.sent)
    }

    /// Whether `sequence` is the `ahead`-th to send from here.
    pub(super) fn is_to_send(&self, sequence: Sequence, ahead: usize) -> bool {
        self.index(sequence) == Some(self.sent + ahead)
    }

    /// Whether `sequence` was sent in this attempt, or is resolved.
    pub(super) fn is_sent(&self, sequence: Sequence) -> bool {
        self.index(sequence).is_none_or(|index| index < self.sent)
    }

    pub(super) fn mark_sent(&mut self) {
        assert!(self.sent < self.entries.len(), "only what is kept can be sent");
        self.sent += 1;
    }

    /// The lane is gone, the chain is another, or nothing was heard for long: everything unresolved is to be sent again.
    /// Gives what had been.
    pub(super) fn rewind(&mut self) -> std::ops::Range<u64> {
        self.attempt = self.attempt.wrapping_add(1);
        let until = self.sent;
        self.sent = 0;
        let first = self.resolved().0;
        first..first + until as u64
    }

    pub(super) fn on_retry(
        &mut self,
        attempt: u32,
        code: RetryCode,
        at: Sequence,
        expected: Sequence,
    ) -> Reaction {
        if attempt != self.attempt {
            return Reaction::Old;
        }
        let from = if code == RetryCode::SequenceGap { expected } else { at };
        if from < self.resolved() {
            // Only who waits for a push has forgotten it; any other retry of a resolved push is late.
            let lost = code == RetryCode::SequenceGap;
            return if lost { Reaction::Lost { expected: from } } else { Reaction::Old };
        }
        let Some(index) = self.index(from) else { return Reaction::Old };
        if index >= self.sent {
            return Reaction::Old;
        }
        let until = Sequence(self.resolved().0 + self.sent as u64);
        self.attempt = self.attempt.wrapping_add(1);
        self.sent = index;
        Reaction::Resend { from, until }
    }

    /// Takes in absolute outcomes, as told under `epoch`. `refused` lists every refused sequence from [`Flow::resolved`] on.
    pub(super) fn on_outcome(
        &mut self,
        epoch: Epoch,
        applied: Sequence,
        replicated: Sequence,
        refused: &[(Sequence, RefusalCode)],
        mut sink: impl FnMut(Resolution<'_, B>),
    ) {
        let refusal =
            |sequence: Sequence| refused.iter().find(|(s, _)| *s == sequence).map(|(_, code)| *code);
        while let Some(front) = self.entries.front() {
            // What was never sent cannot be resolved, whatever a peer claims.
            if front.sequence > replicated || self.sent == 0 {
                break;
            }
            let Some(entry) = self.entries.pop_front() else { break };
            self.sent -= 1;
            sink(match refusal(entry.sequence) {
                Some(code) => Resolution::Refused { body: entry.body, code, was_applied: entry.applied },
                None => Resolution::Replicated { body: entry.body, was_applied: entry.applied.is_some() },
            });
        }
        for entry in self.entries.iter_mut().take(self.sent).filter(|entry| entry.applied.is_none()) {
            if entry.sequence > applied {
                break;
            }
            if refusal(entry.sequence).is_none() {
                entry.applied = Some(epoch);
                sink(Resolution::Applied(&entry.body));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resolve(
        flow: &mut Flow<u64>,
        applied: u64,
        replicated: u64,
        refused: &[(Sequence, RefusalCode)],
    ) -> Vec<String> {
        let mut seen = Vec::new();
        flow.on_outcome(Epoch(1), Sequence(applied), Sequence(replicated), refused, |resolution| {
            seen.push(match resolution {
                Resolution::Applied(body) => format!("applied {body}"),
                Resolution::Replicated { body, .. } => format!("replicated {body}"),
                Resolution::Refused { body, .. } => format!("refused {body}"),
            });
        });
        seen
    }

    fn flow_of(count: u64, sent: usize) -> Flow<u64> {
        let mut flow = Flow::new(Epoch(1));
        for body in 1..=count {
            assert_eq!(flow.append(body), Sequence(body));
        }
        (0..sent).for_each(|_| flow.mark_sent());
        flow
    }

    #[test]
    fn an_outcome_resolves_each_push_once() {
        let mut flow = flow_of(3, 3);
        assert_eq!(resolve(&mut flow, 2, 1, &[]), ["replicated 1", "applied 2"]);
        assert_eq!(resolve(&mut flow, 2, 1, &[]), [""; 0]);
        assert_eq!(
            resolve(&mut flow, 3, 3, &[(Sequence(3), RefusalCode::Memory)]),
            ["replicated 2", "refused 3"]
        );
        assert_eq!(flow.resolved(), Sequence(4));
    }

    #[test]
    fn a_claim_about_a_push_that_was_never_sent_resolves_nothing() {
        let mut flow = flow_of(2, 1);
        assert_eq!(resolve(&mut flow, 9, 9, &[]), ["replicated 1"]);
        assert_eq!(flow.unresolved(), 1);
    }

    #[test]
    fn the_retries_that_pushes_on_their_way_provoke_are_old() {
        let mut flow = flow_of(5, 5);
        let attempt = flow.attempt();
        let gap = RetryCode::SequenceGap;
        let first = flow.on_retry(attempt, RetryCode::KeysMissing, Sequence(2), Sequence(2));
        assert_eq!(first, Reaction::Resend { from: Sequence(2), until: Sequence(6) });
        for late in 3..=5 {
            assert_eq!(flow.on_retry(attempt, gap, Sequence(late), Sequence(2)), Reaction::Old);
        }
        assert!(flow.is_next_to_send(Sequence(2)));
    }

    #[test]
    fn a_partition_that_forgot_what_it_acknowledged_is_found_out() {
        let mut flow = flow_of(3, 3);
        resolve(&mut flow, 2, 2, &[]);
        let reaction = flow.on_retry(flow.attempt(), RetryCode::SequenceGap, Sequence(3), Sequence(1));
        assert_eq!(reaction, Reaction::Lost { expected: Sequence(1) });
    }

    /// A partition as the server keeps it: accepts the next sequence only.
    #[derive(Default)]
    struct Partition {
        last: u64,
        applied: Vec<u64>,
    }

    proptest! {
        #[test]
        fn every_push_arrives_once_and_in_order_whatever_is_refused_for_now_or_lost(
            steps in prop::collection::vec(0u8..8, 1..300)
        ) {
            let mut flow: Flow<u64> = Flow::new(Epoch(1));
            let mut partition = Partition::default();
            let mut lane: VecDeque<(u32, u64)> = VecDeque::new();
            let mut replies: VecDeque<(u32, RetryCode, u64, u64)> = VecDeque::new();
            let mut count = 0;
            let mut done = Vec::new();
            let mut turn = |flow: &mut Flow<u64>, step: u8, done: &mut Vec<u64>| {
                match step {
                    0 | 1 => { count += 1; flow.append(count); }
                    2 | 3 => {
                        let next = flow.resolved().0 + flow.sent as u64;
                        if flow.is_next_to_send(Sequence(next)) {
                            lane.push_back((flow.attempt(), next));
                            flow.mark_sent();
                        }
                    }
                    4 | 5 => if let Some((attempt, sequence)) = lane.pop_front() {
                        if sequence == partition.last + 1 {
                            if step == 5 && sequence % 3 == 0 {
                                replies.push_back((attempt, RetryCode::LogFull, sequence, partition.last + 1));
                            } else {
                                partition.last = sequence;
                                partition.applied.push(sequence);
                            }
                        } else if sequence > partition.last {
                            replies.push_back((attempt, RetryCode::SequenceGap, sequence, partition.last + 1));
                        }
                    },
                    6 => if let Some((attempt, code, at, expected)) = replies.pop_front() {
                        flow.on_retry(attempt, code, Sequence(at), Sequence(expected));
                    } else {
                        flow.on_outcome(Epoch(1), Sequence(partition.last), Sequence(partition.last), &[], |r| {
                            if let Resolution::Replicated { body, .. } = r { done.push(body) }
                        });
                    },
                    _ => { lane.clear(); replies.clear(); flow.rewind(); }
                }
            };
            for step in &steps { turn(&mut flow, *step, &mut done); }
            for _ in 0..3 * steps.len() + 10 { for step in [2, 4, 6, 6] { turn(&mut flow, step, &mut done); } }
            turn(&mut flow, 7, &mut done);
            for _ in 0..3 * steps.len() + 10 { for step in [2, 4, 6, 6] { turn(&mut flow, step, &mut done); } }
            let all: Vec<u64> = (1..=count).collect();
            prop_assert_eq!(&partition.applied, &all);
            prop_assert_eq!(&done, &all);
        }
    }
}
