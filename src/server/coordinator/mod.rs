//! The coordinator as a process: one thread that feeds sockets and time to the state machine and does what it says.
//!
//! A turn: take what epoll reports, accept, read what lies there (of each peer up to a mebibyte), cut who is late or
//! speaks something else, let the machine judge, make its record durable, then send. Nothing here decides about the
//! cluster.
//!
//! A peer has two seconds for its hello, and for the rest of a message once it began one; a message has at most 16
//! MiB, a hello 1 MiB, what a peer does not take at most 64 MiB. There are at most 8,192 connections; each costs a
//! descriptor and what it has sent so far.

mod news;
mod peer;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gradwire_ffi::event::{Epoll, EventFd};
use thiserror::Error;

use self::news::News;
use self::peer::{Cut, Peer};
use crate::cluster::coordinator::{ConnectionId, Coordinator, Output, Record};
use crate::cluster::message::{Failure, FromCoordinator, Timing};
use crate::cluster::store_file::{FileStore, StoreError};
use crate::control::protocol::{ProtocolError, encode};
use crate::control::random;

/// Longest sleep: the machine judges at least so often.
const TICK: Duration = Duration::from_millis(20);
/// Most connections; servers and clients of a large cluster, or a flood that is turned away.
const MOST_PEERS: usize = 8192;
const LISTENER: u64 = 0;
const BELL: u64 = 1;
const FIRST_PEER: u64 = 2;

/// How a coordinator is run.
#[derive(Clone, Debug)]
pub struct CoordinatorConfig {
    /// HOST:PORT to listen on; port 0 picks a free one.
    pub listen: String,
    /// Directory of its durable store.
    pub store: std::path::PathBuf,
    /// Partitions of a new cluster; none for [`DEFAULT_PARTITIONS`], or for what the store says.
    pub partitions: Option<u32>,
    /// Copies of each partition.
    pub replicas: u32,
    /// Its clocks.
    pub timing: Timing,
}

/// Partitions of a new cluster. A push costs a record for each partition, so not many; a cluster can be spread evenly
/// over no more threads than it has partitions, so not few. Eight threads and their growth to sixteen fit.
pub const DEFAULT_PARTITIONS: u32 = 16;

/// Why a coordinator does not run, or not any more.
#[derive(Debug, Error)]
pub enum CoordinatorError {
    /// The address.
    #[error("cannot listen on {address}: {source}; choose another address or port, or stop what uses it")]
    Listen {
        /// The address.
        address: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A flag says otherwise than the store.
    #[error(
        "the store in {store} is of a cluster of {stored} {what}, asked for were {asked}; leave the flag out, or start a new cluster in another directory"
    )]
    Differs {
        /// The directory.
        store: String,
        /// What of it.
        what: &'static str,
        /// In the store.
        stored: u32,
        /// By flag.
        asked: u32,
    },
    /// Descriptors.
    #[error(transparent)]
    Machine(#[from] gradwire_ffi::MachineError),
    /// A state that no message can carry.
    #[error("a message cannot be sent: {0}")]
    Message(#[from] crate::control::protocol::ProtocolError),
}

/// Ends a coordinator from another thread.
#[derive(Clone, Debug)]
pub struct CoordinatorStop {
    stop: Arc<AtomicBool>,
    bell: Arc<EventFd>,
}

impl CoordinatorStop {
    /// [`CoordinatorProcess::run`] returns soon.
    pub fn stop(&self) {
        // Pairs with the load in `run`.
        self.stop.store(true, Ordering::Release);
        self.bell.ring();
    }
}

/// A coordinator that listens; [`CoordinatorProcess::run`] makes it work.
#[derive(Debug)]
pub struct CoordinatorProcess {
    listener: TcpListener,
    address: SocketAddr,
    store: FileStore,
    machine: Coordinator,
    epoll: Epoll,
    peers: BTreeMap<u64, Peer>,
    last_peer: u64,
    began: Instant,
    stop: CoordinatorStop,
    /// Connections that lie in the kernel's queue because descriptors ran out.
    accept_later: bool,
    /// Peers that may have sent more than was read.
    unread: BTreeSet<u64>,
    news: News,
}

impl CoordinatorProcess {
    /// Opens the store, begins a term in it and listens.
    ///
    /// # Errors
    /// [`CoordinatorError`].
    pub fn start(config: &CoordinatorConfig) -> Result<Self, CoordinatorError> {
        let store = FileStore::open(&config.store)?;
        let record = match store.load()? {
            Some(record) => agreed(record, config)?,
            None => {
                let partitions = config.partitions.unwrap_or(DEFAULT_PARTITIONS);
                Record::new(random(), random(), partitions, config.replicas)
            }
        };
        let failed = |source| CoordinatorError::Listen { address: config.listen.clone(), source };
        let listener = TcpListener::bind(&config.listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let mut machine = Coordinator::start(record, config.timing, vec![address.to_string()]);
        if let Some(record) = machine.take_record() {
            store.save(&record)?;
        }
        let epoll = Epoll::create()?;
        epoll.add(&listener, LISTENER, false)?;
        let bell = EventFd::create()?;
        epoll.add(&bell, BELL, false)?;
        let stop = CoordinatorStop { stop: Arc::new(AtomicBool::new(false)), bell: Arc::new(bell) };
        Ok(Self {
            listener,
            address,
            store,
            machine,
            epoll,
            peers: BTreeMap::new(),
            last_peer: FIRST_PEER,
            began: Instant::now(),
            stop,
            accept_later: false,
            unread: BTreeSet::new(),
            news: News::default(),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The cluster's id.
    #[must_use]
    pub fn cluster(&self) -> u64 {
        self.machine.cluster()
    }

    /// The term it began.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.machine.term()
    }

    /// What ends [`CoordinatorProcess::run`] from another thread.
    #[must_use]
    pub fn stopper(&self) -> CoordinatorStop {
        self.stop.clone()
    }

    /// Coordinates until it is stopped. `say` is told, in one line, what whoever runs it may want to know.
    ///
    /// # Errors
    /// The store failed: what cannot be made durable cannot be decided.
    pub fn run(mut self, mut say: impl FnMut(&str)) -> Result<(), CoordinatorError> {
        let mut ready = Vec::new();
        while !self.stop.stop.load(Ordering::Acquire) {
            ready.clear();
            // Reports come once a change: who was not read to the end is read without one.
            self.epoll.wait(if self.unread.is_empty() { TICK } else { Duration::ZERO }, &mut ready);
            let unread = std::mem::take(&mut self.unread);
            if self.accept_later || ready.iter().any(|event| event.token == LISTENER) {
                self.accept();
            }
            let reported = ready.iter().map(|event| event.token).filter(|token| *token >= FIRST_PEER);
            for token in reported.chain(unread).collect::<BTreeSet<u64>>() {
                self.read(token);
                self.write(token);
            }
            self.cut_the_late();
            self.machine.tick(self.began.elapsed());
            self.act()?;
            self.news.tell(&mut say);
        }
        Ok(())
    }

    fn accept(&mut self) {
        self.accept_later = false;
        loop {
            match self.listener.accept() {
                Ok((stream, from)) => {
                    if self.peers.len() >= MOST_PEERS {
                        self.news.add(format!("{from} was turned away: {MOST_PEERS} connections are open"));
                        continue;
                    }
                    self.last_peer += 1;
                    let token = self.last_peer;
                    match Peer::new(stream, from, &self.epoll, token) {
                        Ok(peer) => drop(self.peers.insert(token, peer)),
                        Err(error) => self.news.add(format!("{from} was not taken: {error}")),
                    }
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return,
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    _ => {
                        // No descriptors are left; the late ones are cut and give some back.
                        self.accept_later = true;
                        return;
                    }
                },
            }
        }
    }

    /// Hands all that a peer has sent to the machine.
    fn read(&mut self, token: u64) {
        let Some(peer) = self.peers.get_mut(&token) else { return };
        let connection = ConnectionId(token);
        let mut received = Vec::new();
        let outcome = peer.read(&mut received);
        for message in received {
            let sender = (message.cluster, message.term);
            self.machine.on_message(self.began.elapsed(), connection, sender, message.message);
        }
        match outcome {
            Ok(true) => drop(self.unread.insert(token)),
            Ok(false) => {}
            Err(cut) => self.cut(token, &cut),
        }
    }

    fn write(&mut self, token: u64) {
        let Some(peer) = self.peers.get_mut(&token) else { return };
        match peer.write() {
            Ok(()) if peer.is_finished() => self.cut(token, &Cut::Finished),
            Ok(()) => {}
            Err(cut) => self.cut(token, &cut),
        }
    }

    fn cut_the_late(&mut self) {
        let now = Instant::now();
        let late: Vec<(u64, Cut)> =
            self.peers.iter().filter_map(|(token, peer)| Some((*token, peer.lateness(now)?))).collect();
        for (token, cut) in late {
            self.cut(token, &cut);
        }
    }

    fn cut(&mut self, token: u64, cut: &Cut) {
        if let Some(mut peer) = self.peers.remove(&token) {
            if !cut.is_usual() {
                self.news.add(format!("the connection of {} was cut: {cut}", peer.from()));
                let refused = FromCoordinator::Refused { reason: cut.to_string() };
                if let Ok(bytes) = encode(self.machine.cluster(), self.machine.term(), &refused) {
                    // As much as goes; it may be gone, or not listen.
                    peer.queue(bytes);
                    peer.write().ok();
                }
            }
            self.epoll.remove(peer.stream());
            self.machine.on_closed(self.began.elapsed(), ConnectionId(token));
        }
    }

    /// Makes durable, then sends. What is cut on the way is news to the machine.
    fn act(&mut self) -> Result<(), CoordinatorError> {
        loop {
            if let Some(record) = self.machine.take_record() {
                self.store.save(&record)?;
            }
            for line in self.machine.take_complaints() {
                self.news.add(line);
            }
            let outputs = self.machine.take_outputs();
            if outputs.is_empty() {
                return Ok(());
            }
            let (cluster, term) = (self.machine.cluster(), self.machine.term());
            let mut touched = Vec::new();
            for output in outputs {
                match output {
                    Output::Send(ConnectionId(token), message) => {
                        if let Some(peer) = self.peers.get_mut(&token) {
                            match encode(cluster, term, &message)
                                .or_else(|error| shortened(cluster, term, &message, error))
                            {
                                Ok(frame) => peer.queue(frame),
                                // It cannot be told what it must know: it comes again, and is told anew.
                                Err(_) => peer.finish(),
                            }
                            touched.push(token);
                        }
                    }
                    Output::Close(ConnectionId(token)) => {
                        if let Some(peer) = self.peers.get_mut(&token) {
                            peer.finish();
                            touched.push(token);
                        }
                    }
                }
            }
            touched.dedup();
            for token in touched {
                self.write(token);
            }
        }
    }
}

/// An answer in place of one that is longer than a message may be.
fn shortened(
    cluster: u64,
    term: u64,
    message: &FromCoordinator,
    error: ProtocolError,
) -> Result<Vec<u8>, ProtocolError> {
    let FromCoordinator::Answer { id, .. } = message else { return Err(error) };
    let failure =
        Failure::Other { message: "the answer is longer than a message may be; ask for less".to_owned() };
    encode(cluster, term, &FromCoordinator::Answer { id: *id, result: Err(failure) })
}

/// The record, if the flags do not contradict it.
fn agreed(record: Record, config: &CoordinatorConfig) -> Result<Record, CoordinatorError> {
    let store = |path: &Path| path.display().to_string();
    let differs =
        |what, stored, asked| CoordinatorError::Differs { store: store(&config.store), what, stored, asked };
    match config.partitions {
        Some(asked) if asked != record.partitions => Err(differs("partitions", record.partitions, asked)),
        _ if config.replicas != record.replicas => Err(differs("replicas", record.replicas, config.replicas)),
        _ => Ok(record),
    }
}
