//! What coordinator, servers and clients say to each other.
//!
//! A client or server opens a connection with its hello; the coordinator answers [`FromCoordinator::Welcome`] or
//! [`FromCoordinator::Refused`]. Requests and asks carry a number that their answer repeats; both may be sent again
//! after a new connection, so whoever carries one out does it once or finds it done.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::job::{JobAnswer, JobRequest};
use super::{Map, Role, Status, WorkerClock, decode_schema, encode_schema};
use super::{PartitionStatus, ShardStatus};
use crate::store::TableSchema;
use crate::wire::ids::{Clock, Epoch, PartitionId, ServerId, SessionId, ShardId, TableId};

/// A schema as messages carry it: the bytes of [`encode_schema`], in hexadecimal; checked when it is read.
#[derive(Clone, Debug, PartialEq)]
pub struct SchemaText(pub Arc<TableSchema>);

impl Serialize for SchemaText {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let digits: String = encode_schema(&self.0).iter().map(|byte| format!("{byte:02x}")).collect();
        to.serialize_str(&digits)
    }
}

impl<'de> Deserialize<'de> for SchemaText {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let digits = String::deserialize(from)?;
        let bytes: Option<Vec<u8>> = digits
            .as_bytes()
            .chunks(2)
            .map(|pair| {
                u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok().filter(|_| pair.len() == 2)
            })
            .collect();
        let bytes = bytes.ok_or_else(|| D::Error::custom("a schema that is not hexadecimal"))?;
        decode_schema(&bytes).map(|schema| Self(Arc::new(schema))).map_err(D::Error::custom)
    }
}

mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::cluster::Map;

    pub(super) fn serialize<S: Serializer>(map: &Arc<Map>, to: S) -> Result<S::Ok, S::Error> {
        (**map).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<Map>, D::Error> {
        Map::deserialize(from).map(Arc::new)
    }
}

/// A host as seen from inside: memory can be shared between processes that give the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostIdentity {
    /// Of the running kernel, random at each start.
    pub boot: String,
    /// Network namespace: abstract sockets do not reach beyond it.
    pub network: String,
}

impl HostIdentity {
    /// Whether both were told and are the same.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        !self.boot.is_empty() && self == other
    }
}

/// A server's first message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerHello {
    /// Random for each start of the process.
    pub incarnation: u64,
    /// Who it is, and the number of its first thread, when a coordinator of this cluster has told it.
    pub server: Option<(ServerId, ShardId)>,
    /// Where it takes tcp lanes.
    pub address: String,
    /// Where it runs.
    pub host: HostIdentity,
    /// Name of the socket where processes of its host get lanes over shared memory.
    pub door: Option<String>,
    /// Its server threads.
    pub shards: u32,
    /// Bytes of a lane's ring.
    pub ring_bytes: u64,
    /// Tables it holds rows of.
    pub tables: Vec<TableId>,
    /// Sessions it knows.
    pub sessions: Vec<SessionId>,
}

/// A client's first message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientHello {
    /// Random for each client; the same on all its connections.
    pub client: u64,
    /// The process, for people.
    pub process: String,
    /// Its sessions.
    pub sessions: Vec<SessionId>,
}

/// To the coordinator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum ToCoordinator {
    /// First, of a server.
    Server(ServerHello),
    /// First, of a client.
    Client(ClientHello),
    /// A client lives.
    Heartbeat,
    /// A server lives, and wants its lease renewed.
    Renew {
        /// When it sent this, by its own clock.
        sent_us: u64,
    },
    /// A joiner has every row, or a new tail everything that its predecessor had ordered when that took up the epoch (C7).
    Synced {
        /// Which partition.
        partition: PartitionId,
        /// Under which epoch.
        epoch: Epoch,
        /// The thread.
        shard: ShardId,
    },
    /// A replica can't go on, and leaves its chain (C0).
    Leave {
        /// Which partition.
        partition: PartitionId,
        /// Under which epoch.
        epoch: Epoch,
        /// The thread.
        shard: ShardId,
        /// Why, in one line.
        reason: String,
    },
    /// A client wants something.
    Request {
        /// Repeated by the answer.
        id: u64,
        /// How long the client waits.
        deadline_ms: u64,
        /// What.
        request: Request,
    },
    /// A server has done what it was asked.
    Answer {
        /// Of the ask.
        id: u64,
        /// What came of it; an error is one line.
        result: Result<Done, String>,
    },
}

/// What a client may want.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Request {
    /// A session.
    BeginSession,
    /// The end of one.
    EndSession {
        /// Which.
        session: SessionId,
    },
    /// A table, made if there is none.
    OpenTable {
        /// Its schema.
        schema: SchemaText,
    },
    /// The end of one.
    DropTable {
        /// Its name.
        name: String,
    },
    /// To wait for others.
    Barrier {
        /// Where.
        name: String,
        /// For how many in all.
        count: u64,
        /// Which arrival this is: a resend repeats it and counts once.
        caller: u64,
    },
    /// Something about a job.
    Job {
        /// What.
        request: JobRequest,
    },
    /// All partitions of a server on others, so that it can be stopped. Answered when it is so.
    Drain {
        /// Which server.
        server: ServerId,
    },
    /// How things stand.
    Status,
}

/// What a client gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Reply {
    /// It is done.
    Done,
    /// A session, and the clock it joins at.
    Session {
        /// Its id.
        session: SessionId,
        /// Its clock.
        clock: Clock,
    },
    /// A table that is on every server thread.
    Table {
        /// Its id.
        table: TableId,
        /// Its schema.
        schema: SchemaText,
    },
    /// About a job.
    Job {
        /// What; a refusal too.
        answer: JobAnswer,
    },
    /// How things stand.
    Status(Box<Status>),
}

/// Why it gets nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Failure {
    /// The name stands for another schema.
    Mismatch {
        /// The schema of the table.
        theirs: SchemaText,
    },
    /// There is no such table.
    NoTable {
        /// The name asked for.
        name: String,
    },
    /// It took too long.
    Deadline {
        /// What was waited for.
        what: String,
    },
    /// Anything else: cause, object and next step in one line.
    Other {
        /// The line.
        message: String,
    },
}

impl Failure {
    pub(super) fn other(message: impl Into<String>) -> Self {
        Self::Other { message: message.into() }
    }
}

/// What a coordinator tells of itself to those who join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// Servers say that they live this often.
    pub heartbeat_ms: u64,
    /// A server that says nothing for so long is suspected.
    pub lease_ms: u64,
    /// How long a server goes on without a coordinator.
    pub orphan_s: u64,
    /// Clients say that they live this often.
    pub client_heartbeat_ms: u64,
    /// The sessions of a client that says nothing for so long end.
    pub client_lease_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat_ms: 25,
            lease_ms: 100,
            orphan_s: 60,
            client_heartbeat_ms: 1000,
            client_lease_ms: 5000,
        }
    }
}

/// The coordinator's answer to a hello.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Welcome {
    /// Its clocks.
    pub timing: Timing,
    /// Of a server: who it is, and the number of its first thread.
    pub server: Option<(ServerId, ShardId)>,
    /// Of a server: what it names when it opens a lane to another; 0 for clients.
    #[serde(default)]
    pub link_key: u64,
}

/// One server, to clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerEntry {
    /// Which.
    pub server: ServerId,
    /// Where it takes tcp lanes.
    pub address: String,
    /// Where it runs.
    pub host: HostIdentity,
    /// Where processes of its host get lanes over shared memory.
    pub door: Option<String>,
    /// Bytes of a lane's ring.
    pub ring_bytes: u64,
    /// Its threads, numbered from `first_shard`.
    pub first_shard: ShardId,
    /// How many.
    pub shards: u32,
    /// False once its process is known to have ended: what only it held is unavailable (C7).
    pub available: bool,
}

/// From the coordinator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum FromCoordinator {
    /// You are in.
    Welcome(Welcome),
    /// You are not; the connection ends.
    Refused {
        /// Cause and next step, in one line.
        reason: String,
    },
    /// To clients: who holds what. Comes after the welcome once enough servers have joined, and with every change.
    Map {
        /// The map; the same for all of them.
        #[serde(with = "shared")]
        map: Arc<Map>,
        /// The servers in it.
        servers: Vec<ServerEntry>,
    },
    /// To a client's request.
    Answer {
        /// Of the request.
        id: u64,
        /// What came of it.
        result: Result<Reply, Failure>,
    },
    /// A server's lease lasts from when it sent what is repeated here.
    Renewed {
        /// As in the renewal.
        sent_us: u64,
    },
    /// To a server.
    Ask {
        /// Repeated by the answer.
        id: u64,
        /// What.
        ask: Ask,
    },
}

/// What one server thread is to hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holding {
    /// The thread.
    pub shard: ShardId,
    /// Its partitions, as a member of their chains or as a joiner; rising.
    pub partitions: Vec<Role>,
}

/// What a server may be asked. In the order of their coming.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Ask {
    /// Hold these partitions and no others. One that is held under the same epoch is kept as it is; one that is held under
    /// an older one keeps its rows and takes its new place.
    Hold {
        /// Partitions of the cluster.
        partition_count: u32,
        /// By thread.
        holdings: Vec<Holding>,
        /// The servers that the threads have links to.
        peers: Vec<ServerEntry>,
        /// Tables there are, those in the making too: a head makes what is missing and drops the others.
        tables: Vec<(TableId, SchemaText)>,
        /// The newest table there is or was: of newer ones the list says nothing.
        last_table: TableId,
        /// Sessions there are, those that begin too: a head begins what is missing and ends the others (C3).
        sessions: Vec<SessionId>,
        /// The newest session there is or was.
        last_session: SessionId,
    },
    /// Make a table's part here.
    CreateTable {
        /// Its id.
        table: TableId,
        /// Its schema.
        schema: SchemaText,
    },
    /// Drop it.
    DropTable {
        /// Its id.
        table: TableId,
    },
    /// A session begins.
    BeginSession {
        /// Its id.
        session: SessionId,
    },
    /// A session ends; its id is refused from now on (C3).
    EndSession {
        /// Its id.
        session: SessionId,
    },
    /// Say how things stand.
    Report,
}

/// What came of an ask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Done {
    /// It is done.
    Done,
    /// A session began, at this clock.
    Began(Clock),
    /// How things stand.
    Report(ServerReport),
}

/// How a server stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerReport {
    /// Its threads.
    pub shards: Vec<ShardStatus>,
    /// Its partition replicas.
    pub partitions: Vec<PartitionStatus>,
    /// Rows of the tables here.
    pub tables: Vec<(TableId, u64)>,
    /// Clocks of the sessions, the lowest over the partitions here.
    pub clocks: Vec<WorkerClock>,
}
