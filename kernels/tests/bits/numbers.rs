//! Deterministic test numbers: ordinary ones, and all kinds that break kernels.

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Uniform in [-1, 1).
    pub(crate) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Mostly ordinary; about one in `rarity` is awkward.
    pub(crate) fn float(&mut self, rarity: usize) -> f32 {
        if self.below(rarity) == 0 {
            f32::from_bits(AWKWARD[self.below(AWKWARD.len())])
        } else {
            self.unit() * [1.0, 1e-3, 40.0][self.below(3)]
        }
    }
}

/// Bits of NaNs with several payloads and signs, infinities, zeros, denormals, huge and tiny numbers.
pub(crate) const AWKWARD: [u32; 24] = [
    0x7fc0_0000,
    0xffc0_0000,
    0x7f80_0001,
    0xff80_0001,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fc0_1234, // NaN
    0x7f80_0000,
    0xff80_0000, // infinities
    0x0000_0000,
    0x8000_0000, // zeros
    0x0000_0001,
    0x8000_0001,
    0x007f_ffff,
    0x807f_ffff,
    0x0040_0000, // denormals
    0x0080_0000,
    0x8080_0000, // smallest normals
    0x7f7f_ffff,
    0xff7f_ffff,
    0x7f7f_8000,
    0x5f00_0000, // huge
    0x3f80_0000,
    0x1f80_0000, // one; its square is the smallest normal
];

/// All bits, for messages that show what differs.
pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

pub(crate) fn canonical(x: f32) -> f32 {
    if x.is_nan() { f32::from_bits(0x7fc0_0000) } else { x }
}
