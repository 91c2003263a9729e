//! Claim: what is not arithmetic stays cheap beside it. A header costs tens of nanoseconds each way, the name of a key list
//! is computed near the speed of memory, and text becomes examples faster than by the plain way.
//!
//! Unit: headers a second; bytes of keys; bytes of text. Baseline: fields written one by one with a table-driven
//! checksum; the standard library's hasher; `split` and `parse`. Bound: a copy of the same bytes, for headers with the
//! fastest checksum over them. Readers run with their own thread, as in training, so a claim about them includes the
//! hand-over of blocks and, on a machine with one core, both threads' work; text is in memory, so no disk is measured.
#![allow(clippy::expect_used, reason = "a bench whose input does not parse has nothing to measure: it stops")]

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::hash::Hasher;
use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use gradwire::data::{FeatureSpec, Format, Source, Stream};
use gradwire::wire::ids::{Clock, Epoch, PartitionId, RequestId, Sequence, SessionId, ShardId, TableId};
use gradwire::wire::{HEADER_BYTES, Header, Kind, key_digest};
use gradwire_bench::{Claim, Random, Work, criterion, distinct_sorted};
use gradwire_kernels::{Isa, crc32c};

/// Rows of text: some 30 MB of libsvm, so that starting a thread does not count.
const ROWS: usize = 200_000;
const FEATURES: usize = 12;

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

/// Text that lives as long as the process, which a parser thread may outlive its stream by.
fn leaked(text: String) -> &'static [u8] {
    Box::leak(text.into_bytes().into_boxed_slice())
}

/// `value` writes what follows the colon.
fn libsvm_text(mut value: impl FnMut(&mut String, &mut Random)) -> &'static [u8] {
    let mut random = Random(2);
    let mut text = String::new();
    for _ in 0..ROWS {
        text.push(if random.below(4) == 0 { '1' } else { '0' });
        for key in distinct_sorted(&mut random, FEATURES, 10_000_000) {
            let _ = write!(text, " {key}:");
            value(&mut text, &mut random);
        }
        text.push('\n');
    }
    leaked(text)
}

/// Eight columns, like the bundled flights.
fn csv_text() -> &'static [u8] {
    let mut random = Random(3);
    let mut text = "delay,month,day,hour,carrier,origin,dest,distance\n".to_owned();
    for _ in 0..ROWS {
        let (delay, month, day, hour) =
            (random.below(60), random.below(12) + 1, random.below(31) + 1, random.below(24));
        let (carrier, origin, dest, distance) =
            (random.below(16), random.below(3), random.below(105), random.below(3000));
        let _ = writeln!(text, "{delay},{month},{day},{hour},C{carrier},O{origin},D{dest},{distance}");
    }
    leaked(text)
}

fn csv_spec() -> FeatureSpec {
    FeatureSpec::new("delay > 15")
        .expect("a good label")
        .categorical("month,day,hour,carrier,origin,dest")
        .cross("origin:dest,month:day")
        .numeric("distance")
}

/// Reads all of `text` as training does, giving blocks back; the number of examples.
fn read_all(text: &'static [u8], format: &Format) -> usize {
    let source = Source::Memory { name: "the bench's text", bytes: text };
    let mut stream = Stream::open(vec![source], format).expect("text in memory opens");
    let mut rows = 0;
    while let Some(block) = stream.next() {
        let block = block.expect("the bench's text parses");
        rows += block.len();
        stream.recycle(block);
    }
    assert_eq!(rows, ROWS, "every row is read");
    rows
}

fn libsvm_by_split(text: &[u8]) -> usize {
    let text = std::str::from_utf8(text).expect("ASCII");
    let (mut labels, mut keys, mut values) = (Vec::<f32>::new(), Vec::<u64>::new(), Vec::<f32>::new());
    for line in text.lines() {
        let mut tokens = line.split_whitespace();
        labels.push(tokens.next().and_then(|label| label.parse().ok()).expect("a label"));
        for token in tokens {
            let (key, value) = token.split_once(':').expect("key:value");
            keys.push(key.parse().expect("a key"));
            values.push(value.parse().expect("a value"));
        }
    }
    black_box((&keys, &values));
    labels.len()
}

fn csv_by_split(text: &[u8]) -> usize {
    let text = std::str::from_utf8(text).expect("ASCII");
    let hash = |field: u64, cells: &[&str]| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(field);
        cells.iter().for_each(|cell| hasher.write(cell.as_bytes()));
        hasher.finish()
    };
    let (mut labels, mut keys, mut values) = (Vec::<f32>::new(), Vec::<u64>::new(), Vec::<f32>::new());
    for line in text.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let delay: f32 = cells[0].parse().expect("a number");
        labels.push(if delay > 15.0 { 1.0 } else { 0.0 });
        for column in 1..7 {
            keys.push(hash(column as u64, &cells[column..=column]));
            values.push(1.0);
        }
        keys.push(hash(7, &[cells[5], cells[6]]));
        keys.push(hash(8, &[cells[1], cells[2]]));
        keys.push(hash(9, &[]));
        values.extend([1.0, 1.0, cells[7].parse().expect("a number")]);
    }
    black_box((&keys, &values));
    labels.len()
}

fn readers(criterion: &mut Criterion) {
    type Plain = fn(&[u8]) -> usize;
    let ones = libsvm_text(|text, _| text.push('1'));
    let decimals = libsvm_text(|text, random| {
        let _ = write!(text, "0.{:04}", random.below(10_000));
    });
    let csv = Format::Csv(csv_spec());
    let inputs: [(&str, &'static [u8], &Format, Plain); 3] = [
        ("libsvm, values 1", ones, &Format::Libsvm, libsvm_by_split),
        ("libsvm, decimals", decimals, &Format::Libsvm, libsvm_by_split),
        ("csv, 9 features", csv_text(), &csv, csv_by_split),
    ];
    for (name, text, format, plain) in inputs {
        let mut copy = text.to_vec();
        let mut claim = Claim::new(criterion, format!("codec/{name}"), Work::Bytes(text.len() as u64));
        claim.baseline("split and parse", || plain(text));
        claim.case("stream", || read_all(text, format));
        claim.bound("memcpy", || copy.copy_from_slice(black_box(text)));
        claim.finish();
    }
}

fn main() {
    let mut short = criterion(Duration::from_millis(300));
    headers(&mut short);
    digests(&mut short);
    let mut long = criterion(Duration::from_secs(1));
    readers(&mut long);
    long.final_summary();
}
