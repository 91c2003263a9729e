//! Driver over io_uring: receives and sends are posted, and one system call a turn submits all and waits.
//!
//! With few sockets the owner works directly: while it polls, receives and sends are plain calls, and only what a full socket
//! does not take, and receives of a thread that is about to sleep, are posted. A posted receive is tried, armed, woken as task
//! work and tried again, which cost a polled round trip a third (decision 0006).
//!
//! Each socket has at most one receive and one send in flight; both borrow ring space from their lane as a loan,
//! which comes back with the outcome. What a turn asks for is queued, and submitted once, at its end. With many
//! sockets polling looks at the completion queue and a flag in shared memory, so that idle lanes cost no system call. Absent on purpose: multishot
//! receives (their buffers are the kernel's choice, and bytes must land in the lane's ring: a second copy), zero-copy sends
//! and registered buffers (decision 0006 has the figures).

use std::io::IoSlice;
use std::os::fd::AsFd;
use std::time::Duration;

use gradwire_ffi::MachineError;
use gradwire_ffi::event::Ready;
use gradwire_ffi::private_ring::{Loan, PrivateRing};
use gradwire_ffi::socket::{Moved, receive, send_gather};
use gradwire_ffi::uring::{Completed, OpId, Uring};

use super::driver::{Driver, Flow, Outgoing, Sending, Source};

/// One direction of a socket.
#[derive(Debug, Default)]
enum Way {
    #[default]
    Idle,
    Posted(OpId, usize),
    /// With the memory it borrowed, unless it sent a copy.
    Done(Option<Loan>, Moved),
}

struct FlowState {
    token: u64,
    /// None: not in use.
    source: Option<Source>,
    watch: Option<OpId>,
    incoming: Way,
    outgoing: Way,
    /// Detached, and the kernel has not given everything back.
    leaving: bool,
}

pub(super) struct UringDriver {
    uring: Uring,
    flows: Vec<FlowState>,
    free: Vec<u32>,
    completed: Vec<Completed>,
    /// Reports found while something else was waited for.
    early: Vec<Ready>,
    /// See [`Driver::set_direct`].
    direct: bool,
}

impl UringDriver {
    pub(super) fn over(uring: Uring) -> Self {
        Self {
            uring,
            flows: Vec::new(),
            free: Vec::new(),
            completed: Vec::new(),
            early: Vec::new(),
            direct: false,
        }
    }

    /// Operations in flight, watches included.
    #[cfg(test)]
    pub(super) fn in_flight(&self) -> usize {
        self.uring.in_flight()
    }

    fn put(&mut self, source: Source, token: u64) -> u32 {
        let state = FlowState {
            token,
            source: Some(source),
            watch: None,
            incoming: Way::Idle,
            outgoing: Way::Idle,
            leaving: false,
        };
        if let Some(index) = self.free.pop() {
            self.flows[index as usize] = state;
            return index;
        }
        self.flows.push(state);
        self.flows.len() as u32 - 1
    }

    /// Notes what completed at the flows, and reports it.
    fn note(&mut self, ready: &mut Vec<Ready>) {
        let quiet = |token| Ready { token, readable: false, writable: false, hung_up: false };
        for done in self.completed.drain(..) {
            let key = match &done {
                Completed::Stirred { key, .. }
                | Completed::Received { key, .. }
                | Completed::Sent { key, .. }
                | Completed::Unwatched { key } => *key as usize,
            };
            let flow = &mut self.flows[key];
            let token = flow.token;
            match done {
                Completed::Stirred { hung_up, .. } if !flow.leaving => {
                    ready.push(Ready { readable: true, hung_up, ..quiet(token) });
                }
                Completed::Stirred { .. } => {}
                Completed::Unwatched { .. } => flow.watch = None,
                Completed::Received { loan, moved, .. } => {
                    flow.incoming = Way::Done(Some(loan), moved);
                    ready.push(Ready { readable: true, ..quiet(token) });
                }
                Completed::Sent { loan, moved, .. } => {
                    flow.outgoing = Way::Done(loan, moved);
                    ready.push(Ready { writable: true, ..quiet(token) });
                }
            }
            if flow.leaving {
                ready.retain(|report| report.token != token);
                if flow.is_over() {
                    flow.clear();
                    self.free.push(key as u32);
                }
            }
        }
    }
}

impl FlowState {
    fn is_over(&self) -> bool {
        self.watch.is_none()
            && !matches!(self.incoming, Way::Posted(..))
            && !matches!(self.outgoing, Way::Posted(..))
    }

    fn clear(&mut self) {
        self.source = None;
        self.incoming = Way::Idle;
        self.outgoing = Way::Idle;
    }

    fn in_flight(&self) -> impl Iterator<Item = OpId> {
        let of = |way: &Way| if let Way::Posted(id, _) = way { Some(*id) } else { None };
        [self.watch, of(&self.incoming), of(&self.outgoing)].into_iter().flatten()
    }
}

impl Driver for UringDriver {
    fn watch(&mut self, source: Source, token: u64) -> Result<Flow, MachineError> {
        let index = self.put(source.clone(), token);
        self.flows[index as usize].watch = Some(self.uring.watch(source, u64::from(index)));
        Ok(Flow(index))
    }

    fn attach(&mut self, socket: Source, token: u64) -> Result<Flow, MachineError> {
        Ok(Flow(self.put(socket, token)))
    }

    fn detach(&mut self, flow: Flow) {
        let state = &mut self.flows[flow.0 as usize];
        state.leaving = true;
        let token = state.token;
        let ids: Vec<OpId> = state.in_flight().collect();
        self.early.retain(|report| report.token != token);
        if ids.is_empty() {
            state.clear();
            self.free.push(flow.0);
            return;
        }
        for id in &ids {
            self.uring.cancel(*id);
        }
        self.uring.settle(&ids, &mut self.completed);
        let mut early = std::mem::take(&mut self.early);
        self.note(&mut early);
        self.early = early;
    }

    #[inline]
    fn arm(&mut self, flow: Flow, ring: &mut PrivateRing, at: u64, room: usize) {
        let state = &mut self.flows[flow.0 as usize];
        if let (Way::Idle, Some(source)) = (&state.incoming, &state.source) {
            let loan = ring.lend(at, room, true);
            let id = self.uring.receive(source.clone(), loan, u64::from(flow.0));
            state.incoming = Way::Posted(id, room);
        }
    }

    #[inline]
    fn receive(&mut self, flow: Flow, ring: &mut PrivateRing, at: u64, room: usize) -> Option<Moved> {
        let state = &mut self.flows[flow.0 as usize];
        match std::mem::take(&mut state.incoming) {
            Way::Done(loan, moved) => {
                if let Some(loan) = loan {
                    ring.take_back(loan);
                }
                Some(moved)
            }
            posted @ Way::Posted(..) => {
                state.incoming = posted;
                None
            }
            Way::Idle => {
                let socket = state.source.as_ref();
                Some(socket.map_or(Moved::End, |socket| receive(socket.as_fd(), ring.slice_mut(at, room))))
            }
        }
    }

    #[inline]
    fn send(&mut self, flow: Flow, outgoing: Outgoing<'_>) -> Sending {
        let Outgoing { ring, from, bytes, inserted, before } = outgoing;
        let state = &mut self.flows[flow.0 as usize];
        let way = match std::mem::take(&mut state.outgoing) {
            Way::Done(loan, moved) => {
                if let Some(loan) = loan {
                    ring.take_back(loan);
                }
                // Undone: it is posted again, for nothing else would tell when the socket takes more.
                if moved != Moved::WouldBlock {
                    return Sending::Done(moved);
                }
                Way::Idle
            }
            other => other,
        };
        if let (true, Way::Idle, Some(source)) = (self.direct && bytes > 0, &way, &state.source) {
            let (first, second) = ring.slice(from, bytes).split_at(before);
            let parts = [IoSlice::new(first), IoSlice::new(inserted), IoSlice::new(second)];
            let parts =
                if inserted.is_empty() { &[IoSlice::new(ring.slice(from, bytes))][..] } else { &parts };
            let moved = send_gather(source.as_fd(), parts);
            // A full socket: the kernel is to go on by itself, and to tell.
            if moved != Moved::WouldBlock {
                return Sending::Done(moved);
            }
        }
        match (way, &state.source) {
            (Way::Posted(id, bytes), _) => {
                state.outgoing = Way::Posted(id, bytes);
                Sending::Posted(bytes)
            }
            (_, Some(source)) if bytes > 0 => {
                let loan = ring.lend(from, bytes, false);
                let id = self.uring.send(source.clone(), loan, inserted, before, u64::from(flow.0));
                state.outgoing = Way::Posted(id, bytes);
                Sending::Posted(bytes)
            }
            // State alone: there is no ring memory to lend. A full socket gets a copy, and tells when it is sent.
            (_, Some(source)) => match send_gather(source.as_fd(), &[IoSlice::new(inserted)]) {
                Moved::WouldBlock => {
                    let id = self.uring.send_copy(source.clone(), inserted, u64::from(flow.0));
                    state.outgoing = Way::Posted(id, 0);
                    Sending::Posted(0)
                }
                moved => Sending::Done(moved),
            },
            (_, None) => Sending::Done(Moved::End),
        }
    }

    #[inline]
    fn send_now(&mut self, flow: Flow, parts: &[IoSlice<'_>]) -> Moved {
        let state = &self.flows[flow.0 as usize];
        match (&state.outgoing, &state.source) {
            (Way::Idle, Some(source)) => send_gather(source.as_fd(), parts),
            _ => Moved::WouldBlock,
        }
    }

    fn receives_by_itself(&self) -> bool {
        true
    }

    fn set_direct(&mut self, direct: bool) {
        self.direct = direct;
    }

    #[inline]
    fn has_news(&mut self) -> bool {
        !self.early.is_empty() || self.uring.has_queued() || self.uring.has_news()
    }

    #[inline]
    fn has_queued(&self) -> bool {
        self.uring.has_queued()
    }

    fn wait(&mut self, timeout: Duration, ready: &mut Vec<Ready>) {
        ready.append(&mut self.early);
        if ready.is_empty() && !timeout.is_zero() {
            self.uring.wait(timeout, &mut self.completed);
        } else {
            self.uring.poll(&mut self.completed);
        }
        self.note(ready);
    }
}

#[cfg(test)]
#[path = "uring_driver_tests.rs"]
mod tests;
