//! The rows of an answer between store and lane.

use zerocopy::IntoBytes;

use super::keys::Naming;
use super::rows::Rows;
use crate::wire::{Header, PullStatus};

/// What the pieces of an answer are made in; its memory is used again and again.
#[derive(Default)]
pub(super) struct Piece {
    values: Vec<f32>,
    found: Vec<u64>,
    /// Bits of a piece that does not start at a word of `found`.
    shifted: [u64; 1],
    /// Row of the answer that `values` starts with; none when nothing was read yet.
    base: Option<usize>,
    /// Rows that `values` holds.
    rows: usize,
    /// They are all rows of the answer.
    whole: bool,
}

impl Piece {
    /// Forgets the answer before.
    pub(super) fn empty(&mut self) {
        (self.base, self.whole) = (None, false);
    }

    /// Reads what the next piece needs: its rows, or, of a list that is kept, all rows at once.
    #[expect(clippy::too_many_arguments, reason = "one private caller; a struct would only name them twice")]
    pub(super) fn load(
        &mut self,
        rows: &mut Rows,
        request: &Header,
        naming: Naming<'_>,
        first: usize,
        count: usize,
        total: usize,
        dim: usize,
    ) -> Result<(), PullStatus> {
        if self.whole {
            return Ok(());
        }
        if rows.keeps(request, naming) {
            self.fit(total, dim);
            rows.read_kept(request, naming, &mut self.values[..total * dim], &mut self.found)?;
            (self.base, self.whole) = (Some(0), true);
        } else {
            self.fit(count, dim);
            rows.read(request, naming, first, count, &mut self.values[..count * dim], &mut self.found)?;
            self.base = Some(first);
        }
        Ok(())
    }

    /// The found bits and the values of `count` rows from row `first` of the answer.
    pub(super) fn part(&mut self, first: usize, count: usize, dim: usize) -> (&[u8], &[u8]) {
        if count == 0 {
            return (&[], &[]);
        }
        assert!(self.base.is_some_and(|base| base <= first), "row {first} was not read");
        let skip = first - self.base.unwrap_or(first);
        let values = self.values[skip * dim..(skip + count) * dim].as_bytes();
        let (word, shift) = (skip / 64, skip % 64);
        let words = count.div_ceil(64);
        let whole_words = shift == 0 && (count.is_multiple_of(64) || skip + count == self.rows);
        if whole_words {
            return (self.found[word..word + words].as_bytes(), values);
        }
        assert!(count < 64, "a piece of {count} rows starts inside a word");
        let low = self.found[word] >> shift;
        let high = match self.found.get(word + 1) {
            Some(next) if shift > 0 => next << (64 - shift),
            _ => 0,
        };
        self.shifted = [(low | high) & ((1 << count) - 1)];
        (self.shifted.as_bytes(), values)
    }

    /// Makes room; what it held before is overwritten by the read.
    fn fit(&mut self, count: usize, dim: usize) {
        if self.values.len() < count * dim {
            self.values.resize(count * dim, 0.0);
        }
        self.found.resize(count.div_ceil(64), 0);
        self.rows = count;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_piece_has_the_bits_of_its_own_rows(bits in prop::collection::vec(any::<bool>(), 1..400), step in 1usize..200) {
            let step = if step >= 64 { step / 64 * 64 } else { step };
            let mut piece = Piece { values: vec![0.0; bits.len()], base: Some(0), rows: bits.len(), whole: true, ..Piece::default() };
            piece.found = vec![0; bits.len().div_ceil(64)];
            for (at, _) in bits.iter().enumerate().filter(|(_, bit)| **bit) {
                piece.found[at / 64] |= 1 << (at % 64);
            }
            for first in (0..bits.len()).step_by(step) {
                let count = step.min(bits.len() - first);
                let (found, values) = piece.part(first, count, 1);
                prop_assert_eq!((found.len(), values.len()), (count.div_ceil(64) * 8, count * 4));
                for row in 0..count.div_ceil(64) * 64 {
                    let bit = found[row / 8] >> (row % 8) & 1 == 1;
                    prop_assert_eq!(bit, row < count && bits[first + row], "row {} of {}", row, first);
                }
            }
        }
    }
}
