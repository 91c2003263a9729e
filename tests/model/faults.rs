//! What could be wrong around a replica: each breaks one rule of the design.

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    None,
    /// C2: the head does not wait for its successors.
    HeadAcknowledgesAlone,
    /// C2: a middle says what it has applied, not what the tail has.
    MiddleAcknowledgesAlone,
    /// C2: the tail acknowledges what it has only heard of.
    TailAcknowledgesAhead,
    /// C0: a new head does not know the sessions that the coordinator knows.
    NewHeadKeepsItsSessions,
    /// C0: a new head ends sessions that are younger than what it was told.
    NewHeadEndsTheYoung,
    /// C1: a successor leaves out one push.
    SuccessorSkipsAPush,
    /// C1: a successor applies rows in another order.
    SuccessorReorders,
    /// C3: a push that was ordered before is applied again.
    DuplicatesAreApplied,
    /// C3: a resent push gets a new sequence.
    ClientRenumbers,
    /// C3: a refused push is told as acknowledged.
    RefusalsAreForgotten,
    /// C4: a middle does not restate acknowledgements at a handshake.
    AcksAreNotRestated,
    /// C4: strong reads under an older epoch than the tail's are answered, and by who is no tail.
    AnyoneAnswersReads,
    /// C5: a removed tail answers strong reads although its lease has lapsed.
    LapsedLeaseServes,
    /// C5: a server gets its lease back before it hears that it is out.
    LeaseComesBackBlindly,
    /// C5: a new tail answers before it has what the old one acknowledged.
    UnsyncedTailServes,
    /// C7: a joiner counts as a survivor at once.
    JoinerCountsAtOnce,
    /// C7: a joiner gets rows, but not the sessions' places.
    JoinerGetsNoSessions,
    /// A sender does not keep batches for its joiner.
    JoinersBatchesAreLost,
    /// A client that hears of a new head waits for the old one's answers.
    ClientNeverResends,
}

impl Fault {
    pub(crate) const ALL: [Self; 19] = [
        Self::HeadAcknowledgesAlone,
        Self::MiddleAcknowledgesAlone,
        Self::TailAcknowledgesAhead,
        Self::NewHeadKeepsItsSessions,
        Self::NewHeadEndsTheYoung,
        Self::SuccessorSkipsAPush,
        Self::SuccessorReorders,
        Self::DuplicatesAreApplied,
        Self::ClientRenumbers,
        Self::RefusalsAreForgotten,
        Self::AcksAreNotRestated,
        Self::AnyoneAnswersReads,
        Self::LapsedLeaseServes,
        Self::LeaseComesBackBlindly,
        Self::UnsyncedTailServes,
        Self::JoinerCountsAtOnce,
        Self::JoinerGetsNoSessions,
        Self::JoinersBatchesAreLost,
        Self::ClientNeverResends,
    ];
}
