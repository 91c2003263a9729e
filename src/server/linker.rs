//! What the shards of a server want of others: lanes to the threads behind them, and words to the coordinator.
//!
//! A thread of its own, since opening a lane waits for another process. Each lane is opened on a short-lived thread: one
//! neighbour that does not answer keeps nobody from the others. What the coordinator is told is kept and told again to a
//! coordinator that comes back, since it may have died between hearing and remembering.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::shard::{Command, Notice, Peer};
use super::thread::ShardHandle;
use crate::cluster::message::{HostIdentity, ServerEntry, ToCoordinator};
use crate::control::{ControlError, this_host};
use crate::lane::tcp::{Hello, LinkHello};
use crate::lane::{LaneEnd, SetupError, shm, tcp};
use crate::wire::ids::{PartitionId, ShardId};

/// How long a neighbour may take for a lane; a shard asks again.
const LANE: Duration = Duration::from_secs(1);
/// How long a shard may take to adopt one.
const ADOPT: Duration = Duration::from_secs(10);
/// A lane's opener parses one record.
const OPENER_STACK: usize = 256 << 10;

/// What the coordinator is to hear.
pub(super) type Say = Box<dyn Fn(&ToCoordinator) + Send + Sync>;

/// Who the neighbours are, and what the coordinator has been told.
#[derive(Default)]
pub(super) struct Neighbours {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    cluster: u64,
    key: u64,
    ring_bytes: usize,
    shm: bool,
    host: HostIdentity,
    servers: Vec<ServerEntry>,
    /// The newest word about each replica.
    words: BTreeMap<(ShardId, PartitionId), ToCoordinator>,
}

impl Neighbours {
    /// Of a server of this cluster; `key` is what its servers name to each other.
    pub(super) fn new(cluster: u64, key: u64, ring_bytes: usize, shm: bool) -> Self {
        let state = State { cluster, key, ring_bytes, shm, host: this_host(), ..State::default() };
        Self { state: Mutex::new(state) }
    }

    /// These are the servers that own threads may need lanes to.
    pub(super) fn learn(&self, servers: Vec<ServerEntry>) {
        self.lock().servers = servers;
    }

    /// What a coordinator that comes back has to be told again.
    pub(super) fn words(&self) -> Vec<ToCoordinator> {
        self.lock().words.values().cloned().collect()
    }

    fn remember(&self, shard: ShardId, partition: PartitionId, word: ToCoordinator) {
        self.lock().words.insert((shard, partition), word);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One end of a new lane to a thread behind `from`.
    fn connect(&self, from: ShardId, to: ShardId) -> Result<LaneEnd, ControlError> {
        let (server, hello, near) = {
            let state = self.lock();
            let holds = |server: &&ServerEntry| {
                (server.first_shard.0..server.first_shard.0.saturating_add(server.shards)).contains(&to.0)
            };
            let server = state.servers.iter().find(holds).ok_or(ControlError::NoShard { shard: to })?.clone();
            let theirs = usize::try_from(server.ring_bytes).unwrap_or(usize::MAX);
            let link = Some(LinkHello { key: state.key, from });
            let ring_bytes = state.ring_bytes.min(theirs);
            let hello = Hello { cluster: state.cluster, shard: to, ring_bytes, flags: 0, link };
            let near = state.shm && server.host.same_as(&state.host);
            (server, hello, near)
        };
        let deadline = Instant::now() + LANE;
        let by_memory = match (&server.door, near) {
            (Some(door), true) => Some(shm::connect(door, &hello, deadline)),
            _ => None,
        };
        Ok(match by_memory {
            Some(Ok(end)) => end,
            // A process that does not answer will not answer over tcp either.
            Some(Err(error @ SetupError::Deadline { .. })) => return Err(error.into()),
            Some(Err(_)) | None => tcp::connect(&server.address, &hello, deadline)?,
        })
    }
}

/// Follows the notices of shards until they are gone.
///
/// # Errors
/// The machine refused the thread.
pub(super) fn start(
    neighbours: Arc<Neighbours>,
    shards: Vec<ShardHandle>,
    notices: Receiver<Notice>,
    say: Say,
) -> Result<JoinHandle<()>, ControlError> {
    let spawned = std::thread::Builder::new().name("gradwire-link".into()).spawn(move || {
        for notice in notices {
            match notice {
                Notice::LinkWanted { from, to } => open(&neighbours, &shards, from, to),
                Notice::Synced { partition, epoch, shard } => {
                    let word = ToCoordinator::Synced { partition, epoch, shard };
                    say(&word);
                    neighbours.remember(shard, partition, word);
                }
                Notice::Leave { partition, epoch, shard, reason } => {
                    let word = ToCoordinator::Leave { partition, epoch, shard, reason };
                    say(&word);
                    neighbours.remember(shard, partition, word);
                }
            }
        }
    });
    spawned.map_err(|error| ControlError::Machine {
        what: "starting the thread for lanes between servers",
        cause: error.to_string(),
    })
}

/// Opens a lane on a thread of its own and gives it to the shard, or tells the shard that there is none for now.
fn open(neighbours: &Arc<Neighbours>, shards: &[ShardHandle], from: ShardId, to: ShardId) {
    let Some(shard) = shards.iter().find(|shard| shard.shard() == from).cloned() else { return };
    let (neighbours, again) = (Arc::clone(neighbours), shard.clone());
    let opener = std::thread::Builder::new().stack_size(OPENER_STACK).spawn(move || {
        let adopted = neighbours.connect(from, to).and_then(|end| {
            let peer = Peer::Successor(to);
            shard.ask("adopting a lane", ADOPT, |reply| Command::Adopt { end, peer, reply })
        });
        if !matches!(adopted, Ok(Ok(()))) {
            shard.tell(Command::LinkFailed { to });
        }
    });
    if opener.is_err() {
        again.tell(Command::LinkFailed { to });
    }
}
