//! The control plane of a cluster of other processes: one connection to its coordinator, on a thread of its own.
//!
//! Requests are kept until they are answered and sent again on a new connection, so a coordinator that restarts is
//! noticed by nobody but those who wait. Lanes go to the servers directly; what is already connected needs no
//! coordinator at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::cluster::FabricChoice;
use crate::cluster::job::{JobAnswer, JobRequest};
use crate::cluster::message::{
    ClientHello, Failure, FromCoordinator, Reply, Request, SchemaText, ServerEntry, ToCoordinator, Welcome,
};
use crate::cluster::{Map, Status};
use crate::control::connection::{Allegiance, Connection, ConnectionError, Inbox};
use crate::control::{ControlError, ControlPlane, Jobs, random, this_host};
use crate::lane::tcp::Hello;
use crate::lane::{FabricKind, LaneEnd, MIN_RING_BYTES, SetupError, Waker, shm, tcp};
use crate::store::TableSchema;
use crate::wire::ids::{Clock, ServerId, SessionId, ShardId, TableId};

/// Pauses between attempts to find a coordinator again.
const MIN_PAUSE: Duration = Duration::from_millis(20);
const MAX_PAUSE: Duration = Duration::from_millis(500);
/// How long a coordinator may take to answer a hello.
const WELCOME: Duration = Duration::from_secs(2);
/// How long a server may take for a lane: a session tries again, and must look at its deadline between.
const LANE: Duration = Duration::from_secs(2);
/// How long a sign of life about a job may take.
const SIGN: Duration = Duration::from_secs(1);
/// How long to wait for the end of a session.
const END: Duration = Duration::from_secs(2);
/// Added to a request's deadline here, so that the coordinator's own reason comes first.
const GRACE: Duration = Duration::from_millis(250);

/// What a remote control plane is made from.
#[derive(Clone, Debug)]
pub(super) struct RemoteConfig {
    pub(super) addresses: Vec<String>,
    pub(super) fabric: FabricChoice,
    /// Largest ring.
    pub(super) ring_bytes: usize,
    pub(super) deadline: Duration,
    pub(super) connect_timeout: Duration,
}

/// A request that has not been answered.
struct Pending {
    request: Request,
    until: Instant,
    reply: Sender<Result<Reply, Failure>>,
}

#[derive(Default)]
struct State {
    connection: Option<Arc<Connection>>,
    allegiance: Allegiance,
    map: Option<(Arc<Map>, Vec<ServerEntry>)>,
    sessions: BTreeSet<SessionId>,
    /// Of sessions that may sleep when the map changes.
    wakers: BTreeMap<SessionId, Waker>,
    pending: BTreeMap<u64, Pending>,
    last_request: u64,
    /// Lanes to a server go over this.
    kinds: BTreeMap<ServerId, FabricKind>,
    /// Why there is no connection.
    trouble: String,
}

struct Shared {
    config: RemoteConfig,
    client: u64,
    state: Mutex<State>,
    changed: Condvar,
    /// Of the map in `state`.
    map_version: AtomicU64,
    stop: AtomicBool,
}

/// A coordinator at the end of a connection.
pub(crate) struct Remote {
    shared: Arc<Shared>,
    link: Option<JoinHandle<()>>,
}

impl Remote {
    /// Connects to a coordinator. It may have no servers yet: [`Remote::join`] waits for them.
    ///
    /// # Errors
    /// [`ControlError::NoCoordinator`] when none answers in time, [`ControlError::Remote`] when it refuses.
    pub(super) fn connect(config: RemoteConfig) -> Result<Self, ControlError> {
        let deadline = Instant::now() + config.connect_timeout;
        let shared = Arc::new(Shared {
            config,
            client: random(),
            state: Mutex::default(),
            changed: Condvar::new(),
            map_version: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let mut pause = MIN_PAUSE;
        let first = loop {
            match shared.greet(deadline) {
                Ok(found) => break found,
                Err(ConnectionError::Refused { reason }) => {
                    return Err(ControlError::Remote { message: reason });
                }
                Err(error) if Instant::now() + pause >= deadline => return Err(shared.unreachable(&error)),
                Err(_) => std::thread::park_timeout(pause),
            }
            pause = (pause * 2).min(MAX_PAUSE);
        };
        let theirs = Arc::clone(&shared);
        let link = std::thread::Builder::new()
            .name("gradwire-control".into())
            .spawn(move || theirs.keep(first))
            .map_err(|error| ControlError::Machine {
                what: "starting the control connection's thread",
                cause: error.to_string(),
            })?;
        Ok(Self { shared, link: Some(link) })
    }

    /// Waits until enough servers have joined the cluster, and settles what carries the lanes. Gives the reason for it.
    ///
    /// # Errors
    /// [`ControlError`]: no servers in time, or a fabric that was named cannot be had.
    pub(super) fn join(&self, deadline: Instant) -> Result<String, ControlError> {
        let began = Instant::now();
        let mut state = self.shared.lock();
        while state.map.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ControlError::NoServers { after: began.elapsed() });
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let servers = state.map.as_ref().map(|(_, servers)| servers.clone()).unwrap_or_default();
        let cluster = state.allegiance.cluster;
        drop(state);
        let mut why = BTreeMap::new();
        for server in &servers {
            let (kind, reason) = choose(self.shared.config.fabric, cluster, server)?;
            self.shared.lock().kinds.insert(server.server, kind);
            why.insert(server.server, (kind, reason));
        }
        let far: Vec<&(FabricKind, String)> =
            why.values().filter(|(kind, _)| *kind == FabricKind::Tcp).collect();
        Ok(match (far.first(), why.values().next()) {
            (Some((_, reason)), _) if far.len() < why.len() => {
                format!("{} of {} servers by tcp: {reason}; the others by shm", far.len(), why.len())
            }
            (Some((_, reason)), _) | (None, Some((_, reason))) => reason.clone(),
            (None, None) => String::new(),
        })
    }

    /// Bytes of a lane's ring: the largest that this side and every server allow.
    pub(super) fn ring_bytes(&self) -> usize {
        let state = self.shared.lock();
        let servers = state.map.as_ref().map(|(_, servers)| servers.as_slice()).unwrap_or_default();
        let least =
            servers.iter().map(|server| usize::try_from(server.ring_bytes).unwrap_or(usize::MAX)).min();
        least.unwrap_or(usize::MAX).min(self.shared.config.ring_bytes)
    }

    fn request(&self, request: Request, deadline: Duration) -> Result<Reply, Failed> {
        let (reply, answer) = bounded(1);
        let until = Instant::now() + deadline;
        let (id, connection, allegiance) = {
            let mut state = self.shared.lock();
            state.last_request += 1;
            let id = state.last_request;
            state.pending.insert(id, Pending { request: request.clone(), until, reply });
            (id, state.connection.clone(), state.allegiance)
        };
        if let Some(connection) = connection {
            // One that fails is over, and the next connection sends it again.
            connection.send(allegiance.cluster, allegiance.term, &message(id, deadline, request)).ok();
        }
        let answered = answer.recv_timeout(deadline + GRACE);
        let mut state = self.shared.lock();
        state.pending.remove(&id);
        // It may have come just now.
        let answered = answered.or_else(|error| answer.try_recv().map_err(|_| error));
        match answered {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(failure)) => Err(Failed::There(failure)),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) if state.connection.is_none() => {
                let (addresses, cause) = (self.shared.config.addresses.join(","), state.trouble.clone());
                Err(Failed::Here(ControlError::NoCoordinator { addresses, cause }))
            }
            Err(_) => {
                let (what, after) = ("a request to the coordinator", deadline);
                Err(Failed::Here(ControlError::Deadline { what, after }))
            }
        }
    }

    fn entry(&self, shard: ShardId) -> Result<(ServerEntry, u64, Option<FabricKind>), ControlError> {
        let state = self.shared.lock();
        let servers = state.map.as_ref().map(|(_, servers)| servers.as_slice()).unwrap_or_default();
        let holds = |server: &&ServerEntry| {
            (server.first_shard.0..server.first_shard.0 + server.shards).contains(&shard.0)
        };
        let found = servers.iter().find(holds).ok_or(ControlError::NoShard { shard })?;
        let kind = state.kinds.get(&found.server).copied();
        Ok((found.clone(), state.allegiance.cluster, kind))
    }
}

/// Where a request failed.
enum Failed {
    There(Failure),
    Here(ControlError),
}

impl Failed {
    /// The error for any request whose refusals have no form of their own.
    fn plain(self) -> ControlError {
        match self {
            Self::Here(error) => error,
            Self::There(Failure::Deadline { what }) => ControlError::Late { what },
            Self::There(Failure::NoTable { name }) => ControlError::NoTable { name },
            Self::There(Failure::Other { message }) => ControlError::Remote { message },
            Self::There(Failure::Mismatch { .. }) => unexpected(),
        }
    }
}

fn unexpected() -> ControlError {
    let message =
        "the coordinator's answer does not fit the request; client and coordinator builds may differ";
    ControlError::Remote { message: message.to_owned() }
}

fn message(id: u64, deadline: Duration, request: Request) -> ToCoordinator {
    let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
    ToCoordinator::Request { id, deadline_ms, request }
}

/// What carries lanes to a server, and why.
fn choose(
    choice: FabricChoice,
    cluster: u64,
    server: &ServerEntry,
) -> Result<(FabricKind, String), ControlError> {
    if choice == FabricChoice::Tcp {
        return Ok((FabricKind::Tcp, "asked for".to_owned()));
    }
    let near = match &server.door {
        None => Err(format!("the server at {} offers tcp only", server.address)),
        Some(_) if !server.host.same_as(&this_host()) => {
            Err(format!("the server at {} is on another host", server.address))
        }
        Some(door) => {
            // That the other end is reachable and hands over memory is known when it has been done.
            let hello = Hello {
                cluster,
                shard: server.first_shard,
                ring_bytes: MIN_RING_BYTES,
                flags: 0,
                link: None,
            };
            shm::connect(door, &hello, Instant::now() + LANE).map(drop).map_err(|error| {
                format!("shared memory with the server at {} failed: {error}", server.address)
            })
        }
    };
    match (near, choice) {
        (Ok(()), FabricChoice::Shm) => Ok((FabricKind::Shm, "asked for".to_owned())),
        (Ok(()), _) => Ok((FabricKind::Shm, "workers and servers share this host".to_owned())),
        (Err(reason), FabricChoice::Shm) => Err(ControlError::Remote {
            message: format!("no lanes over shm: {reason}; leave --fabric at auto, or name tcp"),
        }),
        (Err(reason), _) => Ok((FabricKind::Tcp, reason)),
    }
}

impl Jobs for Remote {
    fn on_job(&self, request: JobRequest) -> Result<JobAnswer, ControlError> {
        let deadline = match request {
            // Soon said again, or nothing that anybody waits for.
            JobRequest::Renew { .. } | JobRequest::Leave { .. } => SIGN.min(self.shared.config.deadline),
            _ => self.shared.config.deadline,
        };
        match self.request(Request::Job { request }, deadline) {
            Ok(Reply::Job { answer }) => Ok(answer),
            Ok(_) => Err(unexpected()),
            Err(failed) => Err(failed.plain()),
        }
    }
}

impl ControlPlane for Remote {
    fn map_version(&self) -> u64 {
        // Relaxed: a hint; the lock orders the map itself.
        self.shared.map_version.load(Ordering::Relaxed)
    }

    fn map(&self) -> Arc<Map> {
        let state = self.shared.lock();
        let map = state.map.as_ref().map(|(map, _)| Arc::clone(map));
        // Nobody holds a cluster before it has a map.
        map.unwrap_or_else(|| {
            Arc::new(Map { version: 0, cluster_id: 0, partitions: Vec::new(), shards: Vec::new() })
        })
    }

    fn watch_map(&self, session: SessionId, waker: Waker) {
        self.shared.lock().wakers.insert(session, waker);
    }

    fn begin_session(&self) -> Result<(SessionId, Clock), ControlError> {
        match self.request(Request::BeginSession, self.shared.config.deadline) {
            Ok(Reply::Session { session, clock }) => Ok((session, clock)),
            Ok(_) => Err(unexpected()),
            Err(failed) => Err(failed.plain()),
        }
    }

    fn end_session(&self, session: SessionId) {
        {
            let mut state = self.shared.lock();
            state.sessions.remove(&session);
            state.wakers.remove(&session);
        }
        // One that the coordinator does not hear of ends with this client's lease.
        self.request(Request::EndSession { session }, END.min(self.shared.config.deadline)).ok();
    }

    fn open_table(&self, schema: &TableSchema) -> Result<(TableId, Arc<TableSchema>), ControlError> {
        schema.validate().map_err(|error| ControlError::Catalog(error.into()))?;
        let request = Request::OpenTable { schema: SchemaText(Arc::new(schema.clone())) };
        match self.request(request, self.shared.config.deadline) {
            Ok(Reply::Table { table, schema }) => Ok((table, schema.0)),
            Ok(_) => Err(unexpected()),
            Err(Failed::There(Failure::Mismatch { theirs })) => Err(ControlError::SchemaMismatch {
                name: schema.name.clone(),
                theirs: theirs.0,
                ours: Box::new(schema.clone()),
            }),
            Err(failed) => Err(failed.plain()),
        }
    }

    fn drop_table(&self, name: &str) -> Result<(), ControlError> {
        let request = Request::DropTable { name: name.to_owned() };
        self.request(request, self.shared.config.deadline).map(drop).map_err(Failed::plain)
    }

    fn connect(&self, _session: SessionId, shard: ShardId) -> Result<LaneEnd, ControlError> {
        let (server, cluster, kind) = self.entry(shard)?;
        if !server.available {
            return Err(ControlError::ServerGone { address: server.address });
        }
        let kind = match kind {
            Some(kind) => kind,
            None => {
                let (kind, _) = choose(self.shared.config.fabric, cluster, &server)?;
                self.shared.lock().kinds.insert(server.server, kind);
                kind
            }
        };
        let hello = Hello { cluster, shard, ring_bytes: self.ring_bytes(), flags: 0, link: None };
        let deadline = Instant::now() + LANE.min(self.shared.config.deadline);
        Ok(match (kind, &server.door) {
            (FabricKind::Shm, Some(door)) => shm::connect(door, &hello, deadline)?,
            (FabricKind::Shm, None) => {
                let peer = server.address;
                return Err(SetupError::Closed { peer }.into());
            }
            (FabricKind::Tcp, _) => tcp::connect(&server.address, &hello, deadline)?,
        })
    }

    fn barrier(&self, name: &str, count: usize, deadline: Duration) -> Result<(), ControlError> {
        let request = Request::Barrier { name: name.to_owned(), count: count as u64, caller: random() };
        self.request(request, deadline).map(drop).map_err(Failed::plain)
    }

    fn status(&self) -> Result<Status, ControlError> {
        match self.request(Request::Status, self.shared.config.deadline) {
            Ok(Reply::Status(status)) => Ok(*status),
            Ok(_) => Err(unexpected()),
            Err(failed) => Err(failed.plain()),
        }
    }

    fn jobs(&self) -> &dyn Jobs {
        self
    }

    /// The slowest that is in use.
    fn fabric(&self) -> FabricKind {
        let state = self.shared.lock();
        let tcp = state.kinds.values().any(|kind| *kind == FabricKind::Tcp);
        if tcp || state.kinds.is_empty() { FabricKind::Tcp } else { FabricKind::Shm }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // Pairs with the loads in `keep`.
        self.shared.stop.store(true, Ordering::Release);
        let connection = self.shared.lock().connection.take();
        if let Some(connection) = connection {
            connection.close();
        }
        if let Some(link) = self.link.take() {
            link.thread().unpark();
            // It panicked, or it ended; there is nothing to do about either.
            link.join().ok();
        }
    }
}

/// A connection on which the coordinator has said welcome.
struct Found {
    connection: Arc<Connection>,
    inbox: Inbox,
    heartbeat: Duration,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn unreachable(&self, error: &ConnectionError) -> ControlError {
        let addresses = self.config.addresses.join(",");
        ControlError::NoCoordinator { addresses, cause: error.to_string() }
    }

    /// Connects, says hello, and sends again what was not answered.
    fn greet(&self, deadline: Instant) -> Result<Found, ConnectionError> {
        let connection = Arc::new(Connection::open(&self.config.addresses, deadline)?);
        let (mut allegiance, sessions) = {
            let state = self.lock();
            (state.allegiance, state.sessions.iter().copied().collect())
        };
        let process = format!("process {}", std::process::id());
        let hello = ClientHello { client: self.client, process, sessions };
        connection.send(allegiance.cluster, allegiance.term, &ToCoordinator::Client(hello))?;
        let mut inbox = Inbox::default();
        let patience = deadline.saturating_duration_since(Instant::now()).min(WELCOME);
        let received = connection.receive(&mut inbox, patience)?.ok_or(ConnectionError::Deadline)?;
        match received.message {
            FromCoordinator::Welcome(Welcome { timing, .. }) => {
                allegiance.admit(received.cluster, received.term)?;
                let open: Vec<(u64, Instant, Request)> = {
                    let mut state = self.lock();
                    state.allegiance = allegiance;
                    state.connection = Some(Arc::clone(&connection));
                    state.pending.iter().map(|(id, open)| (*id, open.until, open.request.clone())).collect()
                };
                for (id, until, request) in open {
                    let left = until.saturating_duration_since(Instant::now());
                    connection.send(allegiance.cluster, allegiance.term, &message(id, left, request))?;
                }
                let heartbeat = Duration::from_millis(timing.client_heartbeat_ms.max(1));
                Ok(Found { connection, inbox, heartbeat })
            }
            FromCoordinator::Refused { reason } => Err(ConnectionError::Refused { reason }),
            _ => Err(ConnectionError::Stranger { reason: "it did not say welcome".to_owned() }),
        }
    }

    /// Follows one connection after the other until it is stopped.
    fn keep(&self, mut found: Found) {
        loop {
            let ended = self.follow(&mut found);
            {
                let mut state = self.lock();
                state.connection = None;
                state.trouble = ended.to_string();
            }
            let mut pause = MIN_PAUSE;
            found = loop {
                if self.stopped() {
                    return;
                }
                match self.greet(Instant::now() + WELCOME) {
                    Ok(found) => break found,
                    Err(error) => self.lock().trouble = error.to_string(),
                }
                std::thread::park_timeout(pause);
                pause = (pause * 2).min(MAX_PAUSE);
            };
            if self.stopped() {
                found.connection.close();
            }
        }
    }

    /// Gives an answer to who waits for it. A session is this client's from here on, so that no hello leaves it out; one
    /// that nobody waits for any more is returned, to be ended: its clock would hold all others back.
    fn deliver(&self, id: u64, result: Result<Reply, Failure>) -> Option<SessionId> {
        let begun = match &result {
            Ok(Reply::Session { session, .. }) => Some(*session),
            _ => None,
        };
        let mut state = self.lock();
        let Some(pending) = state.pending.remove(&id) else { return begun };
        state.sessions.extend(begun);
        // Under the lock: who gives up looks once more before it does.
        pending.reply.send(result).ok();
        None
    }

    fn next_request(&self) -> u64 {
        let mut state = self.lock();
        state.last_request += 1;
        state.last_request
    }

    fn follow(&self, found: &mut Found) -> ConnectionError {
        let mut allegiance = self.lock().allegiance;
        let mut beat = Instant::now() + found.heartbeat;
        loop {
            let now = Instant::now();
            if now >= beat {
                beat = now + found.heartbeat;
                let sent =
                    found.connection.send(allegiance.cluster, allegiance.term, &ToCoordinator::Heartbeat);
                if let Err(error) = sent {
                    return error;
                }
            }
            let received =
                match found.connection.receive(&mut found.inbox, beat.saturating_duration_since(now)) {
                    Ok(Some(received)) => received,
                    Ok(None) => continue,
                    Err(error) => return error,
                };
            if let Err(error) = allegiance.admit(received.cluster, received.term) {
                found.connection.close();
                return error;
            }
            match received.message {
                FromCoordinator::Answer { id, result } => {
                    if let Some(orphan) = self.deliver(id, result) {
                        let end = Request::EndSession { session: orphan };
                        let end = message(self.next_request(), END, end);
                        if let Err(error) = found.connection.send(allegiance.cluster, allegiance.term, &end) {
                            return error;
                        }
                    }
                }
                FromCoordinator::Map { map, servers } => {
                    let version = map.version;
                    self.lock().map = Some((map, servers));
                    // After the map, so that who sees the version finds it; before the wakers, so that who wakes sees it.
                    self.map_version.store(version, Ordering::Relaxed);
                    self.lock().wakers.values().for_each(Waker::wake);
                    self.changed.notify_all();
                }
                FromCoordinator::Refused { reason } => return ConnectionError::Refused { reason },
                FromCoordinator::Welcome(_)
                | FromCoordinator::Ask { .. }
                | FromCoordinator::Renewed { .. } => {
                    return ConnectionError::Stranger { reason: "it speaks out of turn".to_owned() };
                }
            }
        }
    }
}
