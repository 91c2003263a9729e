//! A cluster of chains that are played: real lanes, made-up servers, for tests of how a session follows them.
//!
//! What a chain holds is kept once, as if replication took no time. A server that has not heard of a chain's newest epoch
//! is stopped for who shares its view of it, and only tells those apart who know better.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use zerocopy::IntoBytes;

use crate::cluster::{Map, PartitionChain, ShardInfo, Status};
use crate::control::{ControlError, ControlPlane, Jobs, LocalJobs};
use crate::lane::{Fabric, FabricKind, LaneEnd, LaneId, Port, shm};
use crate::store::TableSchema;
use crate::wire::ids::{Clock, Epoch, PartitionId, Sequence, SessionId, ShardId, TableId};
use crate::wire::{
    ClockEntry, Header, Kind, NO_CLOCK, OutcomeBody, PULL_STRONG, PullBody, PullReplyBody, PullStatus,
    PushBody, RetryBody, RetryCode, padded,
};

pub(super) const RING: usize = 64 << 10;

/// The control plane: maps that the test publishes, lanes to servers that it may hold back.
pub(super) struct Plane {
    map: Mutex<Arc<Map>>,
    version: AtomicU64,
    ends: Mutex<Vec<(ShardId, LaneEnd)>>,
    /// Servers that refuse lanes.
    pub(super) refusing: Mutex<BTreeSet<ShardId>>,
    /// Servers that do not answer who wants a lane.
    stopped: Mutex<BTreeSet<ShardId>>,
    resumed: Condvar,
    jobs: LocalJobs,
}

impl Plane {
    pub(super) fn stop(&self, shard: ShardId, stopped: bool) {
        let mut set = lock(&self.stopped);
        if stopped {
            set.insert(shard)
        } else {
            set.remove(&shard)
        };
        self.resumed.notify_all();
    }

    pub(super) fn publish(&self, chains: &[PartitionChain]) {
        let mut map = lock(&self.map);
        let mut next = Map::clone(&map);
        next.version += 1;
        next.partitions = chains.to_vec();
        *map = Arc::new(next);
        self.version.store(map.version, Ordering::Relaxed);
    }
}

impl ControlPlane for Plane {
    fn map_version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    fn map(&self) -> Arc<Map> {
        Arc::clone(&lock(&self.map))
    }

    fn begin_session(&self) -> Result<(SessionId, Clock), ControlError> {
        Ok((SessionId(1), Clock(0)))
    }

    fn end_session(&self, _session: SessionId) {}

    fn open_table(&self, schema: &TableSchema) -> Result<(TableId, Arc<TableSchema>), ControlError> {
        Ok((TableId(1), Arc::new(schema.clone())))
    }

    fn drop_table(&self, name: &str) -> Result<(), ControlError> {
        Err(ControlError::NoTable { name: name.to_owned() })
    }

    fn connect(&self, _session: SessionId, shard: ShardId) -> Result<LaneEnd, ControlError> {
        let stopped = lock(&self.stopped);
        let patience = Duration::from_secs(20);
        drop(self.resumed.wait_timeout_while(stopped, patience, |stopped| stopped.contains(&shard)).unwrap());
        if lock(&self.refusing).contains(&shard) {
            return Err(ControlError::ShardGone { shard });
        }
        let (ours, theirs) = shm::pair(RING)?;
        lock(&self.ends).push((shard, theirs));
        Ok(ours)
    }

    fn barrier(&self, _name: &str, _count: usize, _deadline: Duration) -> Result<(), ControlError> {
        Ok(())
    }

    fn status(&self) -> Result<Status, ControlError> {
        Err(ControlError::Remote { message: "played chains have no status".to_owned() })
    }

    fn jobs(&self) -> &dyn Jobs {
        &self.jobs
    }

    fn fabric(&self) -> FabricKind {
        FabricKind::Shm
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

/// What the replicas of a partition hold.
#[derive(Default)]
pub(super) struct Book {
    last: u64,
    /// Value of each push, in the order they were applied; clocks are left out.
    pub(super) applied: Vec<f32>,
}

/// The servers and what they hold.
pub(super) struct Chains {
    pub(super) plane: Arc<Plane>,
    port: Port,
    lanes: BTreeMap<ShardId, Vec<LaneId>>,
    pub(super) chains: Vec<PartitionChain>,
    pub(super) books: Vec<Book>,
    /// What each server has heard.
    views: BTreeMap<ShardId, Vec<PartitionChain>>,
}

impl Chains {
    /// Partition `i` begins on server `i` alone.
    pub(super) fn new(partitions: u32, servers: u32) -> Self {
        let chains: Vec<PartitionChain> =
            (0..partitions).map(|p| PartitionChain::of(Epoch(1), vec![ShardId(p % servers)])).collect();
        let shards = (0..servers).map(|shard| ShardInfo { shard: ShardId(shard), address: None }).collect();
        let map = Map { version: 1, cluster_id: 1, partitions: chains.clone(), shards };
        let plane = Plane {
            map: Mutex::new(Arc::new(map)),
            version: AtomicU64::new(1),
            ends: Mutex::default(),
            refusing: Mutex::default(),
            stopped: Mutex::default(),
            resumed: Condvar::new(),
            jobs: LocalJobs::default(),
        };
        Self {
            plane: Arc::new(plane),
            port: Port::new().unwrap(),
            lanes: BTreeMap::new(),
            books: chains.iter().map(|_| Book::default()).collect(),
            views: (0..servers).map(|shard| (ShardId(shard), chains.clone())).collect(),
            chains,
        }
    }

    /// A new chain; nobody has heard of it yet.
    pub(super) fn change(&mut self, partition: usize, members: &[u32]) {
        let epoch = Epoch(self.chains[partition].epoch.0 + 1);
        self.chains[partition] = PartitionChain::of(epoch, members.iter().copied().map(ShardId).collect());
    }

    /// A server hears of every chain.
    pub(super) fn tell(&mut self, shard: ShardId) {
        self.views.insert(shard, self.chains.clone());
    }

    pub(super) fn publish(&self) {
        self.plane.publish(&self.chains);
    }

    /// The server handles one record of each lane. False when there was none.
    pub(super) fn serve(&mut self, shard: ShardId) -> bool {
        for (of, end) in lock(&self.plane.ends).drain(..) {
            // The other end may be gone already.
            if let Ok(lane) = self.port.adopt(end) {
                self.lanes.entry(of).or_default().push(lane);
            }
        }
        self.port.poll(&mut Vec::new());
        let mut any = false;
        for lane in self.lanes.get(&shard).cloned().unwrap_or_default() {
            if let Some(header) = self.port.peek(lane) {
                let mut payload = vec![0; header.length as usize];
                self.port.copy_payload(lane, 0, &mut payload);
                if self.is_stopped_for(shard, &header, &payload) {
                    continue;
                }
                any = true;
                self.port.consume(lane);
                self.handle(shard, lane, &header, &payload);
            }
        }
        self.port.flush();
        any
    }

    fn is_stopped_for(&self, shard: ShardId, header: &Header, payload: &[u8]) -> bool {
        let outdated = |partition: usize, epoch: Epoch| {
            let view = self.views[&shard][partition].epoch;
            view < self.chains[partition].epoch && epoch <= view
        };
        if header.kind != Kind::Clock {
            return outdated(header.partition.0 as usize, header.epoch);
        }
        payload.chunks_exact(ClockEntry::BYTES).any(|bytes| {
            let (entry, _) = ClockEntry::split(bytes).unwrap();
            outdated(entry.partition.get() as usize, Epoch(entry.epoch.get()))
        })
    }

    fn handle(&mut self, shard: ShardId, lane: LaneId, header: &Header, payload: &[u8]) {
        match header.kind {
            Kind::Push => {
                let value = f32::from_le_bytes(payload[PushBody::BYTES + 8..][..4].try_into().unwrap());
                self.order(shard, lane, header, Some(value));
            }
            Kind::Clock => {
                for bytes in payload.chunks_exact(ClockEntry::BYTES) {
                    let (entry, _) = ClockEntry::split(bytes).unwrap();
                    let one = Header {
                        partition: PartitionId(entry.partition.get()),
                        sequence: Sequence(entry.sequence.get()),
                        epoch: Epoch(entry.epoch.get()),
                        request: crate::wire::ids::RequestId(u64::from(entry.attempt.get())),
                        ..*header
                    };
                    self.order(shard, lane, &one, None);
                }
            }
            Kind::Pull => self.pull(shard, lane, header, payload),
            other => panic!("{other:?} was sent to a server"),
        }
    }

    fn order(&mut self, shard: ShardId, lane: LaneId, header: &Header, value: Option<f32>) {
        let at = header.partition.0 as usize;
        let view = &self.views[&shard][at];
        let epoch = view.epoch;
        let book = &mut self.books[at];
        let code = if view.members[0] != shard {
            Some(RetryCode::WrongHead)
        } else if header.epoch != epoch {
            Some(RetryCode::UnknownEpoch)
        } else if header.sequence.0 > book.last + 1 {
            Some(RetryCode::SequenceGap)
        } else {
            None
        };
        if code.is_none() && header.sequence.0 == book.last + 1 {
            book.last += 1;
            book.applied.extend(value);
        }
        let last = book.last;
        match code {
            None => self.outcome(lane, header.session, header.partition, epoch, last),
            Some(code) => self.retry(lane, header, code, last + 1, epoch),
        }
    }

    pub(super) fn lane(&self, shard: ShardId) -> LaneId {
        self.lanes[&shard][0]
    }

    pub(super) fn outcome(
        &mut self,
        lane: LaneId,
        session: SessionId,
        at: PartitionId,
        epoch: Epoch,
        last: u64,
    ) {
        let body = OutcomeBody {
            applied: last.into(),
            replicated: last.into(),
            refused: 0.into(),
            reserved: 0.into(),
        };
        let header =
            Header { session, partition: at, epoch, ..Header::new(Kind::Outcome, OutcomeBody::BYTES as u32) };
        // An answer to a lane that is cut is lost.
        self.port.write(lane, &[&header.to_bytes(), body.as_bytes()], true).ok();
    }

    pub(super) fn retry(&mut self, lane: LaneId, to: &Header, code: RetryCode, expected: u64, epoch: Epoch) {
        let body = RetryBody {
            expected: expected.into(),
            epoch: epoch.0.into(),
            code: code.to_wire().into(),
            reserved: [0; 6],
        };
        let header = Header {
            session: to.session,
            request: to.request,
            sequence: to.sequence,
            partition: to.partition,
            ..Header::new(Kind::Retry, RetryBody::BYTES as u32)
        };
        self.port.write(lane, &[&header.to_bytes(), body.as_bytes()], true).ok();
        self.port.flush();
    }

    /// Answers a pull of one key with the number of pushes applied.
    fn pull(&mut self, shard: ShardId, lane: LaneId, header: &Header, payload: &[u8]) {
        let at = header.partition.0 as usize;
        let (body, _) = PullBody::split(payload).unwrap();
        let view = &self.views[&shard][at];
        let current = view.epoch == self.chains[at].epoch;
        let serves = if body.flags & PULL_STRONG != 0 {
            // One that has not heard of its chain has no lease.
            current && header.epoch == view.epoch && view.members.last() == Some(&shard)
        } else {
            view.members[0] == shard
        };
        let count = self.books[at].applied.len();
        let reply = PullReplyBody {
            lsn: 0.into(),
            clock: NO_CLOCK.into(),
            first: 0.into(),
            rows: u32::from(serves).into(),
            total: 1.into(),
            dim: 1.into(),
            status: (if serves { PullStatus::Rows } else { PullStatus::NotServing }).to_wire().into(),
            reserved: [0; 6],
        };
        let mut bytes = reply.as_bytes().to_vec();
        if serves {
            bytes.extend(1u64.to_le_bytes());
            bytes.extend((count as f32).to_le_bytes());
        }
        let answer = Header {
            session: header.session,
            flow: header.flow,
            request: header.request,
            partition: header.partition,
            ..Header::new(Kind::PullReply, bytes.len() as u32)
        };
        bytes.resize(padded(bytes.len()), 0);
        self.port.write(lane, &[&answer.to_bytes(), &bytes], true).ok();
    }
}
