//! Identities and counters that records carry, each its own type so that none stands for another.

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
        )]
        pub struct $name(pub $inner);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// One client; given by the coordinator and never used again. 0 is no session.
    SessionId, u64);
id!(
    /// One table of the cluster.
    TableId, u32);
id!(
    /// One partition, the unit of placement, replication and order. It holds its part of every table, so that one
    /// log, one sequence per session and one clock table serve them all.
    PartitionId, u32);
id!(
    /// One pinned server thread of one server.
    ShardId, u32);
id!(
    /// One server process of the cluster; given by the coordinator and never used again.
    ServerId, u32);
id!(
    /// Names a pull among those its session has under way.
    RequestId, u64);
id!(
    /// Number of a batch in its partition's order; the first is 1.
    Lsn, u64);
id!(
    /// Number of a push in its (session, partition) order; the first is 1.
    Sequence, u64);
id!(
    /// Version of one partition's chain.
    Epoch, u64);
id!(
    /// Iterations a worker has finished.
    Clock, u64);

macro_rules! counter {
    ($($name:ident),*) => {$(
        impl $name {
            /// The one after this. Saturates: 2^64 steps are out of reach.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }
    )*};
}
counter!(Lsn, Sequence, Epoch, Clock, RequestId);
