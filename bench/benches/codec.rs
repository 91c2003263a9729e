//! Claim: what is not arithmetic stays cheap beside it. A header costs tens of nanoseconds each way, and the name of a key
//! list is computed near the speed of memory.
//!
//! Unit: headers a second; bytes of keys. Baseline: fields written one by one with a table-driven checksum; the standard
//! library's hasher. Bound: a copy of the same bytes, for headers with the fastest checksum over them.
use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use gradwire::wire::ids::{Clock, Epoch, PartitionId, RequestId, Sequence, SessionId, ShardId, TableId};
use gradwire::wire::{HEADER_BYTES, Header, Kind, key_digest};
use gradwire_bench::{Claim, Random, Work, criterion, distinct_sorted};
use gradwire_kernels::{Isa, crc32c};

fn header() -> Header {
    Header {
        session: SessionId(7),
        request: RequestId(9),
        sequence: Sequence(10),
        epoch: Epoch(11),
        clock: Clock(12),
        shard: ShardId(13),
        table: TableId(14),
        partition: PartitionId(15),
        ..Header::new(Kind::Push, 40_048)
    }
}

/// The plain way: every field appended, then the checksum of what is there.
fn append_header(header: &Header, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(b"GRWR");
    out.extend_from_slice(&1u16.to_le_bytes());
    out.extend_from_slice(&(header.kind as u16).to_le_bytes());
    for field in [header.flags, header.length] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    let (session, request) = (header.session.0, header.request.0);
    for field in [session, header.flow, request, header.sequence.0, header.epoch.0, header.clock.0] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    for field in [header.shard.0, header.table.0, header.partition.0] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    let crc = crc32c(Isa::Scalar, 0, out);
    out.extend_from_slice(&crc.to_le_bytes());
}

fn headers(criterion: &mut Criterion) {
    let one = Work::Count(1, "headers");
    let header = header();
    let bytes = header.to_bytes();
    let mut appended = Vec::with_capacity(HEADER_BYTES);
    append_header(&header, &mut appended);
    assert_eq!(appended, bytes, "the baseline writes the same header");
    let isa = Isa::detected();
    let mut copy = [0u8; HEADER_BYTES];

    let mut claim = Claim::new(criterion, "codec/header write", one);
    claim.baseline("field by field", || append_header(black_box(&header), &mut appended));
    claim.case("to_bytes", || black_box(&header).to_bytes());
    claim.bound("copy and checksum", || {
        copy.copy_from_slice(black_box(&bytes));
        crc32c(isa, 0, &copy[..HEADER_BYTES - 4])
    });
    claim.finish();

    let mut claim = Claim::new(criterion, "codec/header read", one);
    claim.case("read", || Header::read(black_box(&bytes)));
    claim.bound("copy and checksum", || {
        copy.copy_from_slice(black_box(&bytes));
        crc32c(isa, 0, &copy[..HEADER_BYTES - 4])
    });
    claim.finish();
}

fn digests(criterion: &mut Criterion) {
    let keys = distinct_sorted(&mut Random(1), 10_000, 1_000_000);
    let mut copy = keys.clone();
    let mut claim = Claim::new(criterion, "codec/key digest", Work::Bytes(8 * keys.len() as u64));
    claim.baseline("std hasher", || {
        let mut hasher = DefaultHasher::new();
        for &key in &keys {
            hasher.write_u64(key);
        }
        hasher.finish()
    });
    claim.case("key_digest", || key_digest(&keys));
    claim.bound("memcpy", || copy.copy_from_slice(black_box(&keys)));
    claim.finish();
}

fn main() {
    let mut short = criterion(Duration::from_millis(300));
    headers(&mut short);
    digests(&mut short);
    short.final_summary();
}
