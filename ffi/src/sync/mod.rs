//! The few atomics of rings, credits, doorbells and state entries.
//!
//! Problem: two threads that trust neither each other's timing nor, across processes, each other's bytes,
//! hand records over without locks. Idea: every counter is absolute and has one writer; who writes what is
//! separated by cache line ([`SenderLine`], [`ReceiverLine`]). Invariants, each with a loom test here:
//! what a receiver sees published is written completely; what a sender sees consumed is no longer read; a
//! receiver that armed its doorbell and then sleeps is woken by every later publication; a state entry that
//! passes its check is one that was written whole. Absent on purpose: meaning. Whether a counter is possible is
//! for the caller to check. Any thread may call; one thread at a time is the writer of a line.

mod doorbell;
mod line;
mod state;

pub use doorbell::{Arm, WakeFlag};
pub use line::{ReceiverLine, SenderLine, Tally, order_before_doorbells};
pub use state::{STATE_WORDS, StateSlot, Torn};

#[cfg(all(test, loom))]
mod loom_tests;
