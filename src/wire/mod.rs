//! Record layouts: what travels on a lane, byte for byte.
//!
//! Every record is an 80-byte [`Header`] and `header.length` bytes of payload, padded to 8 so that the next
//! header and every array inside a payload is aligned. Multi-byte fields are little-endian. A payload opens
//! with the fixed body of its [`Kind`] ([`PushBody`], [`PullBody`], …), then keys (u64), then values.
//!
//! Parsers are total: whatever bytes a peer sends, the answer is a value or a [`WireError`]. Unknown optional
//! flags (low half of `flags`) are skipped, unknown required ones (high half) refused. Identity and order
//! belong to (session, partition), never to the lane that carried the record.
//!
//! The header's `request` tells sendings apart: a retry or a reply repeats the `request` of the very record it
//! answers, so that an answer to an earlier sending is known as such.
//!
//! Nothing here allocates, waits or knows of lanes. Layouts are pinned by fixtures in `tests/data`.

mod body;
pub mod control_frame;
pub mod fuzz;
mod header;
pub mod ids;

pub use body::{
    ChunkBody, ClockEntry, CopiedBody, CountBody, CountReplyBody, Encoding, ExportBody, ExportReplyBody,
    KeyForm, LINK_JOINER, LINK_SUCCESSOR, Level, LinkBody, LinkedBody, MetaBody, NO_CLOCK, OutcomeBody,
    PULL_STRONG, PullBody, PullReplyBody, PullStatus, PushBody, PushOp, RefusalCode, RefusedEntry, RetryBody,
    RetryCode, WANT_BATCHES, WANT_EVERYTHING, key_digest, padded,
};
pub use header::{HEADER_BYTES, Header, Kind, MAGIC, WIRE_VERSION, WireError};
