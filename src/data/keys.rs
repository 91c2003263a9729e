//! From columns and cells to 64-bit keys: a format of its own, since models are kept.
//!
//! With `h = XXH3-64` (seed 0) and `mix` the SplitMix64 finaliser:
//! ```text
//! field(kind, names) = h(kind byte, then for each name: its length as u64 little-endian, its bytes)
//! categorical A:   key = mix(field('c', [A]) ^ h(cell A))
//! cross A:B[:C…]:  key = mix(mix(field('x', [A, B]) ^ h(cell A)) ^ h(cell B)) …
//! numeric C:       key = mix(field('n', [C])), and the cell is the value
//! ```
//! Lengths in front of names, and a step of its own for each cell, leave no two different inputs that hash the same bytes.
//! Each used cell is hashed once, whatever number of crosses it is in. The one key a table cannot hold, u64::MAX, becomes
//! u64::MAX - 1. Two features collide with probability 2^-64: a million features, 3e-8.

use xxhash_rust::xxh3::xxh3_64;

/// What a field's key means; the byte is part of the format.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Categorical = b'c' as isize,
    Cross = b'x' as isize,
    Numeric = b'n' as isize,
}

/// The identity of a field: its kind and the names of its columns.
pub(super) fn field(kind: Kind, names: &[impl AsRef<str>]) -> u64 {
    let mut bytes = vec![kind as u8];
    for name in names {
        let name = name.as_ref().as_bytes();
        bytes.extend_from_slice(&(name.len() as u64).to_le_bytes());
        bytes.extend_from_slice(name);
    }
    xxh3_64(&bytes)
}

/// The hash of a cell.
#[inline]
pub(super) fn cell(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// The SplitMix64 finaliser (Steele, Lea, Flood 2014): a bijection in which each bit depends on all.
#[inline]
pub(super) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The key that stands for `state`.
#[inline]
pub(super) fn key(state: u64) -> u64 {
    state.min(u64::MAX - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_never_change() {
        // Models on disk hold these; a change here needs a new model format.
        let categorical = key(mix(field(Kind::Categorical, &["carrier"]) ^ cell(b"UA")));
        let cross = field(Kind::Cross, &["origin", "dest"]);
        let cross = key(mix(mix(cross ^ cell(b"EWR")) ^ cell(b"IAH")));
        let numeric = key(mix(field(Kind::Numeric, &["distance"])));
        let empty = key(mix(field(Kind::Categorical, &[""]) ^ cell(b"")));
        let pinned = [10132552657583073046, 3717843518541391640, 11634557929009543475, 12290128679589609022];
        assert_eq!([categorical, cross, numeric, empty], pinned);
    }

    #[test]
    fn names_and_cells_cannot_run_together() {
        assert_ne!(field(Kind::Cross, &["ab", "c"]), field(Kind::Cross, &["a", "bc"]));
        assert_ne!(field(Kind::Categorical, &["a"]), field(Kind::Numeric, &["a"]));
        let cross = |a: &[u8], b: &[u8]| mix(mix(7 ^ cell(a)) ^ cell(b));
        assert_ne!(cross(b"ab", b"c"), cross(b"a", b"bc"));
        assert_ne!(cross(b"a", b"b"), cross(b"b", b"a"));
    }

    #[test]
    fn the_forbidden_key_is_mapped_away() {
        assert_eq!(key(u64::MAX), u64::MAX - 1);
        assert_eq!(key(5), 5);
    }
}
