//! One thread's lanes over one driver: any mix of shared memory and TCP.
//!
//! What is due at the end of a turn (doorbells, sends) is kept as a list of lanes, so that a turn costs what it
//! did, not what is open. Polling looks at each lane: one cache line for shared memory; for TCP a receive, paced,
//! because a tight loop of system calls halves what the socket's other end can do. Many TCP lanes are asked of the driver together.

use std::sync::Arc;
use std::time::Duration;

use gradwire_ffi::event::{EventFd, Ready};
use gradwire_ffi::sync::{WakeFlag, order_before_doorbells};
use gradwire_ffi::uring::Threading;

use super::driver::{Driver, Flow};
use super::measure::measure;
use super::shm_lane::ShmLane;
use super::tcp_driver::{self, TcpDriver};
use super::tcp_lane::TcpLane;
use super::{
    AdoptError, DownReason, End, Event, Fabric, FabricKind, FenceError, GrantError, GrantId, LaneEnd, LaneId,
    PeerGrant, PlaceError, PortError, StateEntry, WriteError, max_record_bytes,
};
use crate::wire::Header;

/// Polls between two tries to receive on an idle TCP lane: with one pause a poll about a microsecond.
const TCP_PACE: u32 = 16;
/// Up to so many TCP lanes are tried one by one; more are asked of the driver in one call.
const FEW_TCP_LANES: usize = 4;
/// Polls between two looks for hang-ups: tens of microseconds, at a few per cent of the spinning.
const HANG_UP_PACE: u32 = 1024;
/// Token of the waker's descriptor.
const WAKE: u64 = u64::MAX;

#[derive(Debug)]
enum Lane {
    Shm(Box<ShmLane>, [Flow; 2]),
    Tcp(Box<TcpLane>),
}

impl Lane {
    fn fail(&mut self, reason: DownReason) {
        match self {
            Self::Shm(lane, _) => lane.fail(reason),
            Self::Tcp(lane) => lane.fail(reason),
        }
    }
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    lane: Option<Lane>,
    peeked: Option<Header>,
    /// In the list of lanes with something due.
    due: bool,
}

/// One thread's lanes. See [`Fabric`].
pub struct Port {
    driver: Box<dyn Driver + Send>,
    tcp_driver: TcpDriver,
    /// The driver receives by itself: with few lanes only while this thread sleeps, since a call is answered sooner than a
    /// completion.
    armed: bool,
    slots: Vec<Slot>,
    free: Vec<u32>,
    tcp_lanes: usize,
    due: Vec<u32>,
    /// TCP lanes whose receive is over, to be posted again once what came is consumed.
    to_arm: Vec<u32>,
    /// Events found outside `poll`.
    pending: Vec<Event>,
    ready: Vec<Ready>,
    polls: u32,
    /// Bytes came over TCP in the last poll: more are likely.
    hot: bool,
    waker: Waker,
}

impl std::fmt::Debug for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Port").field("slots", &self.slots).finish_non_exhaustive()
    }
}

/// Wakes a [`Port`]'s thread out of [`Fabric::wait`]; a system call only when it sleeps.
#[derive(Clone, Debug)]
pub struct Waker {
    flag: Arc<WakeFlag>,
    bell: Arc<EventFd>,
}

impl Waker {
    /// The wait under way, or the next one, returns. What was done before is visible to the woken thread.
    pub fn wake(&self) {
        if self.flag.signal() {
            self.bell.ring();
        }
    }
}

fn token(index: u32, generation: u32, bell: bool) -> u64 {
    u64::from(generation) << 32 | u64::from(index) << 1 | u64::from(bell)
}

impl Port {
    /// A port without lanes, for any thread, one at a time.
    ///
    /// # Errors
    /// [`PortError`]: descriptors ran out, or `GRADWIRE_TCP` names no driver.
    pub fn new() -> Result<Self, PortError> {
        Self::with(Threading::Shared)
    }

    /// A port without lanes for the calling thread alone, which is cheaper.
    ///
    /// # Errors
    /// As for [`Port::new`].
    ///
    /// # Panics
    /// Its methods panic when another thread uses it.
    pub fn pinned() -> Result<Self, PortError> {
        Self::with(Threading::Pinned)
    }

    fn with(threading: Threading) -> Result<Self, PortError> {
        let (mut driver, tcp_driver) = tcp_driver::open(threading)?;
        let bell = Arc::new(EventFd::create()?);
        driver.watch(bell.clone(), WAKE)?;
        Ok(Self {
            armed: driver.receives_by_itself(),
            driver,
            tcp_driver,
            slots: Vec::new(),
            free: Vec::new(),
            tcp_lanes: 0,
            due: Vec::new(),
            to_arm: Vec::new(),
            pending: Vec::new(),
            ready: Vec::new(),
            polls: 0,
            hot: false,
            waker: Waker { flag: Arc::default(), bell },
        })
    }

    #[inline]
    fn slot(&self, id: LaneId) -> Option<&Slot> {
        self.slots
            .get(id.index as usize)
            .filter(|slot| slot.generation == id.generation && slot.lane.is_some())
    }

    fn lane(&self, id: LaneId) -> Option<&Lane> {
        self.slot(id).and_then(|slot| slot.lane.as_ref())
    }

    fn lane_mut(&mut self, id: LaneId) -> Option<&mut Lane> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation == id.generation { slot.lane.as_mut() } else { None }
    }

    /// Remembers that the lane has something due.
    #[inline]
    fn mark_due(&mut self, id: LaneId) {
        let slot = &mut self.slots[id.index as usize];
        if !slot.due {
            slot.due = true;
            self.due.push(id.index);
        }
    }

    /// Asks the driver what stirred, and notes it at the lanes.
    fn collect(&mut self, timeout: Duration) {
        let mut ready = std::mem::take(&mut self.ready);
        self.driver.wait(timeout, &mut ready);
        for stirred in ready.drain(..) {
            if stirred.token == WAKE {
                continue;
            }
            let index = (stirred.token as u32 >> 1) as usize;
            let generation = (stirred.token >> 32) as u32;
            let slot = self.slots.get_mut(index).filter(|slot| slot.generation == generation);
            match slot.and_then(|slot| slot.lane.as_mut()) {
                Some(Lane::Shm(lane, _)) if stirred.token & 1 == 0 => lane.read_socket(),
                Some(Lane::Tcp(lane)) => {
                    lane.on_ready(stirred.readable, stirred.writable, stirred.hung_up);
                    if self.armed && stirred.writable {
                        // A posted send is over: takes its outcome, and posts what is due since.
                        lane.flush(&mut *self.driver);
                    }
                }
                // A doorbell: its lane is looked at anyway. Or a lane that is closed.
                Some(Lane::Shm(..)) | None => {}
            }
        }
        self.ready = ready;
    }

    /// The peeked record's length in payload and in all.
    #[inline]
    fn peeked(slot: Option<&Slot>) -> (usize, usize) {
        let peeked = slot.and_then(|slot| slot.peeked.as_ref());
        assert!(peeked.is_some(), "a record is peeked before it is read or consumed");
        peeked.map_or((0, 0), |header| (header.length as usize, header.record_bytes()))
    }
}

impl Fabric for Port {
    fn poll(&mut self, events: &mut Vec<Event>) {
        self.polls = self.polls.wrapping_add(1);
        if !self.pending.is_empty() {
            events.append(&mut self.pending);
        }
        self.arm();
        let paced = self.tcp_lanes > 0 && (self.hot || self.polls.is_multiple_of(TCP_PACE));
        let few = self.tries();
        let look = if self.armed { self.tcp_lanes > 0 && self.driver.has_news() } else { paced && !few };
        if look || self.polls.is_multiple_of(HANG_UP_PACE) {
            self.collect(Duration::ZERO);
        }
        self.hot = false;
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let id = LaneId { index: index as u32, generation: slot.generation };
            match &mut slot.lane {
                Some(Lane::Shm(lane, _)) => lane.poll(id, events),
                Some(Lane::Tcp(lane)) => {
                    let came = lane.poll(id, &mut *self.driver, paced && few, events);
                    self.hot |= came;
                    if self.armed && !few && lane.is_unarmed() {
                        self.to_arm.push(index as u32);
                    }
                }
                None => {}
            }
        }
        self.flush_due();
    }

    fn wait(&mut self, timeout: Duration) {
        for index in 0..self.slots.len() {
            if let Some(Lane::Shm(lane, _)) = &mut self.slots[index].lane {
                lane.settle();
                if lane.needs_bell() {
                    let generation = self.slots[index].generation;
                    self.mark_due(LaneId { index: index as u32, generation });
                }
            }
        }
        self.flush();
        if !self.pending.is_empty() {
            return;
        }
        for slot in &mut self.slots {
            match &mut slot.lane {
                Some(Lane::Shm(lane, _)) => lane.arm(),
                Some(Lane::Tcp(lane)) if self.armed => lane.arm(&mut *self.driver),
                _ => {}
            }
        }
        order_before_doorbells();
        let mut news = false;
        for slot in &mut self.slots {
            news |= match &mut slot.lane {
                Some(Lane::Shm(lane, _)) => lane.has_news(),
                Some(Lane::Tcp(lane)) => lane.has_news(),
                None => false,
            };
        }
        if !news && self.waker.flag.prepare_sleep() {
            self.collect(timeout);
        }
        self.waker.flag.awake();
        for slot in &self.slots {
            if let Some(Lane::Shm(lane, _)) = &slot.lane {
                lane.disarm();
            }
        }
    }

    #[inline]
    fn peek(&mut self, lane: LaneId) -> Option<Header> {
        let slot = self.slots.get_mut(lane.index as usize)?;
        if slot.generation != lane.generation {
            return None;
        }
        if slot.peeked.is_none() {
            let peeked = match slot.lane.as_mut()? {
                Lane::Shm(lane, _) => lane.peek(),
                Lane::Tcp(lane) => lane.peek(),
            };
            match peeked {
                Ok(header) => slot.peeked = header,
                Err(reason) => slot.lane.as_mut()?.fail(reason),
            }
        }
        slot.peeked
    }

    #[inline]
    fn copy_payload(&self, lane: LaneId, offset: usize, out: &mut [u8]) {
        let slot = self.slot(lane);
        let (length, _) = Self::peeked(slot);
        assert!(
            offset.checked_add(out.len()).is_some_and(|end| end <= length),
            "{} bytes at {offset} leave a payload of {length}",
            out.len()
        );
        match slot.and_then(|slot| slot.lane.as_ref()) {
            Some(Lane::Shm(lane, _)) => lane.copy_payload(offset, out),
            Some(Lane::Tcp(lane)) => out.copy_from_slice(lane.payload(offset, out.len())),
            None => {}
        }
    }

    #[inline]
    fn borrow_payload(&self, lane: LaneId) -> Option<&[u8]> {
        let slot = self.slot(lane);
        let (length, _) = Self::peeked(slot);
        match slot?.lane.as_ref()? {
            Lane::Shm(..) => None,
            Lane::Tcp(lane) => Some(lane.payload(0, length)),
        }
    }

    #[inline]
    fn consume(&mut self, lane: LaneId) {
        let (_, bytes) = Self::peeked(self.slot(lane));
        let slot = &mut self.slots[lane.index as usize];
        slot.peeked = None;
        let due = match &mut slot.lane {
            Some(Lane::Shm(lane, _)) => {
                lane.consume(bytes);
                lane.needs_bell()
            }
            Some(Lane::Tcp(lane)) => {
                lane.consume(bytes);
                lane.has_due()
            }
            None => false,
        };
        if due {
            self.mark_due(lane);
        }
    }

    fn credit(&self, lane: LaneId) -> usize {
        match self.lane(lane) {
            Some(Lane::Shm(lane, _)) => lane.credit(),
            Some(Lane::Tcp(lane)) => lane.credit(),
            None => 0,
        }
    }

    fn max_record(&self, lane: LaneId) -> usize {
        match self.lane(lane) {
            Some(Lane::Shm(lane, _)) => max_record_bytes(lane.end.ring_bytes),
            Some(Lane::Tcp(lane)) => lane.max_record(),
            None => 0,
        }
    }

    #[inline]
    fn write(&mut self, lane: LaneId, parts: &[&[u8]], notify: bool) -> Result<(), WriteError> {
        let measured = measure(parts);
        let slot = self.slots.get_mut(lane.index as usize).ok_or(WriteError::Down)?;
        if slot.generation != lane.generation {
            return Err(WriteError::Down);
        }
        match slot.lane.as_mut().ok_or(WriteError::Down)? {
            Lane::Shm(lane, _) => lane.write(parts, measured, notify)?,
            Lane::Tcp(lane) => lane.write(&mut *self.driver, parts, measured, notify)?,
        }
        if notify {
            self.mark_due(lane);
        }
        Ok(())
    }

    #[inline]
    fn flush(&mut self) {
        self.arm();
        self.flush_due();
    }

    fn publish(&mut self, lane: LaneId, entry: StateEntry) {
        match self.lane_mut(lane) {
            Some(Lane::Shm(lane, _)) => lane.publish(entry),
            Some(Lane::Tcp(lane)) => lane.publish(entry),
            None => return,
        }
        self.mark_due(lane);
    }

    fn grant(&mut self, lane: LaneId, bytes: usize) -> Result<GrantId, GrantError> {
        match self.lane_mut(lane) {
            Some(Lane::Shm(lane, _)) if !lane.is_down() => lane.grants.shared(bytes, &lane.end.socket),
            Some(Lane::Tcp(lane)) if !lane.is_down() => lane.grants.private(bytes),
            _ => Err(GrantError::Down),
        }
    }

    fn share(&mut self, lane: LaneId, snapshot: &[u8]) -> Result<GrantId, GrantError> {
        match self.lane_mut(lane) {
            Some(Lane::Shm(lane, _)) if !lane.is_down() => {
                lane.grants.shared_frozen(snapshot, &lane.end.socket)
            }
            Some(Lane::Tcp(lane)) if !lane.is_down() => lane.grants.frozen(snapshot),
            _ => Err(GrantError::Down),
        }
    }

    fn describe(&self, lane: LaneId, grant: GrantId) -> Option<PeerGrant> {
        match self.lane(lane)? {
            Lane::Shm(lane, _) => lane.grants.describe(grant),
            Lane::Tcp(lane) => lane.grants.describe(grant),
        }
    }

    fn place(
        &mut self,
        lane: LaneId,
        grant: PeerGrant,
        offset: usize,
        parts: &[&[u8]],
    ) -> Result<(), PlaceError> {
        match self.lane_mut(lane) {
            Some(Lane::Shm(shm, _)) => shm.place(grant, offset, parts),
            Some(Lane::Tcp(tcp)) => {
                tcp.place(grant, offset, parts)?;
                self.mark_due(lane);
                Ok(())
            }
            None => Err(PlaceError::Down),
        }
    }

    fn read(
        &mut self,
        lane: LaneId,
        from: PeerGrant,
        from_offset: usize,
        into: GrantId,
        into_offset: usize,
        bytes: usize,
    ) -> Result<(), PlaceError> {
        match self.lane_mut(lane) {
            Some(Lane::Shm(shm, _)) => {
                shm.read(from, from_offset, into, into_offset, bytes)?;
                self.pending.push(Event::ReadDone { lane, into, offset: into_offset, bytes });
            }
            Some(Lane::Tcp(tcp)) => {
                tcp.read(from, from_offset, into, into_offset, bytes)?;
                self.mark_due(lane);
            }
            None => return Err(PlaceError::Down),
        }
        Ok(())
    }

    fn read_granted(
        &self,
        lane: LaneId,
        grant: GrantId,
        offset: usize,
        out: &mut [u8],
    ) -> Result<(), GrantError> {
        match self.lane(lane) {
            Some(Lane::Shm(lane, _)) => lane.grants.copy_out(grant, offset, out),
            Some(Lane::Tcp(lane)) => lane.grants.copy_out(grant, offset, out),
            None => Err(GrantError::Down),
        }
    }

    fn release_grant(&mut self, lane: LaneId, grant: GrantId) {
        match self.lane_mut(lane) {
            Some(Lane::Shm(lane, _)) => lane.release_grant(grant),
            Some(Lane::Tcp(lane)) => {
                lane.grants.release(grant);
            }
            None => {}
        }
    }

    fn fence(&mut self, lane: LaneId) -> Result<(), FenceError> {
        if self.slot(lane).is_none() {
            return Err(FenceError::Closed);
        }
        let slot = &mut self.slots[lane.index as usize];
        match slot.lane.take() {
            Some(Lane::Shm(lane, flows)) => {
                for flow in flows {
                    self.driver.detach(flow);
                }
                // Unmaps rings and grants; their pages are never mapped again.
                drop(lane);
            }
            Some(Lane::Tcp(lane)) => {
                // Ends what the kernel does for the lane; after the close nothing can be received.
                lane.cut();
                self.driver.detach(lane.flow());
                self.tcp_lanes -= 1;
            }
            None => {}
        }
        slot.peeked = None;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(lane.index);
        self.driver.set_direct(self.tries());
        self.pending.retain(|event| event.lane() != lane);
        Ok(())
    }

    fn adopt(&mut self, end: LaneEnd) -> Result<LaneId, AdoptError> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.slots.push(Slot::default());
                self.slots.len() as u32 - 1
            }
        };
        match self.register(index, end) {
            Ok(lane) => {
                self.tcp_lanes += usize::from(matches!(lane, Lane::Tcp(_)));
                self.driver.set_direct(self.tries());
                self.slots[index as usize].lane = Some(lane);
                Ok(LaneId { index, generation: self.slots[index as usize].generation })
            }
            Err(error) => {
                // Its descriptors are closed, and thereby no longer watched; the number is not reused under this generation.
                self.slots[index as usize].generation += 1;
                self.free.push(index);
                Err(error)
            }
        }
    }

    fn kind(&self, lane: LaneId) -> Option<FabricKind> {
        self.lane(lane).map(|lane| match lane {
            Lane::Shm(..) => FabricKind::Shm,
            Lane::Tcp(_) => FabricKind::Tcp,
        })
    }

    fn tcp_driver(&self) -> &TcpDriver {
        &self.tcp_driver
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }
}

impl Port {
    fn register(&mut self, index: u32, end: LaneEnd) -> Result<Lane, AdoptError> {
        let generation = self.slots[index as usize].generation;
        match end.0 {
            End::Shm(end) => {
                let mut lane = Box::new(ShmLane::new(*end));
                let [socket, bell] = lane.sources();
                let socket = self.driver.watch(socket, token(index, generation, false))?;
                let bell = match self.driver.watch(bell, token(index, generation, true)) {
                    Ok(bell) => bell,
                    Err(error) => {
                        self.driver.detach(socket);
                        return Err(error.into());
                    }
                };
                // Edges before this are not reported.
                lane.read_socket();
                Ok(Lane::Shm(lane, [socket, bell]))
            }
            End::Tcp(end) => {
                let token = token(index, generation, false);
                Ok(Lane::Tcp(Box::new(TcpLane::new(*end, &mut *self.driver, token)?)))
            }
        }
    }

    /// Sends and rings for the lanes with something due, and submits what that and arming asked for.
    #[inline]
    fn flush_due(&mut self) {
        if !self.due.is_empty() {
            order_before_doorbells();
            let mut due = std::mem::take(&mut self.due);
            for index in due.drain(..) {
                let slot = &mut self.slots[index as usize];
                slot.due = false;
                match &mut slot.lane {
                    Some(Lane::Shm(lane, _)) => lane.ring(),
                    Some(Lane::Tcp(lane)) => lane.flush(&mut *self.driver),
                    None => {}
                }
            }
            self.due = due;
        }
        if self.armed && self.driver.has_queued() {
            self.collect(Duration::ZERO);
        }
    }

    /// Whether sockets are tried one by one while polling, whatever the driver does while this thread sleeps.
    #[inline]
    fn tries(&self) -> bool {
        self.tcp_lanes <= FEW_TCP_LANES
    }

    /// Lets the lanes that received do so again.
    #[inline]
    fn arm(&mut self) {
        while let Some(index) = self.to_arm.pop() {
            if let Some(Lane::Tcp(lane)) = &mut self.slots[index as usize].lane {
                lane.arm(&mut *self.driver);
            }
        }
    }
}
