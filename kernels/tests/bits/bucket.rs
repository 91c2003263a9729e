use std::panic::catch_unwind;

use gradwire_kernels::{
    BLOCK, CHUNK, Isa, Line, Plain, Prober, Walk, hash_key, run_compiled, spot, stored_form,
};

use crate::isas;
use crate::numbers::Random;

/// A line with `used` of its lanes filled from `keys`.
fn bucket(keys: &[u64], used: u32) -> Line {
    let mut words = [0u32; 16];
    for lane in (0..keys.len()).filter(|lane| used >> lane & 1 == 1) {
        let stored = stored_form(keys[lane]);
        words[2 * lane] = stored as u32;
        words[2 * lane + 1] = (stored >> 32) as u32;
    }
    words
}

struct LanesWith<'a, const LANES: usize>(&'a Line, u64);

impl<const LANES: usize> Plain for LanesWith<'_, LANES> {
    type Output = u32;

    fn run<P: Prober>(self, prober: P) -> u32 {
        prober.lanes_with::<LANES>(self.0, self.1)
    }
}

fn every_width(isa: Isa, line: &Line, stored: u64) -> [u32; 8] {
    [
        run_compiled(isa, LanesWith::<1>(line, stored)),
        run_compiled(isa, LanesWith::<2>(line, stored)),
        run_compiled(isa, LanesWith::<3>(line, stored)),
        run_compiled(isa, LanesWith::<4>(line, stored)),
        run_compiled(isa, LanesWith::<5>(line, stored)),
        run_compiled(isa, LanesWith::<6>(line, stored)),
        run_compiled(isa, LanesWith::<7>(line, stored)),
        run_compiled(isa, LanesWith::<8>(line, stored)),
    ]
}

#[test]
fn a_prober_names_the_lanes_of_a_key_and_the_empty_ones_on_every_instruction_set() {
    let mut random = Random(1);
    // Keys that differ in one half only, the smallest and the largest allowed.
    let keys =
        [0, 1, 1 << 32, u64::MAX - 1, 0xffff_ffff, 0xffff_ffff_0000_0000, random.next(), random.next()];
    let stranger = random.next();
    for used in 0..256u32 {
        let line = bucket(&keys, used);
        for isa in isas() {
            for (lane, &key) in keys.iter().chain([&stranger]).enumerate() {
                let hit = (used >> lane & 1) << lane & 0xff;
                for (width, lanes) in (1..).zip(every_width(isa, &line, stored_form(key))) {
                    // What follows the lanes asked for is not looked at.
                    assert_eq!(lanes, hit & ((1 << width) - 1), "{isa} {width} {used:b} {key:#x}");
                }
            }
            for (width, lanes) in (1..).zip(every_width(isa, &line, 0)) {
                assert_eq!(lanes, !used & ((1 << width) - 1), "{isa} {width} {used:b}");
            }
        }
    }
}

struct Zeros<'a>(&'a [u8; 64]);

impl Plain for Zeros<'_> {
    type Output = u64;

    fn run<P: Prober>(self, prober: P) -> u64 {
        prober.zeros(self.0)
    }
}

#[test]
fn the_zero_bytes_of_a_chunk_are_a_mask() {
    let mut random = Random(2);
    for _ in 0..200 {
        let expected = random.next();
        let bytes = std::array::from_fn(|i| if expected >> i & 1 == 1 { 0 } else { random.next() as u8 | 1 });
        for isa in isas() {
            assert_eq!(run_compiled(isa, Zeros(&bytes)), expected, "{isa}");
        }
    }
}

struct Equal<'a>(&'a [u8; 64], u8);

impl Plain for Equal<'_> {
    type Output = u64;

    fn run<P: Prober>(self, prober: P) -> u64 {
        prober.equal(self.0, self.1)
    }
}

#[test]
fn a_prober_names_the_bytes_of_a_stretch_on_every_instruction_set() {
    for byte in 0..=255u8 {
        for place in 0..64 {
            let mut stretch = [byte; 64];
            for other in [byte ^ 1, byte ^ 0x80, !byte] {
                stretch[place] = other;
                for isa in isas() {
                    assert_eq!(
                        run_compiled(isa, Equal(&stretch, byte)),
                        !(1 << place),
                        "{isa} {byte} {other}"
                    );
                    assert_eq!(run_compiled(isa, Equal(&stretch, other)), 1 << place, "{isa} {byte} {other}");
                }
            }
        }
    }
}

struct PositionsOf(u64, u32);

impl Plain for PositionsOf {
    type Output = [u32; 64];

    fn run<P: Prober>(self, prober: P) -> [u32; 64] {
        let mut out = [7; 64];
        prober.positions(self.0, self.1, &mut out);
        out
    }
}

#[test]
fn the_positions_of_a_mask_are_its_bits_on_every_instruction_set() {
    let mut random = Random(4);
    for turn in 0..400 {
        let mask = match turn % 4 {
            0 => random.next(),
            1 => random.next() & random.next() & random.next(),
            2 => random.next() | random.next() | random.next(),
            _ => [0, 1, 1 << 63, u64::MAX][random.below(4)],
        };
        let base = random.next() as u32 >> 1;
        let wanted: Vec<u32> = (0..64).filter(|i| mask >> i & 1 == 1).map(|i| base + i).collect();
        for isa in isas() {
            let found = run_compiled(isa, PositionsOf(mask, base));
            assert_eq!(found[..wanted.len()], wanted, "{isa} {mask:#x}");
        }
    }
}

struct Hits<'a>(&'a [Line], [u32; BLOCK], [u64; BLOCK]);

impl Plain for Hits<'_> {
    type Output = [u8; BLOCK];

    fn run<P: Prober>(self, prober: P) -> [u8; BLOCK] {
        let mut hits = [0; BLOCK];
        prober.hits::<5>(self.0, &self.1, &self.2, &mut hits);
        hits
    }
}

#[test]
fn a_block_of_keys_is_compared_like_each_of_them_and_a_line_outside_is_refused() {
    let mut random = Random(3);
    let lists: Vec<[u64; 5]> = (0..100).map(|_| std::array::from_fn(|_| random.next())).collect();
    let lines: Vec<Line> =
        lists.iter().map(|keys| bucket(keys, (random.next() | random.next()) as u32)).collect();
    for _ in 0..50 {
        let at: [u32; BLOCK] = std::array::from_fn(|_| random.below(lines.len()) as u32);
        let keys =
            at.map(|at| lists[at as usize][random.below(5)] ^ u64::from(random.next().is_multiple_of(8)));
        for isa in isas() {
            let hits = run_compiled(isa, Hits(&lines, at, keys));
            for i in 0..BLOCK {
                let line = &lines[at[i] as usize];
                let alone = run_compiled(Isa::Scalar, LanesWith::<5>(line, stored_form(keys[i])));
                assert_eq!(u32::from(hits[i]), alone, "{isa}");
            }
        }
        for isa in isas() {
            for outside in [lines.len() as u32, u32::MAX] {
                let mut at = at;
                at[random.below(BLOCK)] = outside;
                assert!(catch_unwind(|| run_compiled(isa, Hits(&lines, at, keys))).is_err(), "{isa}");
            }
        }
    }
}

struct Payloads<'a, const PAYLOAD: usize, const READ: bool>(&'a [Line], [u8; CHUNK], [u32; CHUNK]);

impl<const PAYLOAD: usize, const READ: bool> Plain for Payloads<'_, PAYLOAD, READ> {
    type Output = [u32; CHUNK];

    fn run<P: Prober>(mut self, prober: P) -> [u32; CHUNK] {
        match PAYLOAD {
            2 => prober.payloads::<4, PAYLOAD, READ>(self.0, &self.1, &mut self.2),
            3 => prober.payloads::<3, PAYLOAD, READ>(self.0, &self.1, &mut self.2),
            _ => prober.payloads::<5, PAYLOAD, READ>(self.0, &self.1, &mut self.2),
        }
        self.2
    }
}

#[test]
fn payloads_of_a_chunk_are_those_of_each_lane_and_a_line_outside_is_not_read() {
    let mut random = Random(5);
    let lines: Vec<Line> = (0..50).map(|_| std::array::from_fn(|_| random.next() as u32)).collect();
    for round in 0..100 {
        let at: [u32; CHUNK] = std::array::from_fn(|_| random.below(lines.len()) as u32);
        // One lane, or none; then any bytes, of which the lanes that do not exist count for nothing.
        let hits: [u8; CHUNK] = std::array::from_fn(|_| match round % 2 {
            0 => ((1_u32 << random.below(6)) >> 1) as u8,
            _ => random.next() as u8,
        });
        let expected = |lanes: u32, payload: u32| -> [u32; CHUNK] {
            std::array::from_fn(|i| {
                let lane = (0..lanes).rev().find(|lane| hits[i] >> lane & 1 == 1).unwrap_or(0);
                at[i] * 16 + 2 * lanes + lane * payload
            })
        };
        for isa in isas() {
            let words = expected(5, 1).map(|word| lines[word as usize / 16][word as usize % 16]);
            assert_eq!(run_compiled(isa, Payloads::<1, true>(&lines, hits, at)), words, "{isa}");
            assert_eq!(run_compiled(isa, Payloads::<2, false>(&lines, hits, at)), expected(4, 2), "{isa}");
            assert_eq!(run_compiled(isa, Payloads::<3, false>(&lines, hits, at)), expected(3, 3), "{isa}");
            assert_eq!(run_compiled(isa, Payloads::<4, false>(&lines, hits, at)), expected(5, 4), "{isa}");
            for outside in [lines.len() as u32, u32::MAX] {
                let mut at = at;
                at[random.below(CHUNK)] = outside;
                let read = catch_unwind(|| run_compiled(isa, Payloads::<1, true>(&lines, hits, at)));
                assert!(read.is_err(), "{isa}");
            }
        }
    }
}

struct Locate<'a>(Walk<'a>, [u64; CHUNK], u32);

impl Plain for Locate<'_> {
    type Output = [u32; CHUNK];

    fn run<P: Prober>(self, prober: P) -> [u32; CHUNK] {
        let mut at = [0; CHUNK];
        prober.locate(&self.0, &self.1, self.2, &mut at);
        at
    }
}

#[test]
fn a_chunk_of_keys_is_located_like_each_of_them() {
    let mut random = Random(4);
    let seed = (random.next(), random.next());
    for depth in [0, 1, 5, 12] {
        // The upper half of the directory is one segment with one bit of its own, the others have all of theirs.
        let entries = 1_u32 << depth;
        let half = if depth > 0 { entries / 2 } else { entries };
        let mut spots: Vec<u64> =
            (0..half).map(|i| spot(i, depth, i % 10, (4 + i % 5) << (i % 10))).collect();
        spots.resize(entries as usize, spot(half, 1, 9, 8 << 9));
        let pages: Vec<[u32; 8]> =
            (0..=half).map(|_| std::array::from_fn(|_| random.next() as u32 >> 8)).collect();
        let walk = Walk::new(seed, depth, &spots, &pages);
        for _ in 0..200 {
            let keys: [u64; CHUNK] = std::array::from_fn(|_| random.next());
            for lines_shift in [0, 1] {
                let expected = keys.map(|key| {
                    let hash = hash_key(seed, key);
                    let number = if depth == 0 { 0 } else { (hash >> (64 - depth)) as u32 };
                    let (segment, own, shift, buckets) = match number {
                        i if i < half => (i, depth, i % 10, (4 + i % 5) << (i % 10)),
                        _ => (half, 1, 9, 8 << 9),
                    };
                    let bucket = ((u128::from((hash << own) >> 32) * u128::from(buckets)) >> 32) as u32;
                    let page = pages[segment as usize][(bucket >> shift) as usize];
                    page + ((bucket % (1 << shift)) << lines_shift)
                });
                for isa in isas() {
                    assert_eq!(run_compiled(isa, Locate(walk, keys, lines_shift)), expected, "{isa} {depth}");
                }
            }
        }
    }
}

#[test]
fn a_directory_of_another_depth_and_a_page_outside_its_table_are_refused() {
    let spots = [spot(1, 0, 0, 8)];
    assert!(catch_unwind(|| Walk::new((0, 0), 1, &spots, &[[0; 8]])).is_err());
    for isa in isas() {
        let located = catch_unwind(|| {
            let walk = Walk::new((0, 0), 0, &spots, &[[0; 8]]);
            run_compiled(isa, Locate(walk, [7; CHUNK], 0))
        });
        assert!(located.is_err(), "{isa}");
    }
}
