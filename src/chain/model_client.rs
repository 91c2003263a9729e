//! A client as the protocol asks for one, small enough to be read at a glance: a window, go-back-N, absolute
//! outcomes. And the random numbers of the schedules.

use super::RetryReason;
use crate::wire::RefusalCode;
use crate::wire::ids::{Clock, Sequence, SessionId};

/// splitmix64: one seed, one schedule.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// `id` is what the store must see once; a `bad` one is refused by it, or by its size.
    Push {
        id: u64,
        bytes: usize,
        bad: bool,
    },
    Clock(Clock),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Acked,
    Refused(RefusalCode),
}

/// What travels to the server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) session: SessionId,
    pub(super) sequence: Sequence,
    pub(super) resolved: Sequence,
    pub(super) work: Work,
}

/// What travels back.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    Outcome { session: SessionId, replicated: Sequence, refused: Vec<(Sequence, RefusalCode)> },
    Retry { session: SessionId, sequence: Sequence, reason: RetryReason },
    Ended { session: SessionId },
}

pub(super) struct Client {
    pub(super) session: SessionId,
    pub(super) work: Vec<Work>,
    /// Fates of the first sequences, in order: all that is resolved.
    pub(super) fates: Vec<Fate>,
    pub(super) ended: bool,
    next: usize,
    window: usize,
}

impl Client {
    pub(super) fn new(session: SessionId, work: Vec<Work>, window: usize) -> Self {
        Self { session, work, fates: Vec::new(), ended: false, next: 0, window }
    }

    /// The next record of the window, if any may be sent.
    pub(super) fn send(&mut self) -> Option<Request> {
        if self.ended || self.next >= self.work.len() || self.next >= self.fates.len() + self.window {
            return None;
        }
        let work = self.work[self.next];
        self.next += 1;
        let resolved = Sequence(self.fates.len() as u64 + 1);
        Some(Request { session: self.session, sequence: Sequence(self.next as u64), resolved, work })
    }

    /// Nothing came for a while: everything unresolved is sent again, in order.
    pub(super) fn time_out(&mut self) {
        self.next = self.fates.len();
    }

    pub(super) fn receive(&mut self, reply: &Reply) {
        match reply {
            Reply::Outcome { replicated, refused, .. } => {
                while (self.fates.len() as u64) < replicated.0 {
                    let sequence = Sequence(self.fates.len() as u64 + 1);
                    let refusal = refused.iter().find(|refusal| refusal.0 == sequence);
                    self.fates.push(refusal.map_or(Fate::Acked, |&(_, code)| Fate::Refused(code)));
                }
                self.next = self.next.max(self.fates.len());
            }
            Reply::Retry { sequence, reason, .. } => {
                let again = match reason {
                    RetryReason::SequenceGap { expected } => expected.0,
                    _ => sequence.0,
                };
                self.next = self.next.min(again as usize - 1).max(self.fates.len());
            }
            Reply::Ended { .. } => self.ended = true,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.ended || self.fates.len() == self.work.len()
    }
}
