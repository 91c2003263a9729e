//! A client: a window of pushes, go-back-N, absolute outcomes; and strong reads.

use gradwire::wire::RefusalCode;
use gradwire::wire::ids::{Sequence, SessionId};

use super::faults::Fault;
use super::message::{Chain, Message, Push, Reason};

/// What became of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fate {
    Acked,
    Refused(RefusalCode),
}

/// A strong read under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Reading {
    pub(crate) read: u16,
    /// Pushes that were acknowledged before it began, to anybody.
    pub(crate) acked_before: Vec<u16>,
    /// Reads that had ended before it began: how many rows the longest saw.
    pub(crate) seen_before: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Client {
    pub(crate) session: SessionId,
    /// The map it knows.
    pub(crate) chain: Chain,
    /// (id, whether it is bad), in order.
    pub(crate) work: Vec<(u16, bool)>,
    pub(crate) fates: Vec<Fate>,
    /// Its session has begun.
    pub(crate) started: bool,
    pub(crate) ended: bool,
    /// The head it knows is none, or not yet.
    pub(crate) waits: bool,
    /// A server waits for what this client knows as replicated.
    pub(crate) lost: bool,
    pub(crate) reading: Option<Reading>,
    pub(crate) reads_left: u16,
    pub(crate) window: usize,
    next: usize,
    attempt: u32,
    /// Sequences given to pushes that already had one; only by a fault.
    renumbered: u64,
}

impl Client {
    pub(crate) fn new(
        session: SessionId,
        chain: Chain,
        work: Vec<(u16, bool)>,
        window: usize,
        reads: u16,
    ) -> Self {
        Self {
            session,
            chain,
            work,
            fates: Vec::new(),
            started: false,
            ended: false,
            waits: false,
            lost: false,
            reading: None,
            reads_left: reads,
            window,
            next: 0,
            attempt: 0,
            renumbered: 0,
        }
    }

    pub(crate) fn can_send(&self) -> bool {
        self.started
            && !self.ended
            && !self.waits
            && self.next < self.work.len()
            && self.next < self.fates.len() + self.window
    }

    pub(crate) fn awaits_outcome(&self) -> bool {
        self.next > self.fates.len()
    }

    pub(crate) fn is_done(&self) -> bool {
        self.ended || self.fates.len() == self.work.len()
    }

    pub(crate) fn send(&mut self) -> Push {
        let (id, bad) = self.work[self.next];
        self.next += 1;
        Push {
            session: self.session,
            sequence: Sequence(self.next as u64 + self.renumbered),
            epoch: self.chain.epoch,
            resolved: Sequence(self.fates.len() as u64 + 1),
            attempt: self.attempt,
            id,
            bad,
        }
    }

    /// Everything that is not resolved goes out again.
    pub(crate) fn rewind(&mut self, fault: Fault) {
        if fault == Fault::ClientRenumbers {
            self.renumbered += (self.next - self.fates.len()) as u64;
        }
        self.attempt += 1;
        self.next = self.fates.len();
        self.waits = false;
    }

    pub(crate) fn receive(&mut self, message: Message, fault: Fault) {
        match message {
            Message::Map { chain } => {
                let is_new = chain.epoch > self.chain.epoch;
                if chain.epoch >= self.chain.epoch {
                    self.chain = chain;
                }
                if is_new && fault != Fault::ClientNeverResends {
                    self.rewind(fault);
                }
            }
            Message::Outcome { replicated, refused } => {
                // What was never sent under this attempt is taken too: an outcome is absolute.
                while (self.fates.len() as u64) + self.renumbered < replicated.0
                    && self.fates.len() < self.work.len()
                {
                    let sequence = Sequence(self.fates.len() as u64 + 1);
                    let refusal = refused.iter().find(|&&(at, _)| at == sequence);
                    self.fates.push(refusal.map_or(Fate::Acked, |&(_, code)| Fate::Refused(code)));
                }
                self.next = self.next.max(self.fates.len());
            }
            Message::Retry { attempt, at, reason } if attempt == self.attempt => {
                let from = match reason {
                    Reason::Gap { expected } => expected,
                    Reason::Full | Reason::Elsewhere => at,
                };
                self.lost |= matches!(reason, Reason::Gap { .. }) && from.0 <= self.fates.len() as u64;
                self.attempt += 1;
                self.next = (from.0.saturating_sub(1) as usize).clamp(self.fates.len(), self.next);
                self.waits = reason == Reason::Elsewhere;
            }
            Message::Welcome { chain } => {
                self.started = true;
                self.chain = chain;
            }
            Message::Ended => self.ended = true,
            _ => {}
        }
    }
}
