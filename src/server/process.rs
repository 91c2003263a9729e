//! A server process: shards, the entrances to them, and the link to the coordinator that tells them what to hold.
//!
//! Three kinds of threads beside the shards: the link reads what the coordinator says, heartbeats and reconnects; the
//! doer carries out asks in their order and answers on the newest connection; acceptors greet clients. None of them
//! is on the data path, and the data path goes on while there is no coordinator.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use thiserror::Error;

use super::acceptor::{Acceptor, Served};
use super::group::{Group, GroupConfig, Order, SHUTDOWN};
use super::linker::{self, Neighbours};
use super::shard::Notice;
use super::shard::lease::Lease;
use crate::cluster::message::{
    Ask, Done, FromCoordinator, Holding, ServerHello, ServerReport, ToCoordinator, Welcome,
};
use crate::control::connection::{Allegiance, Connection, ConnectionError, Inbox};
use crate::control::{ControlError, random, this_host};
use crate::lane::shm::Door;
use crate::lane::tcp::Listener;
use crate::lane::{LaneConfig, SetupError};
use crate::wire::ids::{ServerId, SessionId, ShardId, TableId};

/// Pauses between attempts to find a coordinator again: short while one that restarts would come back.
const MIN_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_millis(50);
/// How long a coordinator may take to answer a hello.
const WELCOME: Duration = Duration::from_secs(2);
/// How long a shard may take to answer; freeing or making a large table takes a while.
const SHARD_DEADLINE: Duration = Duration::from_secs(30);

/// How a server is run.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Coordinators, HOST:PORT each.
    pub coordinators: Vec<String>,
    /// HOST:PORT where clients come; port 0 picks a free one.
    pub listen: String,
    /// Server threads.
    pub shards: u32,
    /// The usable cores they stay on, in turn; none to let them move.
    pub cores: Vec<usize>,
    /// Whether clients of this host get lanes over shared memory.
    pub shm: bool,
    /// Bytes of rows, indexes and key lists, for the whole process.
    pub memory_bytes: u64,
    /// Bytes of a lane's ring in each direction: a power of two.
    pub ring_bytes: usize,
    /// How long an idle thread looks for work before it sleeps.
    pub spin: Duration,
    /// How long to look for a coordinator at the start.
    pub connect_timeout: Duration,
}

/// Why a server does not run.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The address, or the socket of this host's clients.
    #[error(transparent)]
    Listen(#[from] SetupError),
    /// Threads or memory.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The coordinator refused this server.
    #[error("the coordinator at {address} refused this server: {reason}")]
    Refused {
        /// Where it is.
        address: String,
        /// What it said.
        reason: String,
    },
}

/// What the threads of a server share.
struct Shared {
    config: ServerConfig,
    incarnation: u64,
    door: Option<String>,
    /// Told by the first welcome.
    identity: Mutex<Option<(ServerId, ShardId)>>,
    group: Mutex<Option<Group>>,
    /// The connection that answers go to, and whom it belongs to.
    link: Mutex<Option<(Arc<Connection>, Allegiance)>>,
    /// What hellos name: tables there and in the making, sessions likewise.
    tables: Mutex<BTreeSet<TableId>>,
    sessions: Mutex<BTreeSet<SessionId>>,
    /// Tables that every thread has.
    made: Mutex<BTreeSet<TableId>>,
    /// Until when the coordinator counts on this process.
    lease: Lease,
    /// Known once a coordinator has said welcome.
    neighbours: Mutex<Arc<Neighbours>>,
    stop: AtomicBool,
}

/// A server that listens and is not yet known to a coordinator.
pub struct ServerProcess {
    shared: Arc<Shared>,
    listener: Listener,
    door: Option<Door>,
}

/// Ends a server from another thread.
#[derive(Clone)]
pub struct ServerStop(Arc<Shared>);

impl ServerStop {
    /// [`ServerProcess::run`] returns soon.
    pub fn stop(&self) {
        // Pairs with the loads in the link's loop.
        self.0.stop.store(true, Ordering::Release);
        if let Some((connection, _)) = &*lock(&self.0.link) {
            connection.close();
        }
    }
}

impl ServerProcess {
    /// Listens.
    ///
    /// # Errors
    /// [`ServerError::Listen`].
    pub fn start(config: ServerConfig) -> Result<Self, ServerError> {
        let listener = Listener::bind(&config.listen)?;
        let incarnation = random();
        let door = match config.shm {
            true => Some(Door::open(&format!("gradwire-{incarnation:016x}"))?),
            false => None,
        };
        let shared = Shared {
            config,
            incarnation,
            door: door.as_ref().map(|door| door.name().to_owned()),
            identity: Mutex::new(None),
            group: Mutex::new(None),
            link: Mutex::new(None),
            tables: Mutex::default(),
            sessions: Mutex::default(),
            made: Mutex::default(),
            lease: Lease::lapsed(),
            neighbours: Mutex::default(),
            stop: AtomicBool::new(false),
        };
        Ok(Self { shared: Arc::new(shared), listener, door })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// What ends [`ServerProcess::run`] from another thread.
    #[must_use]
    pub fn stopper(&self) -> ServerStop {
        ServerStop(Arc::clone(&self.shared))
    }

    /// Finds the coordinator and serves until it is stopped. `say` is told, in one line, what whoever runs it may want
    /// to know.
    ///
    /// # Errors
    /// [`ServerError`]: no coordinator in time, refused by it, or the machine refused threads or memory.
    pub fn run(self, say: impl Fn(&str)) -> Result<(), ServerError> {
        let Self { shared, listener, door } = self;
        let own = listener.address();
        let deadline = Instant::now() + shared.config.connect_timeout;
        let mut allegiance = Allegiance::default();
        let (asks, to_do) = unbounded();
        let found = shared.find(own, &mut allegiance, deadline);
        if shared.stop.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut first = found?;
        let (_, first_shard) = first.server;
        let notices = shared.begin(first_shard, &first, &allegiance)?;
        let served = || -> Result<Served, ControlError> {
            let group = lock(&shared.group);
            Ok(Served {
                cluster_id: allegiance.cluster,
                link_key: first.link_key,
                config: LaneConfig { ring_bytes: shared.config.ring_bytes },
                shards: group.as_ref().map(Group::handles).unwrap_or_default(),
                deadline: SHARD_DEADLINE,
            })
        };
        let shards = served()?.shards;
        let (theirs, own_words) = (Arc::clone(&shared), lock(&shared.neighbours).clone());
        let word_to_coordinator = Box::new(move |word: &ToCoordinator| theirs.say(word));
        let linker = linker::start(own_words, shards, notices, word_to_coordinator)?;
        let mut acceptors = vec![Acceptor::start(listener.into(), served()?)?];
        if let Some(door) = door {
            acceptors.push(Acceptor::start(door.into(), served()?)?);
        }
        let doer = {
            let shared = Arc::clone(&shared);
            let spawned = std::thread::Builder::new()
                .name("gradwire-do".into())
                .spawn(move || shared.carry_out(&to_do));
            spawned.map_err(|error| ControlError::Machine {
                what: "starting the thread for the coordinator's asks",
                cause: error.to_string(),
            })?
        };
        loop {
            let ended = shared.follow(&mut first, &mut allegiance, &asks);
            *lock(&shared.link) = None;
            if shared.stop.load(Ordering::Acquire) {
                break;
            }
            let lost = Instant::now();
            let mut orphan = false;
            say(&format!(
                "lost the coordinator at {}: {ended}; it serves on and looks for it",
                first.connection.peer()
            ));
            let mut complaint = String::new();
            loop {
                if !orphan && lost.elapsed() >= first.orphan {
                    orphan = true;
                    shared.set_orphan(true);
                    say(&format!(
                        "without a coordinator for {} s: pushes are refused from now on, memory is kept",
                        first.orphan.as_secs()
                    ));
                }
                // As long as the process lives: its memory may be the only copy.
                match shared.find(own, &mut allegiance, Instant::now() + WELCOME) {
                    Ok(found) => {
                        first = found;
                        break;
                    }
                    Err(error) if error.to_string() != complaint => {
                        complaint = error.to_string();
                        say(&complaint);
                    }
                    Err(_) => {}
                }
                if shared.stop.load(Ordering::Acquire) {
                    break;
                }
                std::thread::park_timeout(MAX_PAUSE);
            }
            if shared.stop.load(Ordering::Acquire) {
                break;
            }
            if orphan {
                shared.set_orphan(false);
            }
            for word in lock(&shared.neighbours).words() {
                shared.say(&word);
            }
            say(&format!(
                "found the coordinator again at {}, term {}",
                first.connection.peer(),
                allegiance.term
            ));
        }
        drop(asks);
        let deadline = Instant::now() + SHUTDOWN;
        let mut outcome = Ok(());
        for acceptor in acceptors {
            outcome = outcome.and(acceptor.stop(deadline));
        }
        doer.join().ok();
        if let Some(mut group) = lock(&shared.group).take() {
            outcome = outcome.and(group.stop(deadline));
        }
        // The shards are gone, and with them what it listens to.
        linker.join().ok();
        Ok(outcome?)
    }
}

/// What the coordinator said, in its order.
enum Task {
    /// To be done and answered on that connection.
    Ask(u64, Ask, Arc<Connection>),
    /// The lease goes on. Only behind what was asked before: who was taken out of a chain and slept through it must not
    /// answer for that chain once more (C5).
    Renewed { sent_us: u64, lasts: Duration },
}

/// A connection on which the coordinator has said welcome.
struct Found {
    connection: Arc<Connection>,
    inbox: Inbox,
    heartbeat: Duration,
    lease: Duration,
    orphan: Duration,
    server: (ServerId, ShardId),
    link_key: u64,
}

impl Shared {
    /// Tries coordinators until one says welcome.
    fn find(
        &self,
        own: SocketAddr,
        allegiance: &mut Allegiance,
        deadline: Instant,
    ) -> Result<Found, ServerError> {
        let mut pause = MIN_PAUSE;
        loop {
            let cause = match self.greet(own, allegiance, deadline) {
                Ok(found) => return Ok(found),
                Err(ConnectionError::Refused { reason }) => {
                    let address = self.config.coordinators.join(",");
                    return Err(ServerError::Refused { address, reason });
                }
                Err(error) => error.to_string(),
            };
            if Instant::now() + pause >= deadline || self.stop.load(Ordering::Acquire) {
                let addresses = self.config.coordinators.join(",");
                return Err(ControlError::NoCoordinator { addresses, cause }.into());
            }
            std::thread::park_timeout(pause);
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    fn greet(
        &self,
        own: SocketAddr,
        allegiance: &mut Allegiance,
        deadline: Instant,
    ) -> Result<Found, ConnectionError> {
        let connection = Connection::open(&self.config.coordinators, deadline)?;
        // Bound to every address: the one that leads to the coordinator is one that leads back.
        let address = match own.ip().is_unspecified() {
            true => SocketAddr::new(connection.local()?.ip(), own.port()),
            false => own,
        };
        let hello = ServerHello {
            incarnation: self.incarnation,
            server: *lock(&self.identity),
            address: address.to_string(),
            host: this_host(),
            door: self.door.clone(),
            shards: self.config.shards,
            ring_bytes: self.config.ring_bytes as u64,
            tables: lock(&self.tables).iter().copied().collect(),
            sessions: lock(&self.sessions).iter().copied().collect(),
        };
        connection.send(allegiance.cluster, allegiance.term, &ToCoordinator::Server(hello))?;
        let mut inbox = Inbox::default();
        let received = connection.receive(&mut inbox, WELCOME)?.ok_or(ConnectionError::Deadline)?;
        match received.message {
            FromCoordinator::Welcome(Welcome { timing, server: Some(server), link_key }) => {
                allegiance.admit(received.cluster, received.term)?;
                let known = *lock(&self.identity).get_or_insert(server);
                if known != server {
                    let reason = format!("it takes this server for {}, it is {}", server.0, known.0);
                    return Err(ConnectionError::Stranger { reason });
                }
                let connection = Arc::new(connection);
                *lock(&self.link) = Some((Arc::clone(&connection), *allegiance));
                let heartbeat = Duration::from_millis(timing.heartbeat_ms.max(1));
                let lease = Duration::from_millis(timing.lease_ms);
                let orphan = Duration::from_secs(timing.orphan_s);
                Ok(Found { connection, inbox, heartbeat, lease, orphan, server, link_key })
            }
            FromCoordinator::Refused { reason } => Err(ConnectionError::Refused { reason }),
            _ => Err(ConnectionError::Stranger { reason: "it did not say welcome".to_owned() }),
        }
    }

    /// Starts the shards, which hold nothing yet.
    fn begin(
        &self,
        first: ShardId,
        found: &Found,
        allegiance: &Allegiance,
    ) -> Result<Receiver<Notice>, ControlError> {
        let (notices, heard) = unbounded();
        let count = self.config.shards;
        let config = GroupConfig {
            memory_bytes: self.config.memory_bytes / u64::from(count.max(1)),
            log_bytes: self.config.ring_bytes.saturating_mul(2),
            spin: self.config.spin,
            cores: self.config.cores.clone(),
            deadline: SHARD_DEADLINE,
            fatal: true,
            lease: self.lease.clone(),
            notices,
        };
        let (ring_bytes, shm) = (self.config.ring_bytes, self.config.shm);
        *lock(&self.neighbours) =
            Arc::new(Neighbours::new(allegiance.cluster, found.link_key, ring_bytes, shm));
        let empty = |shard| Holding { shard: ShardId(shard), partitions: Vec::new() };
        let holdings = (first.0..first.0 + count).map(empty).collect();
        *lock(&self.group) = Some(Group::start(&config, Order::first(1, holdings))?);
        Ok(heard)
    }

    /// Listens to the coordinator and heartbeats until the connection ends.
    fn follow(
        &self,
        found: &mut Found,
        allegiance: &mut Allegiance,
        tasks: &Sender<Task>,
    ) -> ConnectionError {
        let mut beat = Instant::now();
        loop {
            let now = Instant::now();
            if now >= beat {
                beat = now + found.heartbeat;
                let renew = ToCoordinator::Renew { sent_us: self.lease.now_us() };
                let sent = found.connection.send(allegiance.cluster, allegiance.term, &renew);
                if let Err(error) = sent {
                    return error;
                }
            }
            let patience = beat.saturating_duration_since(now).max(Duration::from_millis(1));
            let received = match found.connection.receive(&mut found.inbox, patience) {
                Ok(Some(received)) => received,
                Ok(None) => continue,
                Err(error) => return error,
            };
            if let Err(error) = allegiance.admit(received.cluster, received.term) {
                found.connection.close();
                return error;
            }
            match received.message {
                FromCoordinator::Ask { id, ask } => {
                    // The doer outlives this loop.
                    tasks.send(Task::Ask(id, ask, Arc::clone(&found.connection))).ok();
                }
                FromCoordinator::Renewed { sent_us } => {
                    tasks.send(Task::Renewed { sent_us, lasts: found.lease }).ok();
                }
                FromCoordinator::Refused { reason } => return ConnectionError::Refused { reason },
                _ => {}
            }
        }
    }

    /// Tells the coordinator something, if there is one; one that comes back is told again.
    fn say(&self, word: &ToCoordinator) {
        if let Some((connection, allegiance)) = &*lock(&self.link) {
            // A connection that fails is over; the next one hears it.
            connection.send(allegiance.cluster, allegiance.term, word).ok();
        }
    }

    fn set_orphan(&self, orphan: bool) {
        if let Some(group) = lock(&self.group).as_ref() {
            group.set_orphan(orphan);
        }
    }

    /// Does what is asked, in order; the answer goes back on the connection the ask came on.
    fn carry_out(&self, to_do: &Receiver<Task>) {
        for task in to_do {
            let (id, ask, connection) = match task {
                Task::Ask(id, ask, connection) => (id, ask, connection),
                Task::Renewed { sent_us, lasts } => {
                    self.lease.renewed(sent_us, lasts);
                    continue;
                }
            };
            if !self.take_up(&ask, &connection) {
                continue;
            }
            let result = self.execute(ask).map_err(|error| error.to_string());
            let allegiance = lock(&self.link).as_ref().map(|(_, allegiance)| *allegiance).unwrap_or_default();
            // Of a connection that is gone, the next one repeats the ask.
            connection.send(allegiance.cluster, allegiance.term, &ToCoordinator::Answer { id, result }).ok();
        }
    }

    /// Whether an ask is of the connection that stands, and so to be carried out. What it makes is then named by every
    /// later hello, also while it is being made: a coordinator that does not know of it has it undone.
    fn take_up(&self, ask: &Ask, connection: &Arc<Connection>) -> bool {
        // The link is taken down before the next hello is written.
        let link = lock(&self.link);
        if !link.as_ref().is_some_and(|(current, _)| Arc::ptr_eq(current, connection)) {
            return false;
        }
        match ask {
            Ask::CreateTable { table, .. } => drop(lock(&self.tables).insert(*table)),
            Ask::BeginSession { session } => drop(lock(&self.sessions).insert(*session)),
            _ => {}
        }
        true
    }

    fn execute(&self, ask: Ask) -> Result<Done, ControlError> {
        let group = lock(&self.group);
        let Some(group) = group.as_ref() else {
            return Err(ControlError::Remote { message: "the server ends; start another".to_owned() });
        };
        match ask {
            Ask::Hold { partition_count, holdings, peers, tables, last_table, sessions, last_session } => {
                lock(&self.neighbours).learn(peers);
                let tables: Vec<_> = tables.into_iter().map(|(table, schema)| (table, schema.0)).collect();
                group.hold(Order {
                    partition_count,
                    holdings,
                    tables: tables.into(),
                    last_table,
                    sessions: sessions.into(),
                    last_session,
                })?;
                Ok(Done::Done)
            }
            Ask::CreateTable { table, schema } => {
                // Asked again after a new connection: it is there.
                if !lock(&self.made).contains(&table) {
                    if let Err(error) = group.create_table(table, &schema.0) {
                        lock(&self.tables).remove(&table);
                        return Err(error);
                    }
                    lock(&self.made).insert(table);
                }
                Ok(Done::Done)
            }
            Ask::DropTable { table } => {
                group.drop_table(table)?;
                lock(&self.made).remove(&table);
                lock(&self.tables).remove(&table);
                Ok(Done::Done)
            }
            Ask::BeginSession { session } => Ok(Done::Began(group.begin_session(session)?)),
            Ask::EndSession { session } => {
                group.end_session(session);
                lock(&self.sessions).remove(&session);
                Ok(Done::Done)
            }
            Ask::Report => Ok(Done::Report(report(group)?)),
        }
    }
}

fn report(group: &Group) -> Result<ServerReport, ControlError> {
    let mut whole = ServerReport::default();
    let mut tables: BTreeMap<TableId, u64> = BTreeMap::new();
    for report in group.reports()? {
        whole.shards.push(report.shard);
        whole.partitions.extend(report.partitions);
        whole.clocks.extend(report.clocks);
        for (table, rows) in report.tables {
            *tables.entry(table).or_default() += rows;
        }
    }
    whole.tables = tables.into_iter().collect();
    Ok(whole)
}

/// Nothing is left half changed under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
