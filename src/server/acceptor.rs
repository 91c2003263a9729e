//! Takes tcp connections for all shards: greets each on its own short-lived thread, hands the lane to its shard.
//!
//! A connection that says nothing holds one greeter until its deadline and nobody else; when all greeters are busy,
//! new connections wait in the kernel's queue.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::shard::Command;
use super::thread::ShardHandle;
use crate::control::ControlError;
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

/// What greeters need.
struct Shared {
    cluster_id: u64,
    config: LaneConfig,
    shards: Vec<ShardHandle>,
    deadline: Duration,
    stop: AtomicBool,
}

/// The listener of an embedded cluster over tcp.
pub(super) struct Acceptor {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Disconnected once the thread has ended.
    ended: Receiver<()>,
    thread: JoinHandle<()>,
}

impl Acceptor {
    /// Listens on a free port of the loopback address.
    ///
    /// # Errors
    /// What the machine refused: the port or the thread.
    pub(super) fn start(
        cluster_id: u64,
        ring_bytes: usize,
        deadline: Duration,
        shards: Vec<ShardHandle>,
    ) -> Result<Self, ControlError> {
        let listener = Listener::bind("127.0.0.1:0")?;
        let address = listener.address();
        let config = LaneConfig { ring_bytes };
        let shared = Arc::new(Shared { cluster_id, config, shards, deadline, stop: AtomicBool::new(false) });
        let (alive, ended) = bounded(0);
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("gradwire-accept".into())
            .spawn(move || {
                let _alive: Sender<()> = alive;
                listen(&listener, &theirs);
            })
            .map_err(|error| ControlError::Machine {
                what: "starting the listener's thread",
                cause: error.to_string(),
            })?;
        Ok(Self { address, shared, ended, thread })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A lane to a shard, over a real connection.
    ///
    /// # Errors
    /// No lane in time, or the listener is gone.
    pub(super) fn connect(&self, shard: ShardId) -> Result<LaneEnd, ControlError> {
        let Shared { cluster_id, config, deadline, .. } = &*self.shared;
        let hello = Hello { cluster: *cluster_id, shard, ring_bytes: config.ring_bytes, flags: 0 };
        Ok(tcp::connect(&self.address.to_string(), &hello, Instant::now() + *deadline)?)
    }

    /// Ends the listener and its greeters.
    ///
    /// # Errors
    /// [`ControlError::Deadline`] when they go on.
    pub(super) fn stop(self, deadline: Instant) -> Result<(), ControlError> {
        // Pairs with the load in `listen`; the connection after it is what wakes the listener.
        self.shared.stop.store(true, Ordering::Release);
        drop(TcpStream::connect_timeout(&self.address, LOOK));
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

fn listen(listener: &Listener, shared: &Arc<Shared>) {
    let (free, greeters) = bounded(GREETERS);
    let fill = || (0..GREETERS).try_for_each(|_| free.try_send(()));
    assert!(fill().is_ok(), "the channel has room for every greeter");
    while !shared.stop.load(Ordering::Acquire) {
        let incoming = match listener.accept(LOOK) {
            Ok(Some(incoming)) => incoming,
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
            drop(greet(incoming, &theirs));
        });
        // No thread: the connection is closed with the closure, and the peer tries again.
        drop(greeter);
    }
    for _ in 0..GREETERS {
        greeters.recv_timeout(HANDSHAKE + shared.deadline).ok();
    }
}

/// Shakes hands and hands the lane over.
fn greet(incoming: Incoming, shared: &Shared) -> Result<(), SetupError> {
    let greeted = incoming.hello(Instant::now() + HANDSHAKE)?;
    if greeted.hello().cluster != shared.cluster_id {
        return Err(greeted.reject(RejectReason::Cluster));
    }
    let Some(shard) = shared.shards.get(greeted.hello().shard.0 as usize) else {
        return Err(greeted.reject(RejectReason::Shard));
    };
    let end = greeted.welcome(shared.config)?;
    // A shard that does not take the lane drops it, and the peer sees it go down.
    drop(shard.ask("adopting a lane", shared.deadline, |reply| Command::Adopt { end, reply }));
    Ok(())
}
