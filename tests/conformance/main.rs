//! One suite that every fabric passes: the contract of lanes, L1 to L6.
//!
//! Each test is a function over a [`Pairing`], which makes the two ends of a lane; `on_every_fabric!` runs it over
//! shared memory in one process, shared memory sent over a Unix socket, and TCP. Tests of what only one fabric
//! can suffer (a scribbled ring, garbage in a socket) are in `hostile_*`. Every test runs under a watchdog.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

/// Runs each named function over each fabric, as tests of its own.
macro_rules! on_every_fabric {
    ($($test:ident),* $(,)?) => {
        mod over_shm {
            $(#[test] fn $test() { $crate::watchdog(|| super::$test(&$crate::pairing::InProcess)); })*
        }
        mod over_sent_shm {
            $(#[test] fn $test() { $crate::watchdog(|| super::$test(&$crate::pairing::Sent)); })*
        }
        mod over_tcp {
            $(#[test] fn $test() { $crate::watchdog(|| super::$test(&$crate::pairing::Tcp)); })*
        }
    };
}

pub(crate) use on_every_fabric;

mod death;
mod fence;
mod grants;
mod hostile_shm;
mod hostile_tcp;
mod limits;
mod order;
mod pairing;
mod state;
mod waking;

use gradwire::lane::{DownReason, Event, Fabric, LaneEnd, LaneId, Port, StateEntry, WriteError};
use gradwire::wire::{Header, Kind};

pub(crate) use pairing::{Pairing, watchdog};

/// A small seeded generator (splitmix64): the seed is in the test, so that a failure repeats.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.roll() % limit as u64) as usize
    }
}

/// A record whose payload follows from its number and length.
pub(crate) fn record(number: u64, length: usize) -> Vec<u8> {
    let header = Header { flow: number, ..Header::new(Kind::Push, length as u32) };
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend((0..length).map(|at| content(number, at)));
    bytes.resize(header.record_bytes(), 0);
    bytes
}

pub(crate) fn content(number: u64, at: usize) -> u8 {
    (number.wrapping_mul(31) ^ (at as u64).wrapping_mul(7) ^ (at as u64 >> 8)) as u8
}

/// One end with its port, and what it was told.
pub(crate) struct Side {
    pub(crate) port: Port,
    pub(crate) lane: LaneId,
    pub(crate) arrived: usize,
    pub(crate) entries: Vec<StateEntry>,
    pub(crate) reads: usize,
    pub(crate) down: Option<DownReason>,
}

impl Side {
    pub(crate) fn new(end: LaneEnd) -> Self {
        let mut port = Port::new().unwrap();
        let lane = port.adopt(end).unwrap();
        Self { port, lane, arrived: 0, entries: Vec::new(), reads: 0, down: None }
    }

    /// Polls once and sorts what it was told.
    pub(crate) fn poll(&mut self) {
        let mut events = Vec::new();
        self.port.poll(&mut events);
        for event in events {
            assert_eq!(event.lane(), self.lane);
            match event {
                Event::Arrived(_) => {
                    assert!(self.down.is_none(), "nothing arrives after the end");
                    self.arrived += 1;
                }
                Event::Entry { entry, .. } => self.entries.push(entry),
                Event::ReadDone { .. } => self.reads += 1,
                Event::Down { reason, .. } => {
                    assert_eq!(self.down, None, "the end is told once");
                    self.down = Some(reason);
                }
            }
        }
    }

    /// Polls until `done`; the watchdog bounds it.
    pub(crate) fn poll_until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        while !done(self) {
            self.poll();
            std::hint::spin_loop();
        }
    }

    pub(crate) fn write(&mut self, number: u64, length: usize, notify: bool) -> Result<(), WriteError> {
        self.port.write(self.lane, &[&record(number, length)], notify)
    }

    /// Reads, checks and consumes the next record; gives its number.
    pub(crate) fn take(&mut self) -> Option<u64> {
        let header = self.port.peek(self.lane)?;
        let mut payload = vec![0; header.length as usize];
        self.port.copy_payload(self.lane, 0, &mut payload);
        for (at, byte) in payload.iter().enumerate() {
            assert_eq!(*byte, content(header.flow, at), "byte {at} of record {}", header.flow);
        }
        if let Some(borrowed) = self.port.borrow_payload(self.lane) {
            assert_eq!(borrowed, payload);
        }
        self.port.consume(self.lane);
        Some(header.flow)
    }
}

/// Both sides of a new lane.
pub(crate) fn sides(pairing: &dyn Pairing, ring_bytes: usize) -> (Side, Side) {
    let (left, right) = pairing.lane(ring_bytes);
    (Side::new(left), Side::new(right))
}
