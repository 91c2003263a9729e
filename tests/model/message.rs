//! What travels, in order between any two of the world's processes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use gradwire::chain::RetryReason;
use gradwire::wire::RefusalCode;
use gradwire::wire::ids::{Epoch, Lsn, Sequence, SessionId};

/// A process of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Who {
    Coordinator,
    Node(u8),
    Client(u8),
}

/// A version of the partition's chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Chain {
    pub(crate) epoch: Epoch,
    /// Head first.
    pub(crate) members: Vec<u8>,
    pub(crate) joiner: Option<u8>,
    /// The last member has joined and is no survivor yet.
    pub(crate) unsynced: bool,
}

impl Chain {
    pub(crate) fn head(&self) -> u8 {
        self.members[0]
    }

    pub(crate) fn tail(&self) -> u8 {
        self.members[self.members.len() - 1]
    }

    fn place(&self, node: u8) -> Option<usize> {
        self.members.iter().position(|&member| member == node)
    }

    pub(crate) fn predecessor(&self, node: u8) -> Option<u8> {
        if self.joiner == Some(node) {
            return Some(self.tail());
        }
        self.place(node)?.checked_sub(1).map(|place| self.members[place])
    }

    /// The next member, or who joins behind the tail.
    pub(crate) fn downstream(&self, node: u8) -> Option<u8> {
        self.members.get(self.place(node)? + 1).copied().or(self.joiner)
    }

    /// Members that count: with one of them all is left.
    pub(crate) fn survivors(&self) -> &[u8] {
        &self.members[..self.members.len() - usize::from(self.unsynced)]
    }
}

/// What a node is told of the chain, and of the sessions that a new head has to know (C0).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Hold {
    pub(crate) chain: Chain,
    /// Those there are.
    pub(crate) sessions: Vec<SessionId>,
    /// The newest that ever was, when this was said. One above has begun later, and is no business of this message.
    pub(crate) last_session: SessionId,
    /// The node gets its lease back.
    pub(crate) renews: bool,
}

/// A push as its client sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Push {
    pub(crate) session: SessionId,
    pub(crate) sequence: Sequence,
    pub(crate) epoch: Epoch,
    pub(crate) resolved: Sequence,
    pub(crate) attempt: u32,
    /// What the store must see once.
    pub(crate) id: u16,
    /// The store refuses it.
    pub(crate) bad: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Message {
    // Coordinator to nodes and clients.
    Hold(Hold),
    Begin {
        session: SessionId,
    },
    End {
        session: SessionId,
    },
    /// A client's session has begun everywhere.
    Welcome {
        chain: Chain,
    },
    Map {
        chain: Chain,
    },
    // Nodes to the coordinator.
    Synced {
        epoch: Epoch,
    },
    Leave {
        epoch: Epoch,
        node: u8,
    },
    Begun {
        session: SessionId,
    },
    // Between nodes.
    Link {
        epoch: Epoch,
        ordered: Lsn,
        joins: bool,
    },
    Linked {
        epoch: Epoch,
        applied: Lsn,
        wants_all: bool,
    },
    Copy {
        epoch: Epoch,
        state: Arc<Vec<u8>>,
        rows: Vec<u16>,
    },
    Batch {
        epoch: Epoch,
        bytes: Arc<Vec<u8>>,
    },
    Ack {
        epoch: Epoch,
        lsn: Lsn,
    },
    // Clients to nodes and back.
    Push(Push),
    Read {
        epoch: Epoch,
        read: u16,
    },
    Outcome {
        replicated: Sequence,
        refused: Vec<(Sequence, RefusalCode)>,
    },
    Retry {
        attempt: u32,
        at: Sequence,
        reason: Reason,
    },
    Ended,
    Rows {
        read: u16,
        rows: Option<Vec<u16>>,
    },
}

/// Of a retry, what a client has to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    Gap {
        expected: Sequence,
    },
    Full,
    /// The map here and there is not the same.
    Elsewhere,
}

impl From<RetryReason> for Reason {
    fn from(reason: RetryReason) -> Self {
        match reason {
            RetryReason::SequenceGap { expected } => Self::Gap { expected },
            RetryReason::LogFull | RetryReason::RefusalsFull => Self::Full,
            RetryReason::WrongHead | RetryReason::UnknownEpoch { .. } => Self::Elsewhere,
            RetryReason::Orphan => unreachable!("nobody is an orphan here"),
        }
    }
}

/// What is on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Network {
    lanes: BTreeMap<(Who, Who), VecDeque<Message>>,
}

impl Network {
    pub(crate) fn send(&mut self, from: Who, to: Who, message: Message) {
        let lane = self.lanes.entry((from, to)).or_default();
        // State blocks and maps are absolute: the newest wins.
        match (&message, lane.back()) {
            (Message::Ack { epoch, .. }, Some(Message::Ack { epoch: before, .. })) if epoch == before => {
                lane.pop_back();
            }
            (Message::Map { .. }, Some(Message::Map { .. })) => drop(lane.pop_back()),
            (Message::Outcome { .. }, Some(Message::Outcome { .. })) => drop(lane.pop_back()),
            _ => {}
        }
        lane.push_back(message);
    }

    /// Who has something for whom.
    pub(crate) fn busy(&self) -> impl Iterator<Item = (Who, Who)> + '_ {
        self.lanes.keys().copied()
    }

    pub(crate) fn take(&mut self, from: Who, to: Who) -> Option<Message> {
        let lane = self.lanes.get_mut(&(from, to))?;
        let message = lane.pop_front();
        if lane.is_empty() {
            self.lanes.remove(&(from, to));
        }
        message
    }

    pub(crate) fn cut(&mut self, from: Who, to: Who) {
        self.lanes.remove(&(from, to));
    }

    /// Nothing reaches a dead process; what it had sent may still arrive.
    pub(crate) fn cut_all_to(&mut self, to: Who) {
        self.lanes.retain(|&(_, other), _| other != to);
    }
}
