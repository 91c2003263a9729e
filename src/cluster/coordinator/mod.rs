//! The coordinator: one state machine that knows servers, map, tables, sessions, and who waits for what.
//!
//! The problem: several processes must agree on who holds what, while any of them, this one too, may stop at any
//! point. The idea: inputs are a message of a connection, its end, and the time; outputs are messages, in order. What
//! must outlive this process is a [`Record`]: when [`Coordinator::take_record`] gives one, it is made durable before
//! any output of that moment is sent (design, section 7). Requests that concern all servers become operations: one
//! ask to each server, sent again when it comes back, done when all have answered.
//!
//! Invariants: a decision is durable before anybody hears of it; ids are never given twice (C3); a server that is
//! gone stays in the chains whose last copy it has, marked unavailable (C7), and whoever has not reported that it has
//! everything is no copy; partitions are placed anew only while there is neither a table nor a session, so that no data
//! is left behind; all changes of chains are made by `chains::Chains`, each under an epoch of its own, and told only to
//! the servers in them. Time is counted only while this process runs: a pause of its own adds to every deadline.
//!
//! Absent on purpose: clocks, sockets, files (the owner has them), anything on the data path. One thread owns it.

mod chains;
mod clients;
mod copies;
mod jobs;
mod operation;
mod placement;
mod record;
mod repair;
mod report;
mod servers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub use record::{Record, RecordError};

use self::chains::Chains;
use self::clients::{Client, Gathered};
use self::copies::{Drain, Handover, Join};
use self::operation::Operation;
use self::servers::Server;
use super::job::{Jobs, JobsConfig};
use super::message::{Failure, FromCoordinator, Reply, Request, ServerEntry, Timing, ToCoordinator};
use super::{Barriers, Catalog, Map};
use crate::wire::ids::{PartitionId, ServerId, SessionId};

/// Most time that passes between two looks at it; more is a pause of this process, which nobody else is blamed for.
const LONGEST_STEP: Duration = Duration::from_millis(50);
/// Longest a request may ask to wait.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Processes of a job live by the leases of clients.
fn jobs_config(timing: &Timing) -> JobsConfig {
    let Timing { client_lease_ms: lease_ms, client_heartbeat_ms: heartbeat_ms, .. } = *timing;
    JobsConfig { lease_ms, heartbeat_ms, ..JobsConfig::default() }
}

/// One connection; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// What the owner is to do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send a message. A connection that is gone has nobody to tell.
    Send(ConnectionId, FromCoordinator),
    /// Close a connection, once what was sent before is out.
    Close(ConnectionId),
}

/// Whose a connection is, once it said hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Server(ServerId),
    Client(u64),
}

/// Who asked, and the number the answer repeats.
#[derive(Clone, Copy, Debug)]
struct Asker {
    connection: ConnectionId,
    request: u64,
}

/// A request that cannot begin yet.
#[derive(Clone, Debug)]
struct Pending {
    asker: Asker,
    client: u64,
    request: Request,
    until: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct Coordinator {
    cluster: u64,
    term: u64,
    replicas: u32,
    partitions: u32,
    timing: Timing,
    /// Time as it is judged by.
    clock: Duration,
    seen: Option<Duration>,

    catalog: Catalog,
    /// Live sessions and the clients they belong to.
    sessions: BTreeMap<SessionId, u64>,
    chains: Chains,
    /// The servers that partitions were last placed anew on.
    placed_on: Vec<ServerId>,
    /// What servers name when they open lanes to each other; recorded.
    link_key: u64,
    /// Numbers placements, for servers to confirm.
    placement: u64,
    /// Servers that came and have to be told what they hold.
    returned: BTreeSet<ServerId>,
    /// When servers were suspected that had roles; the oldest first.
    suspicions: VecDeque<Duration>,
    /// Who joins chains now, and when it was last asked how far they are.
    joins: BTreeMap<PartitionId, Join>,
    looked: Duration,
    /// Servers that shall not join a partition before a time.
    barred: BTreeMap<(PartitionId, ServerId), Duration>,
    drains: Vec<Drain>,
    handover: Option<Handover>,
    /// The version of the map, and when, at which copies were last looked after.
    tended: Option<(u64, Duration)>,
    /// The version of the map in which no other heads were found to be better.
    balanced: Option<u64>,
    servers: BTreeMap<ServerId, Server>,
    last_server: u32,
    next_shard: u32,
    /// The record as the owner has it is out of date.
    changed: bool,

    connections: BTreeMap<ConnectionId, Peer>,
    clients: BTreeMap<u64, Client>,
    /// What the clients were last told of: the map's version.
    published: Option<u64>,
    /// What that was.
    newest: Option<(Arc<Map>, Vec<ServerEntry>)>,
    /// Since when there is a newer one.
    unpublished: Option<Duration>,
    pending: VecDeque<Pending>,
    operations: BTreeMap<u64, Operation>,
    /// Open asks: of which operation, to which server.
    asks: BTreeMap<u64, (u64, ServerId)>,
    last_number: u64,
    barriers: Barriers,
    gathered: Vec<Gathered>,
    jobs: Jobs,
    /// When the jobs first changed since they were recorded.
    jobs_unsaved: Option<Duration>,
    addresses: Vec<String>,
    outputs: Vec<Output>,
    complaints: Vec<String>,
}

impl Coordinator {
    /// A coordinator that begins a new term with what was recorded. `addresses` are its own, for `status`.
    #[must_use]
    pub fn start(record: Record, timing: Timing, addresses: Vec<String>) -> Self {
        let mut machine = Self {
            cluster: record.cluster,
            term: record.term + 1,
            replicas: record.replicas,
            partitions: record.partitions,
            timing,
            clock: Duration::ZERO,
            seen: None,
            catalog: Catalog::restore(record.partitions, &record.catalog),
            sessions: record.sessions.iter().copied().collect(),
            chains: record.chains(),
            placed_on: record.placed_on,
            placement: record.placement,
            link_key: record.link_key,
            returned: BTreeSet::new(),
            suspicions: VecDeque::new(),
            joins: BTreeMap::new(),
            looked: Duration::ZERO,
            barred: BTreeMap::new(),
            drains: Vec::new(),
            handover: None,
            balanced: None,
            tended: None,
            servers: BTreeMap::new(),
            last_server: record.last_server,
            next_shard: record.next_shard,
            changed: true,
            connections: BTreeMap::new(),
            clients: BTreeMap::new(),
            published: None,
            newest: None,
            unpublished: None,
            pending: VecDeque::new(),
            operations: BTreeMap::new(),
            asks: BTreeMap::new(),
            last_number: 0,
            barriers: Barriers::default(),
            gathered: Vec::new(),
            jobs: record.jobs.restored(jobs_config(&timing), 0),
            jobs_unsaved: None,
            addresses,
            outputs: Vec::new(),
            complaints: Vec::new(),
        };
        machine.servers =
            record.servers.into_iter().map(|server| (server.server, Server::recorded(server))).collect();
        // The owners of these sessions have one lease to come back.
        for client in machine.sessions.values() {
            machine.clients.entry(*client).or_insert_with(Client::absent);
        }
        machine
    }

    /// The cluster's id, which every message carries.
    #[must_use]
    pub fn cluster(&self) -> u64 {
        self.cluster
    }

    /// The term, which every message carries.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.term
    }

    /// What has to be durable before the outputs are acted on; none when nothing changed since it was last asked.
    pub fn take_record(&mut self) -> Option<Record> {
        let changed = std::mem::take(&mut self.changed);
        if changed {
            self.jobs_unsaved = None;
        }
        changed.then(|| self.record())
    }

    /// What is to be done now.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// Lines for whoever runs the process.
    pub fn take_complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }

    /// A message came. `cluster` and `term` are the sender's.
    pub fn on_message(
        &mut self,
        now: Duration,
        connection: ConnectionId,
        (cluster, term): (u64, u64),
        message: ToCoordinator,
    ) {
        self.advance(now);
        if cluster != 0 && cluster != self.cluster {
            return self.refuse(
                connection,
                format!(
                    "this is the coordinator of cluster {:016x}, you belong to {cluster:016x}; check the address, \
                     or start anew",
                    self.cluster
                ),
            );
        }
        if cluster != 0 && term > self.term {
            return self.refuse(
                connection,
                format!(
                    "this coordinator is of term {}, you have seen {term}; stop it, a newer one runs",
                    self.term
                ),
            );
        }
        match (self.connections.get(&connection).copied(), message) {
            (None, ToCoordinator::Server(hello)) => self.join_server(connection, cluster, hello),
            (None, ToCoordinator::Client(hello)) => self.join_client(connection, hello),
            (None, _) => self.refuse(connection, "the first message has to say who you are".to_owned()),
            (Some(Peer::Server(server)), ToCoordinator::Renew { sent_us }) => {
                self.heard_of_server(server);
                // Of these come the most, and nothing follows from them.
                return self.send(connection, FromCoordinator::Renewed { sent_us });
            }
            (Some(Peer::Server(server)), ToCoordinator::Synced { partition, epoch, shard }) => {
                self.heard_of_server(server);
                self.on_synced(server, partition, epoch, shard);
            }
            (Some(Peer::Server(server)), ToCoordinator::Leave { partition, epoch, shard, reason }) => {
                self.heard_of_server(server);
                self.on_leave(server, (partition, epoch, shard), &reason);
            }
            (Some(Peer::Client(client)), ToCoordinator::Heartbeat) => return self.heard_of_client(client),
            (Some(Peer::Server(server)), ToCoordinator::Answer { id, result }) => {
                self.heard_of_server(server);
                self.on_answer(server, id, result);
            }
            (Some(Peer::Client(client)), ToCoordinator::Request { id, deadline_ms, request }) => {
                self.heard_of_client(client);
                let until = self.clock + Duration::from_millis(deadline_ms).min(LONGEST_WAIT);
                let asker = Asker { connection, request: id };
                self.on_request(Pending { asker, client, request, until });
            }
            (Some(_), _) => self.refuse(connection, "that message is not for you to send".to_owned()),
        }
        self.settle();
    }

    /// A connection ended.
    pub fn on_closed(&mut self, now: Duration, connection: ConnectionId) {
        self.advance(now);
        self.forget_connection(connection);
        self.settle();
    }

    /// Judges who is late. The owner calls it after it has handed in all input that lay there.
    pub fn tick(&mut self, now: Duration) {
        self.advance(now);
        self.judge_servers();
        self.judge_clients();
        self.expire_operations();
        self.tend_copies();
        self.expire_waits();
        self.save_jobs();
        self.settle();
    }

    fn advance(&mut self, now: Duration) {
        let passed = self.seen.map_or(Duration::ZERO, |seen| now.saturating_sub(seen));
        self.seen = Some(now);
        self.clock += passed.min(LONGEST_STEP);
    }

    fn forget_connection(&mut self, connection: ConnectionId) {
        match self.connections.remove(&connection) {
            Some(Peer::Server(server)) => self.lost_server(server, connection),
            Some(Peer::Client(client)) => self.lost_client(client, connection),
            None => {}
        }
    }

    fn refuse(&mut self, connection: ConnectionId, reason: String) {
        self.forget_connection(connection);
        self.send(connection, FromCoordinator::Refused { reason });
        self.outputs.push(Output::Close(connection));
    }

    fn send(&mut self, connection: ConnectionId, message: FromCoordinator) {
        self.outputs.push(Output::Send(connection, message));
    }

    fn answer(&mut self, asker: Asker, result: Result<Reply, Failure>) {
        self.send(asker.connection, FromCoordinator::Answer { id: asker.request, result });
    }

    /// A number for an operation or an ask.
    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Does what has become possible.
    fn settle(&mut self) {
        self.place();
        self.end_handover();
        self.tell_roles();
        self.publish();
        self.begin_pending();
    }
}

#[cfg(test)]
mod tests;
