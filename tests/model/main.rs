//! Chains of several servers, as a model: the shipped [`gradwire::chain::Replica`] in small servers, with clients and
//! a coordinator that are a page each, and a network, crashes and suspicions that a checker controls.
//!
//! One [`world::World`] is driven in two ways. `exhaustive.rs` gives it to Stateright, which tries every order of events of a
//! small one: what it passes holds for all schedules of that size. `schedules.rs` walks through larger ones at random, by
//! seed. Both check the same ([`checks`]): C0 to C5, exactly once, acknowledged pushes survive, strong reads are
//! linearizable, everybody gets done. [`faults::Fault`] plants what each rule of the design is there to prevent, and
//! each has to be found.
//!
//! Not in the model: rows (a row is the list of pushes applied to it), bytes of records, time (a lease is a flag that lapses
//! before its holder is removed, and a paused process is one whose messages are not delivered), and the shipped
//! coordinator and shard loop: what they must do for [`Replica`](gradwire::chain::Replica) is written down here once
//! more, in `node.rs` and `authority.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod authority;
mod checks;
mod client;
mod exhaustive;
mod faults;
mod message;
mod node;
mod schedules;
mod world;
