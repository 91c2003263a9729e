//! Values of a row before its first push: from (table seed, key) alone, so that every replica and every pull of an
//! absent key agree.
//!
//! `Uniform { scale }`: the bits of a counter-mode mix (splitmix64, Steele, Lea and Flood 2014) over seed, key and
//! position give an integer in `[-2^23, 2^23)`. Its conversion to f32 and the product with 2^-23 are exact; the product with
//! `scale` rounds once and can't reach `scale`. No libm, no vector reduction: identical everywhere.

/// Odd constant of splitmix64: its counter's step.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Writes the initial values of `key` for `Uniform { scale }`.
pub(super) fn uniform(seed: u64, key: u64, scale: f32, values: &mut [f32]) {
    let mut counter = mix(seed ^ mix(key.wrapping_add(STEP)));
    for pair in values.chunks_mut(2) {
        counter = counter.wrapping_add(STEP);
        let bits = mix(counter);
        for (value, half) in pair.iter_mut().zip([bits as u32, (bits >> 32) as u32]) {
            *value = unit(half) * scale;
        }
    }
}

/// The top 24 bits as a number in `[-1, 1)`, exact.
fn unit(bits: u32) -> f32 {
    const TWO_TO_MINUS_23: f32 = 1.0 / 8_388_608.0;
    ((bits >> 8) as i32 - (1 << 23)) as f32 * TWO_TO_MINUS_23
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_the_range_are_exact() {
        for scale in [0.25, f32::MAX, f32::MIN_POSITIVE, 0.1] {
            assert_eq!(unit(0) * scale, -scale);
            assert!(unit(u32::MAX) * scale < scale);
        }
    }

    #[test]
    fn values_fill_the_range_evenly_and_depend_on_seed_key_and_position() {
        let mut values = [0.0; 3];
        let mut counts = [0_u32; 16];
        let mut sum = 0.0_f64;
        for key in 0..20_000 {
            uniform(7, key, 2.0, &mut values);
            for value in values {
                assert!((-2.0..2.0).contains(&value));
                counts[((value + 2.0) * 4.0) as usize] += 1;
                sum += f64::from(value);
            }
        }
        assert!(counts.iter().all(|count| (3_400..4_100).contains(count)), "{counts:?}");
        assert!((sum / 60_000.0).abs() < 0.02, "{sum}");
        let mut other = [0.0; 3];
        uniform(7, 1, 1.0, &mut values);
        uniform(8, 1, 1.0, &mut other);
        assert_ne!(values, other);
        assert_ne!(values[0], values[1]);
    }

    #[test]
    fn the_values_of_a_key_are_fixed_for_ever() {
        let mut values = [0.0; 3];
        uniform(42, 7, 1.0, &mut values);
        assert_eq!(values.map(f32::to_bits), FIXED, "a change makes every saved seed another model");
    }

    /// Computed apart, in exact integers.
    const FIXED: [u32; 3] = [0xbf75_f2ee, 0x3f3d_6e8a, 0xbe5e_a130];
}
