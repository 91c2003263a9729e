//! A shard without its thread, and a raw lane to it: tests write records by hand and say what time it is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded, unbounded};
use gradwire_kernels::{Dtype, Rule};
use zerocopy::{FromBytes, IntoBytes};

use super::{Command, Holds, Peer, Shard, ShardConfig};
use crate::cluster::{PartitionChain, Role};
use crate::lane::{
    DownReason, Event, Fabric, FabricKind, LaneConfig, LaneEnd, LaneId, Port, WriteError, shm, tcp,
};
use crate::store::{Init, TableKind, TableSchema};
use crate::wire::ids::{Clock, Epoch, PartitionId, RequestId, Sequence, SessionId, ShardId, TableId};
use crate::wire::{
    ClockEntry, Header, KeyForm, Kind, NO_CLOCK, OutcomeBody, PullBody, PullReplyBody, PullStatus, PushBody,
    PushOp, RefusalCode, RefusedEntry, RetryBody, RetryCode, key_digest, padded,
};

/// Longest a test waits for what must come.
const WATCHDOG: Duration = Duration::from_secs(20);
/// The session, table, partition and epoch of most tests.
pub(super) const SESSION: SessionId = SessionId(7);
pub(super) const TABLE: TableId = TableId(1);
pub(super) const HERE: PartitionId = PartitionId(0);
pub(super) const EPOCH: Epoch = Epoch(1);
pub(super) const RING: usize = 256 << 10;

/// A shard with one partition, one table (`add`, dim 2) and one live session, on a lane.
pub(super) struct Rig {
    pub(super) shard: Shard<Port>,
    pub(super) mailbox: Sender<Command>,
    pub(super) client: Port,
    pub(super) lane: LaneId,
    pub(super) now: Instant,
    pub(super) fabric: FabricKind,
    pub(super) down: Vec<(LaneId, DownReason)>,
}

/// A push in the making; [`Rig::push`] sends it.
#[derive(Clone)]
pub(super) struct TestPush {
    pub(super) header: Header,
    pub(super) resolved: u64,
    pub(super) form: KeyForm,
    pub(super) op: PushOp,
    pub(super) keys: Vec<u64>,
    pub(super) dim: u32,
    pub(super) values: Vec<u32>,
}

/// A pull in the making.
#[derive(Clone)]
pub(super) struct TestPull {
    pub(super) header: Header,
    pub(super) form: KeyForm,
    pub(super) keys: Vec<u64>,
    pub(super) dim: u32,
    pub(super) at_least: u64,
    pub(super) patience_ms: u32,
    pub(super) flags: u8,
}

/// A whole answer to a pull.
#[derive(Debug, PartialEq)]
pub(super) struct Answered {
    pub(super) status: PullStatus,
    pub(super) values: Vec<f32>,
    pub(super) found: Vec<bool>,
    pub(super) lsn: u64,
    pub(super) clock: u64,
    pub(super) pieces: usize,
}

pub(super) fn schema(dim: u32, partitions: u32) -> TableSchema {
    TableSchema {
        name: format!("t{dim}"),
        kind: TableKind::Sparse,
        dim,
        dtype: Dtype::F32,
        rule: Rule::Add,
        init: Init::Zero,
        seed: 1,
        partitions,
    }
}

pub(super) fn config() -> ShardConfig {
    ShardConfig {
        shard: ShardId(0),
        holds: holds(1),
        memory_bytes: 64 << 20,
        log_bytes: 1 << 20,
        index_seed: 3,
        lease: super::lease::Lease::unending(),
        notices: crossbeam_channel::unbounded().0,
    }
}

/// One partition of so many, in a cluster without tables and sessions.
pub(super) fn holds(partition_count: u32) -> Holds {
    Holds {
        partition_count,
        roles: vec![Role { partition: HERE, chain: PartitionChain::of(EPOCH, vec![ShardId(0)]) }],
        tables: Arc::new([]),
        last_table: TableId(0),
        sessions: Arc::new([]),
        last_session: SessionId(0),
    }
}

pub(super) fn push(sequence: u64, keys: &[u64], values: &[f32]) -> TestPush {
    let header = Header {
        session: SESSION,
        table: TABLE,
        partition: HERE,
        epoch: EPOCH,
        sequence: Sequence(sequence),
        request: RequestId(1000 + sequence),
        ..Header::new(Kind::Push, 0)
    };
    let values = values.iter().map(|value| value.to_bits()).collect();
    let (form, op) = (KeyForm::Inline, PushOp::Update);
    TestPush { header, resolved: 0, form, op, keys: keys.to_vec(), dim: 2, values }
}

pub(super) fn pull(request: u64, keys: &[u64]) -> TestPull {
    let header = Header {
        session: SESSION,
        table: TABLE,
        partition: HERE,
        epoch: EPOCH,
        request: RequestId(request),
        ..Header::new(Kind::Pull, 0)
    };
    let keys = keys.to_vec();
    TestPull { header, form: KeyForm::Inline, keys, dim: 2, at_least: NO_CLOCK, patience_ms: 0, flags: 0 }
}

fn digest_words(keys: &[u64]) -> [zerocopy::byteorder::little_endian::U64; 2] {
    let digest = key_digest(keys);
    [(digest as u64).into(), ((digest >> 64) as u64).into()]
}

impl TestPush {
    pub(super) fn payload(&self) -> Vec<u8> {
        let body = PushBody {
            resolved: self.resolved.into(),
            digest: digest_words(&self.keys),
            keys: (self.keys.len() as u32).into(),
            dim: self.dim.into(),
            op: self.op.to_wire(),
            key_form: self.form.to_wire(),
            encoding: 0,
            level: 1,
            reserved: [0; 12],
        };
        let mut payload = body.as_bytes().to_vec();
        if self.form != KeyForm::Named {
            payload.extend_from_slice(self.keys.as_bytes());
        }
        payload.extend_from_slice(self.values.as_bytes());
        payload
    }
}

impl TestPull {
    pub(super) fn payload(&self) -> Vec<u8> {
        let body = PullBody {
            digest: digest_words(&self.keys),
            at_least: self.at_least.into(),
            keys: (self.keys.len() as u32).into(),
            dim: self.dim.into(),
            patience_ms: self.patience_ms.into(),
            key_form: self.form.to_wire(),
            encoding: 0,
            flags: self.flags,
            reserved: [0; 9],
        };
        let mut payload = body.as_bytes().to_vec();
        if self.form != KeyForm::Named {
            payload.extend_from_slice(self.keys.as_bytes());
        }
        payload
    }
}

impl Rig {
    pub(super) fn new(fabric: FabricKind) -> Self {
        Self::with(fabric, &config())
    }

    pub(super) fn with(fabric: FabricKind, config: &ShardConfig) -> Self {
        let (mailbox, commands) = unbounded();
        let shard = Shard::new(config, Port::new().unwrap(), commands).unwrap();
        let mut client = Port::new().unwrap();
        let (ours, theirs) = lane_ends(fabric, RING);
        let lane = client.adopt(ours).unwrap();
        let mut rig = Self { shard, mailbox, client, lane, now: Instant::now(), fabric, down: Vec::new() };
        rig.adopt(theirs);
        rig.create_table(TABLE, schema(2, config.holds.partition_count)).unwrap();
        rig.begin(SESSION);
        rig
    }

    /// A command's answer; the shard takes its turn meanwhile.
    pub(super) fn ask<T>(&mut self, command: impl FnOnce(Sender<T>) -> Command) -> T {
        let (reply, answer) = bounded(1);
        self.mailbox.send(command(reply)).unwrap();
        self.turn();
        answer.try_recv().expect("a turn carries commands out")
    }

    fn adopt(&mut self, end: LaneEnd) {
        self.ask(|reply| Command::Adopt { end, peer: Peer::Client, reply }).unwrap();
    }

    pub(super) fn create_table(
        &mut self,
        table: TableId,
        schema: TableSchema,
    ) -> Result<(), crate::store::TableError> {
        self.ask(|reply| Command::CreateTable { table, schema: schema.into(), reply })
    }

    pub(super) fn begin(&mut self, session: SessionId) {
        self.ask(|reply| Command::BeginSession { session, reply });
    }

    pub(super) fn end(&mut self, session: SessionId) {
        self.ask(|reply| Command::EndSession { session, reply });
    }

    pub(super) fn report(&mut self) -> super::command::Report {
        self.ask(|reply| Command::Status { reply })
    }

    /// One more lane; the client's end of it.
    pub(super) fn connect(&mut self) -> LaneId {
        let (ours, theirs) = lane_ends(self.fabric, RING);
        self.adopt(theirs);
        self.client.adopt(ours).unwrap()
    }

    /// One turn of the shard, and a look at what came of it.
    pub(super) fn turn(&mut self) {
        self.shard.turn(self.now);
        let mut events = Vec::new();
        self.client.poll(&mut events);
        for event in events {
            if let Event::Down { lane, reason } = event {
                self.down.push((lane, reason));
            }
        }
    }

    /// Sends a record; the shard takes turns when the ring is full. False when the lane is down.
    pub(super) fn try_send_on(&mut self, lane: LaneId, header: Header, payload: &[u8]) -> bool {
        let header = Header { length: payload.len() as u32, ..header };
        let padding = vec![0; padded(payload.len()) - payload.len()];
        let watchdog = Instant::now() + WATCHDOG;
        loop {
            match self.client.write(lane, &[&header.to_bytes(), payload, &padding], true) {
                Ok(()) => {
                    self.client.flush();
                    return true;
                }
                Err(WriteError::Full) => self.turn(),
                Err(WriteError::Down) => return false,
                Err(error) => panic!("{error}"),
            }
            assert!(Instant::now() < watchdog, "the shard takes no records");
        }
    }

    /// [`Rig::try_send_on`] of a lane that lives.
    pub(super) fn send_on(&mut self, lane: LaneId, header: Header, payload: &[u8]) {
        assert!(self.try_send_on(lane, header, payload), "the lane is down: {:?}", self.down);
    }

    pub(super) fn push(&mut self, push: &TestPush) {
        self.send_on(self.lane, push.header, &push.payload());
    }

    pub(super) fn pull(&mut self, pull: &TestPull) {
        self.send_on(self.lane, pull.header, &pull.payload());
    }

    /// The next record from the shard; none when the lane is down.
    pub(super) fn try_next_on(&mut self, lane: LaneId) -> Option<(Header, Vec<u8>)> {
        let watchdog = Instant::now() + WATCHDOG;
        loop {
            if let Some(header) = self.client.peek(lane) {
                let mut payload = vec![0; header.length as usize];
                self.client.copy_payload(lane, 0, &mut payload);
                self.client.consume(lane);
                return Some((header, payload));
            }
            if self.down.iter().any(|(down, _)| *down == lane) {
                return None;
            }
            assert!(Instant::now() < watchdog, "no answer");
            self.turn();
        }
    }

    /// [`Rig::try_next_on`] of a lane that lives.
    pub(super) fn next_on(&mut self, lane: LaneId) -> (Header, Vec<u8>) {
        self.try_next_on(lane).unwrap_or_else(|| panic!("the lane is down: {:?}", self.down))
    }

    /// Waits until a lane is down.
    pub(super) fn await_down(&mut self, lane: LaneId) {
        let watchdog = Instant::now() + WATCHDOG;
        while !self.down.iter().any(|(down, _)| *down == lane) {
            assert!(Instant::now() < watchdog, "the lane lives on");
            self.turn();
            while self.client.peek(lane).is_some() {
                self.client.consume(lane);
            }
        }
    }

    /// The next record, which must be an outcome: (session, applied, replicated, refused).
    pub(super) fn outcome(&mut self) -> (SessionId, u64, u64, Vec<(u64, RefusalCode)>) {
        let (header, payload) = self.next_on(self.lane);
        assert_eq!(header.kind, Kind::Outcome, "{header:?}");
        let (body, rest) = OutcomeBody::split(&payload).unwrap();
        let refused = <[RefusedEntry]>::ref_from_bytes(rest).unwrap();
        assert_eq!(refused.len(), body.refused.get() as usize);
        let refused = refused
            .iter()
            .map(|entry| (entry.sequence.get(), RefusalCode::from_wire(entry.code.get()).unwrap()));
        (header.session, body.applied.get(), body.replicated.get(), refused.collect())
    }

    /// The next record, which must be a retry: (its header, code, expected sequence).
    pub(super) fn retried(&mut self) -> (Header, RetryCode, u64) {
        let (header, payload) = self.next_on(self.lane);
        assert_eq!(header.kind, Kind::Retry, "{header:?}");
        let (body, _) = RetryBody::split(&payload).unwrap();
        (header, RetryCode::from_wire(body.code.get()).unwrap(), body.expected.get())
    }

    /// The whole answer to the pull `request`; anything else on the lane fails the test.
    pub(super) fn answered(&mut self, request: u64) -> Answered {
        let mut all = Answered {
            status: PullStatus::Rows,
            values: Vec::new(),
            found: Vec::new(),
            lsn: 0,
            clock: 0,
            pieces: 0,
        };
        loop {
            let (header, payload) = self.next_on(self.lane);
            assert_eq!((header.kind, header.request), (Kind::PullReply, RequestId(request)));
            assert!(payload.len() <= 64 << 10, "a piece of {} bytes", payload.len());
            let (body, rest) = PullReplyBody::split(&payload).unwrap();
            all.status = PullStatus::from_wire(body.status.get()).unwrap();
            all.lsn = body.lsn.get();
            all.clock = body.clock.get();
            all.pieces += 1;
            if all.status != PullStatus::Rows {
                assert!(rest.is_empty());
                return all;
            }
            let rows = body.rows.get() as usize;
            assert_eq!(body.first.get() as usize, all.found.len());
            let (bits, values) = <[u64]>::ref_from_prefix_with_elems(rest, rows.div_ceil(64)).unwrap();
            all.found.extend((0..rows).map(|row| bits[row / 64] >> (row % 64) & 1 == 1));
            all.values.extend_from_slice(<[f32]>::ref_from_bytes(values).unwrap());
            assert_eq!(all.values.len(), all.found.len() * body.dim.get() as usize);
            if all.found.len() == body.total.get() as usize {
                return all;
            }
        }
    }

    /// Waits until the shard has that many lanes.
    pub(super) fn await_lanes(&mut self, lanes: u64) {
        let watchdog = Instant::now() + WATCHDOG;
        while self.report().shard.lanes != lanes {
            assert!(Instant::now() < watchdog, "the shard keeps its lanes");
        }
    }

    /// Sends a pull and gives its answer.
    pub(super) fn pulled(&mut self, pull: &TestPull) -> Answered {
        self.pull(pull);
        self.answered(pull.header.request.0)
    }

    /// Sends a clock for the partition here.
    pub(super) fn clock(&mut self, session: SessionId, sequence: u64, clock: u64, attempt: u32) {
        let entry = ClockEntry {
            sequence: sequence.into(),
            resolved: 0.into(),
            epoch: EPOCH.0.into(),
            partition: HERE.0.into(),
            attempt: attempt.into(),
        };
        let header = Header { session, clock: Clock(clock), ..Header::new(Kind::Clock, 0) };
        self.send_on(self.lane, header, entry.as_bytes());
    }
}

/// Both ends of a new lane.
pub(super) fn lane_ends(fabric: FabricKind, ring_bytes: usize) -> (LaneEnd, LaneEnd) {
    match fabric {
        FabricKind::Shm => shm::pair(ring_bytes).unwrap(),
        FabricKind::Tcp => {
            let listener = tcp::Listener::bind("127.0.0.1:0").unwrap();
            let deadline = Instant::now() + WATCHDOG;
            let address = listener.address().to_string();
            std::thread::scope(|scope| {
                let theirs = scope.spawn(|| {
                    let incoming = listener.accept(WATCHDOG).unwrap().unwrap();
                    incoming.welcome(1, LaneConfig { ring_bytes }, deadline).unwrap().0
                });
                let hello = tcp::Hello { cluster: 1, shard: ShardId(0), ring_bytes, flags: 0, link: None };
                let ours = tcp::connect(&address, &hello, deadline).unwrap();
                (ours, theirs.join().unwrap())
            })
        }
    }
}

/// Runs a test's body over each fabric.
pub(super) fn over_each_fabric(body: impl Fn(FabricKind)) {
    for fabric in [FabricKind::Shm, FabricKind::Tcp] {
        body(fabric);
    }
}
