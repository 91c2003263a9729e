//! The coordinator's decisions about one chain: who is out, who joins, who counts. Each is one new epoch.

use gradwire::wire::ids::SessionId;

use super::faults::Fault;
use super::message::Chain;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Authority {
    pub(crate) chain: Chain,
    /// Sessions there are.
    pub(crate) sessions: Vec<SessionId>,
    pub(crate) ended: Vec<SessionId>,
    /// The newest there ever was.
    pub(crate) last_session: SessionId,
    /// One that begins, and the nodes that have not said yet that they know.
    pub(crate) beginning: Option<(SessionId, Vec<u8>)>,
}

impl Authority {
    /// A node knows a session, or is dead. Gives the session once all know.
    pub(crate) fn knows(&mut self, node: u8) -> Option<SessionId> {
        let (session, waiting) = self.beginning.as_mut()?;
        let session = *session;
        waiting.retain(|&other| other != node);
        if !waiting.is_empty() {
            return None;
        }
        self.beginning = None;
        Some(session)
    }

    pub(crate) fn involves(&self, node: u8) -> bool {
        self.chain.members.contains(&node) || self.chain.joiner == Some(node)
    }

    /// Whether `node` can go: as long as a survivor stays (C7).
    pub(crate) fn can_remove(&self, node: u8) -> bool {
        self.involves(node) && self.chain.survivors().iter().any(|&member| member != node)
    }

    pub(crate) fn remove(&mut self, node: u8) {
        let chain = &mut self.chain;
        if chain.joiner == Some(node) {
            chain.joiner = None;
        } else {
            chain.unsynced &= chain.tail() != node;
            chain.members.retain(|&member| member != node);
        }
        chain.epoch = chain.epoch.next();
    }

    pub(crate) fn can_join(&self, node: u8) -> bool {
        !self.involves(node) && self.chain.joiner.is_none() && !self.chain.unsynced
    }

    pub(crate) fn join(&mut self, node: u8) {
        self.chain.joiner = Some(node);
        self.chain.epoch = self.chain.epoch.next();
    }

    /// A joiner has everything, or a new tail what its predecessor had. Whether clients and nodes have to hear.
    pub(crate) fn synced(&mut self, node: u8, fault: Fault) -> bool {
        let chain = &mut self.chain;
        if chain.joiner == Some(node) {
            chain.joiner = None;
            chain.members.push(node);
            chain.unsynced = fault != Fault::JoinerCountsAtOnce;
            chain.epoch = chain.epoch.next();
            return true;
        }
        chain.unsynced &= chain.tail() != node;
        false
    }
}
