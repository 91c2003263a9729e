use std::panic::catch_unwind;

use gradwire_kernels::{Isa, PROBED_FULL, Plain, Probe, Prober, probe_bucket, run_compiled, stored_form};

use crate::isas;
use crate::numbers::Random;

/// Sixteen words: a bucket of `lanes` keys, `used` of them filled from `keys`, then words that are no keys.
fn bucket(lanes: usize, keys: &[u64], used: u32) -> Vec<u32> {
    let mut words = vec![0u32; 2 * lanes];
    for lane in (0..lanes).filter(|lane| used >> lane & 1 == 1) {
        let stored = stored_form(keys[lane]);
        words[2 * lane] = stored as u32;
        words[2 * lane + 1] = (stored >> 32) as u32;
    }
    words
}

#[test]
fn every_filling_of_every_width_is_probed_like_a_list() {
    let mut random = Random(1);
    // Keys that differ in one half only, the smallest and the largest allowed.
    let keys =
        [0, 1, 1 << 32, u64::MAX - 1, 0xffff_ffff, 0xffff_ffff_0000_0000, random.next(), random.next()];
    let stranger = random.next();
    for lanes in 1..=8 {
        for used in 0..1u32 << lanes {
            let words = bucket(lanes, &keys, used);
            let first_empty = (0..lanes as u32).find(|lane| used >> lane & 1 == 0);
            for (lane, &key) in keys.iter().chain([&stranger]).enumerate() {
                let hit = (lane < lanes && used >> lane & 1 == 1).then_some(lane as u32);
                for isa in isas() {
                    let probe = probe_bucket(isa, &words, lanes, stored_form(key));
                    assert_eq!(probe, Probe { hit, empty: first_empty }, "{isa} {lanes} {used:b} {key:#x}");
                }
            }
        }
    }
}

#[test]
fn what_follows_the_keys_is_not_probed() {
    for isa in isas() {
        for lanes in 1..=7 {
            let keys = [10, 11, 12, 13, 14, 15, 16, 17];
            // The next lane holds a key, or is zero; neither may be seen.
            let mut words = bucket(8, &keys, 0xff);
            assert_eq!(
                probe_bucket(isa, &words, lanes, stored_form(keys[lanes])),
                Probe { hit: None, empty: None }
            );
            words[2 * lanes..].fill(0);
            assert_eq!(probe_bucket(isa, &words, lanes, stored_form(99)), Probe { hit: None, empty: None });
        }
    }
}

#[test]
fn a_bucket_past_the_end_is_refused() {
    let memory = [0u32; 32];
    for isa in isas() {
        for lanes in 1..=8 {
            assert!(
                catch_unwind(|| probe_bucket(isa, &memory[..2 * lanes], lanes, 1)).is_ok(),
                "{isa} {lanes}"
            );
            assert!(
                catch_unwind(|| probe_bucket(isa, &memory[..2 * lanes - 1], lanes, 1)).is_err(),
                "{isa} {lanes}"
            );
        }
        assert!(catch_unwind(|| probe_bucket(isa, &memory, 0, 1)).is_err());
        assert!(catch_unwind(|| probe_bucket(isa, &memory, 9, 1)).is_err());
    }
}

/// Probes every key in its bucket as compiled work does.
struct ProbeAll<'a> {
    buckets: &'a [Vec<u32>],
    lanes: usize,
    keys: &'a [u64],
}

impl Plain for ProbeAll<'_> {
    type Output = Vec<u32>;

    fn run<P: Prober>(self, prober: P) -> Vec<u32> {
        let pairs = self.buckets.iter().zip(self.keys);
        pairs.map(|(bucket, key)| prober.probe(bucket, self.lanes, *key)).collect()
    }
}

#[test]
fn a_prober_answers_like_a_single_probe_and_refuses_a_short_bucket() {
    let mut random = Random(7);
    for lanes in 1..=8 {
        let lists: Vec<Vec<u64>> = (0..300).map(|_| (0..lanes).map(|_| random.next()).collect()).collect();
        let buckets: Vec<Vec<u32>> =
            lists.iter().map(|keys| bucket(lanes, keys, (random.next() | random.next()) as u32)).collect();
        let keys: Vec<u64> =
            lists.iter().map(|keys| keys[random.below(lanes)] ^ (random.next() & 1)).collect();
        for isa in isas() {
            let answers = run_compiled(isa, ProbeAll { buckets: &buckets, lanes, keys: &keys });
            for ((answer, bucket), key) in answers.iter().zip(&buckets).zip(&keys) {
                let expected = match probe_bucket(Isa::Scalar, bucket, lanes, stored_form(*key)) {
                    Probe { hit: Some(lane), .. } => lane,
                    Probe { empty: Some(lane), .. } => 8 + lane,
                    _ => PROBED_FULL,
                };
                assert_eq!(*answer, expected, "{isa} {lanes} {key:#x}");
            }
            let short = [vec![0; 2 * lanes - 1]];
            let refused = catch_unwind(|| run_compiled(isa, ProbeAll { buckets: &short, lanes, keys: &[1] }));
            assert!(refused.is_err(), "{isa} {lanes}");
        }
    }
}
