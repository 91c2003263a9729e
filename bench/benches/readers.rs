//! Claim: one core turns libsvm text into examples at 1 GB/s and more, csv with hashed crosses at 400 MB/s, and a minibatch's
//! keys into sorted distinct ones with local columns at hundreds of millions of entries a second.
//!
//! Unit: bytes of text; entries. Baseline: `split` and `parse`; sort, unique and binary search. Bound: a copy of the same
//! bytes. The claims count wall time, with as many parser threads as they say. What a core does is told apart, from the
//! process's processor time: cutting, parsing, handing over and taking blocks together, best of some readings, since a
//! shared machine only ever adds to it. Text is in memory, so no disk is measured.
#![allow(clippy::expect_used, reason = "a bench whose input does not parse has nothing to measure: it stops")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use gradwire::data::{FeatureSpec, Format, Source, Stream, flights_csv, flights_spec};
use gradwire::linalg::{Csr, Localized, Localizer};
use gradwire_bench::{Claim, Random, Work, criterion, distinct_sorted};

/// Bytes of each text, about.
const TEXT: usize = 8 << 20;
/// Rows and entries a row of a minibatch.
const ROWS: usize = 1000;
const ENTRIES: usize = 12;

struct Input {
    name: &'static str,
    text: &'static [u8],
    format: Format,
    rows: usize,
}

/// Text that lives as long as the process, which a parser thread may outlive its stream by.
fn leaked(text: Vec<u8>) -> &'static [u8] {
    Box::leak(text.into_boxed_slice())
}

/// Rows of `features` sorted indices below `space`; `value` writes what follows the colon.
fn libsvm(
    name: &'static str,
    features: usize,
    space: u64,
    mut value: impl FnMut(&mut String, &mut Random),
) -> Input {
    let mut random = Random(2);
    let mut text = String::new();
    let mut rows = 0;
    while text.len() < TEXT {
        text.push(if random.below(4) == 0 { '1' } else { '0' });
        for key in distinct_sorted(&mut random, features, space) {
            let _ = write!(text, " {key}:");
            value(&mut text, &mut random);
        }
        text.push('\n');
        rows += 1;
    }
    Input { name, text: leaked(text.into_bytes()), format: Format::Libsvm, rows }
}

/// One to six digits after the dot.
fn decimal(text: &mut String, random: &mut Random) {
    let digits = random.below(6) as usize + 1;
    let _ = write!(text, "0.{:0digits$}", random.below(10u64.pow(digits as u32)));
}

/// The bundled flights as `quickstart` reads them.
fn flights() -> Input {
    let csv = zstd::decode_all(flights_csv()).expect("the bundled file is whole");
    // Whole once: the months' order is part of its shape.
    let text = csv;
    let format = Format::Csv(flights_spec().expect("a good specification"));
    Input { name: "csv, flights, 12 features of 11 columns", text: leaked(text), format, rows: 327_346 }
}

/// Many columns of which few are used, one a number.
fn wide_csv() -> Input {
    let mut random = Random(3);
    let mut text: String =
        (0..40).map(|column| format!("{}c{column}", if column > 0 { "," } else { "" })).collect();
    text.push('\n');
    let mut rows = 0;
    while text.len() < TEXT {
        for column in 0..40 {
            let _ = write!(text, "{}{}", if column > 0 { "," } else { "" }, random.below(1000));
        }
        text.push('\n');
        rows += 1;
    }
    let spec = FeatureSpec::new("c0 > 750")
        .expect("a good label")
        .categorical("c3,c5,c20")
        .numeric("c7,c8")
        .cross("c3:c5");
    Input {
        name: "csv, 40 columns, 6 features",
        text: leaked(text.into_bytes()),
        format: Format::Csv(spec),
        rows,
    }
}

/// Reads all of the text as training does, giving blocks back.
fn read_all(input: &Input, parsers: usize) -> usize {
    let source = Source::Memory { name: "the bench's text", bytes: input.text };
    let mut stream = Stream::open_with(vec![source], &input.format, parsers).expect("text in memory opens");
    let mut rows = 0;
    while let Some(block) = stream.next() {
        let block = block.expect("the bench's text parses");
        rows += block.len();
        stream.recycle(block);
    }
    assert_eq!(rows, input.rows, "every row is read");
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

/// Every cell split off and kept: less than what the reader does.
fn csv_by_split(text: &[u8]) -> usize {
    let text = std::str::from_utf8(text).expect("ASCII");
    text.lines().map(|line| black_box(line.split(',').collect::<Vec<&str>>()).len()).sum()
}

/// Processor seconds of this process so far, ended threads included; 0 where the system does not tell.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name, which may hold blanks: user and system time are fields 14 and 15, in hundredths.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks = |at: usize| after.split_whitespace().nth(at).and_then(|field| field.parse::<f64>().ok());
    (ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / 100.0
}

/// Processor seconds of one call: the best of some readings.
fn processor_seconds_of(mut work: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let (start, mut calls) = (processor_seconds(), 0.0);
        // A hundredth of a second is the unit.
        while processor_seconds() - start < 0.3 {
            (0..16).for_each(|_| work());
            calls += 16.0;
        }
        best = best.min((processor_seconds() - start) / calls);
    }
    best
}

/// Prints what a processor second is enough for, readings of the system's clock aside.
#[allow(clippy::print_stdout, reason = "a bench's output is its result")]
fn a_core(name: &str, amount: f64, unit: &str, work: impl FnMut()) {
    println!("a processor second: {name}: {:.3} {unit}", amount / processor_seconds_of(work));
}

fn readers(criterion: &mut Criterion, measure: bool) {
    let one = |text: &mut String, _: &mut Random| text.push('1');
    let inputs = [
        libsvm("libsvm, values 1, 12 features", 12, 12_000, one),
        libsvm("libsvm, values 1, 39 features", 39, 10_000_000, one),
        libsvm("libsvm, decimals, 8 features", 8, 1_000_000, decimal),
        libsvm("libsvm, decimals, 39 features", 39, 10_000, decimal),
        flights(),
        wide_csv(),
    ];
    for input in &inputs {
        let mut copy = input.text.to_vec();
        if measure {
            let gigabytes = input.text.len() as f64 / 1e9;
            a_core(input.name, gigabytes, "GB", || assert!(read_all(input, 1) > 0));
            a_core("memcpy of the same", gigabytes, "GB", || copy.copy_from_slice(black_box(input.text)));
        }
        let name = format!("readers/{}", input.name);
        let mut claim = Claim::new(criterion, name, Work::Bytes(input.text.len() as u64));
        claim.baseline("split and parse", || match input.format {
            Format::Csv(_) => csv_by_split(input.text),
            _ => libsvm_by_split(input.text),
        });
        claim.case("1 parser", || read_all(input, 1));
        claim.case("2 parsers", || read_all(input, 2));
        claim.bound("memcpy", || copy.copy_from_slice(black_box(input.text)));
        claim.finish();
    }
}

fn sort_and_search(csr: &Csr<u64>) -> (Vec<u64>, Vec<u32>) {
    let mut keys = csr.columns().to_vec();
    keys.sort_unstable();
    keys.dedup();
    let column = |key| keys.partition_point(|other| other < key) as u32;
    let columns = csr.columns().iter().map(column).collect();
    (keys, columns)
}

fn localizer(criterion: &mut Criterion, measure: bool) {
    // A key's chance falls with its number, so that a minibatch repeats some.
    let skewed = |random: &mut Random, space: u64| {
        random.below(space).min(random.below(space)).min(random.below(space))
    };
    let hash = |key: u64| {
        (key + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29).wrapping_mul(0xBF58_476D_1CE4_E5B9)
    };
    for (name, space, hashed) in [
        ("numbered features, space 12,000", 12_000u64, false),
        ("hashed features, space 12,000", 12_000, true),
        ("hashed features, space 10,000,000", 10_000_000, true),
    ] {
        let mut random = Random(9);
        let batches: Vec<Csr<u64>> = (0..32)
            .map(|_| {
                let key = |random: &mut Random| skewed(random, space);
                let entries =
                    (0..ROWS * ENTRIES).map(|_| key(&mut random)).map(|k| if hashed { hash(k) } else { k });
                let offsets = (0..=ROWS).map(|row| row * ENTRIES).collect();
                Csr::from_parts(offsets, entries.collect(), None).expect("good parts")
            })
            .collect();
        let work = Work::Count((ROWS * ENTRIES) as u64, "entries");
        let mut claim = Claim::new(criterion, format!("localize/{name}"), work);
        if measure {
            let (mut localizer, mut out) = (Localizer::new(), Localized::default());
            let entries = (batches.len() * ROWS * ENTRIES) as f64 / 1e6;
            a_core(name, entries, "M entries localized", || {
                batches.iter().for_each(|csr| localizer.localize_into(csr, &mut out));
            });
            a_core(name, entries, "M entries by sort, unique, search", || {
                batches.iter().for_each(|csr| assert!(!black_box(sort_and_search(csr)).0.is_empty()));
            });
        }
        let mut turn = batches.iter().cycle();
        claim.baseline("sort, unique, search", || turn.next().map(sort_and_search));
        let (mut localizer, mut out) = (Localizer::new(), Localized::default());
        let mut turn = batches.iter().cycle();
        claim.case("localizer", || {
            if let Some(csr) = turn.next() {
                localizer.localize_into(csr, &mut out);
            }
            out.keys.len()
        });
        let mut turn = batches.iter().cycle();
        let mut copy = vec![0u64; ROWS * ENTRIES];
        claim.bound("memcpy", || turn.next().map(|csr| copy.copy_from_slice(csr.columns())));
        claim.finish();
    }
}

fn main() {
    let mut long = criterion(Duration::from_secs(1));
    // `cargo bench` says `--bench`; a `--test` run shows only that all of it works.
    let measure = std::env::args().all(|argument| argument != "--test");
    readers(&mut long, measure);
    let mut short = criterion(Duration::from_millis(300));
    localizer(&mut short, measure);
    short.final_summary();
}
