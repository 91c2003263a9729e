//! Takes connections for all shards, over tcp or a Unix socket: greets each on its own short-lived thread, hands the
//! lane to its shard.
//!
//! A connection that says nothing holds one greeter until its deadline and nobody else; when all greeters are busy,
//! new connections wait in the kernel's queue.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::shard::{Command, Peer};
use super::thread::ShardHandle;
use crate::control::ControlError;
use crate::lane::shm::{Door, Visitor};
use crate::lane::tcp::{self, Hello, Incoming, Listener, RejectReason};
use crate::lane::{LaneConfig, LaneEnd, SetupError};
use crate::wire::ids::ShardId;

/// Most handshakes at a time. 1,000 silent connections are then turned away within four deadlines.
const GREETERS: usize = 256;
/// How long a handshake may take; a peer that means it is done in a millisecond.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// A greeter parses one record.
const GREETER_STACK: usize = 256 << 10;
/// Pause of a listener that can't accept.
const NO_DESCRIPTORS: Duration = Duration::from_millis(20);
/// How often the listener looks at whether it is to stop, should the connection that wakes it not come through.
const LOOK: Duration = Duration::from_secs(1);

/// What is served behind a listener.
pub(super) struct Served {
    pub(super) cluster_id: u64,
    /// What servers of the cluster name; 0 where there are no others.
    pub(super) link_key: u64,
    pub(super) config: LaneConfig,
    pub(super) shards: Vec<ShardHandle>,
    pub(super) deadline: Duration,
}

/// What greeters need.
struct Shared {
    served: Served,
    stop: AtomicBool,
}

/// Where peers knock.
pub(super) enum Entrance {
    Tcp(Listener),
    Local(Door),
}

impl From<Listener> for Entrance {
    fn from(listener: Listener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<Door> for Entrance {
    fn from(door: Door) -> Self {
        Self::Local(door)
    }
}

/// Someone who has said nothing yet.
enum Guest {
    Tcp(Incoming),
    Local(Visitor),
}

impl Entrance {
    fn accept(&self, patience: Duration) -> Result<Option<Guest>, SetupError> {
        Ok(match self {
            Self::Tcp(listener) => listener.accept(patience)?.map(Guest::Tcp),
            Self::Local(door) => door.accept(patience)?.map(Guest::Local),
        })
    }
}

/// A listener and its greeters.
pub(super) struct Acceptor {
    /// Over tcp.
    address: Option<SocketAddr>,
    shared: Arc<Shared>,
    /// Disconnected once the thread has ended.
    ended: Receiver<()>,
    thread: JoinHandle<()>,
}

impl Acceptor {
    /// Begins to take connections.
    ///
    /// # Errors
    /// The machine refused the thread.
    pub(super) fn start(entrance: Entrance, served: Served) -> Result<Self, ControlError> {
        let address = match &entrance {
            Entrance::Tcp(listener) => Some(listener.address()),
            Entrance::Local(_) => None,
        };
        let shared = Arc::new(Shared { served, stop: AtomicBool::new(false) });
        let (alive, ended) = bounded(0);
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("gradwire-accept".into())
            .spawn(move || {
                let _alive: Sender<()> = alive;
                listen(&entrance, &theirs);
            })
            .map_err(|error| ControlError::Machine {
                what: "starting the listener's thread",
                cause: error.to_string(),
            })?;
        Ok(Self { address, shared, ended, thread })
    }

    /// Where it listens, over tcp.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// A lane to a shard, over a real connection.
    ///
    /// # Errors
    /// No lane in time, or the listener is gone.
    pub(super) fn connect(&self, shard: ShardId) -> Result<LaneEnd, ControlError> {
        let Served { cluster_id, config, deadline, .. } = &self.shared.served;
        let hello =
            Hello { cluster: *cluster_id, shard, ring_bytes: config.ring_bytes, flags: 0, link: None };
        let address = self.address.ok_or(ControlError::NoShard { shard })?;
        Ok(tcp::connect(&address.to_string(), &hello, Instant::now() + *deadline)?)
    }

    /// Ends the listener and its greeters.
    ///
    /// # Errors
    /// [`ControlError::Deadline`] when they go on.
    pub(super) fn stop(self, deadline: Instant) -> Result<(), ControlError> {
        // Pairs with the load in `listen`, which looks every second; a connection wakes it at once.
        self.shared.stop.store(true, Ordering::Release);
        if let Some(address) = self.address {
            drop(TcpStream::connect_timeout(&address, LOOK));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if let Err(RecvTimeoutError::Timeout) = self.ended.recv_timeout(left) {
            return Err(ControlError::Deadline { what: "the end of the listener", after: left });
        }
        let ended = self.thread.join();
        ended.map_err(|_| ControlError::Machine { what: "the listener", cause: "its thread panicked".into() })
    }
}

/// A greeter's place, free again when it ends, however it ends.
struct Seat(Sender<()>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.try_send(()).ok();
    }
}

fn listen(entrance: &Entrance, shared: &Arc<Shared>) {
    let (free, greeters) = bounded(GREETERS);
    let fill = || (0..GREETERS).try_for_each(|_| free.try_send(()));
    assert!(fill().is_ok(), "the channel has room for every greeter");
    while !shared.stop.load(Ordering::Acquire) {
        let guest = match entrance.accept(LOOK) {
            Ok(Some(guest)) => guest,
            Ok(None) => continue,
            Err(_) => {
                // No descriptors are left; some greeter or lane gives one back.
                std::thread::park_timeout(NO_DESCRIPTORS);
                continue;
            }
        };
        // Greeters end by their deadlines, so this does too.
        if greeters.recv().is_err() {
            return;
        }
        let (theirs, seat) = (Arc::clone(shared), Seat(free.clone()));
        let greeter = std::thread::Builder::new().stack_size(GREETER_STACK).spawn(move || {
            let _seat = seat;
            // A peer that was turned away has been told why, or is gone.
            drop(greet(guest, &theirs.served));
        });
        // No thread: the connection is closed with the closure, and the peer tries again.
        drop(greeter);
    }
    for _ in 0..GREETERS {
        greeters.recv_timeout(HANDSHAKE + shared.served.deadline).ok();
    }
}

/// Shakes hands and hands the lane over.
fn greet(guest: Guest, served: &Served) -> Result<(), SetupError> {
    let deadline = Instant::now() + HANDSHAKE;
    let place = |hello: &Hello| {
        if hello.cluster != served.cluster_id {
            return Err(RejectReason::Cluster);
        }
        let peer = match hello.link {
            None => Peer::Client,
            Some(link) if link.key == served.link_key => Peer::Predecessor(link.from),
            Some(_) => return Err(RejectReason::Stranger),
        };
        let shard = served.shards.iter().find(|handle| handle.shard() == hello.shard);
        Ok((shard.ok_or(RejectReason::Shard)?, peer))
    };
    let ((shard, peer), end) = match guest {
        Guest::Tcp(incoming) => {
            let greeted = incoming.hello(deadline)?;
            match place(greeted.hello()) {
                Ok(shard) => (shard, greeted.welcome(served.config)?),
                Err(reason) => return Err(greeted.reject(reason)),
            }
        }
        Guest::Local(visitor) => {
            let greeted = visitor.hello(deadline)?;
            match place(greeted.hello()) {
                Ok(shard) => (shard, greeted.welcome(served.config)?),
                Err(reason) => return Err(greeted.reject(reason)),
            }
        }
    };
    // A shard that does not take the lane drops it, and the peer sees it go down.
    drop(shard.ask("adopting a lane", served.deadline, |reply| Command::Adopt { end, peer, reply }));
    Ok(())
}
