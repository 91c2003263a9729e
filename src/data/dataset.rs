//! All examples in memory, packed for being read in random order.
//!
//! A row is one stretch of 32-bit words: how many entries, which forms they have and its label, then the columns, then the
//! values unless all are 1. Columns take one word each where all of the row fit, as numbered features do. So a row costs a
//! cache miss or two and one for its place, instead of one in each of four arrays, and both are asked for some rows ahead.
//! Words are in arenas, whose huge pages make writing them cheap when loading and finding them cheap when training.

use gradwire_ffi::arena::Arena;
use gradwire_kernels::prefetch_item;

use super::{DataError, Examples};
use crate::linalg::Row;

/// Examples in memory, in file order, at most 2^32 - 1 of them so that an order of rows takes four bytes a row.
#[derive(Default)]
pub struct Dataset {
    arenas: Vec<Arena>,
    /// Words in use of the last arena.
    used: usize,
    /// Words in use of all.
    words: usize,
    /// Where each row is.
    places: Vec<Place>,
}

/// Of a row.
#[derive(Clone, Copy)]
struct Place {
    arena: u32,
    word: u32,
}

/// Words of an arena: 64 MiB of addresses, of which as many huge pages are memory as are written. A longer row gets a longer
/// one.
const ARENA_WORDS: usize = 1 << 24;

/// Words before a row's entries: how many there are, and its [`flags`](LABEL).
const HEAD: usize = 2;
/// The label is 1.
const LABEL: u32 = 1;
/// Columns take two words each, the lower half first.
const WIDE: u32 = 2;
/// Values follow.
const VALUES: u32 = 4;

/// Rows ahead of the one being copied whose words are asked for, and whose places.
const WORDS_AHEAD: usize = 12;
const PLACES_AHEAD: usize = 24;
/// Words of a cache line.
const LINE_WORDS: usize = 16;

impl Dataset {
    /// Adds a block. Fails when the rows would no longer be countable in 32 bits, or memory is short.
    pub fn append(&mut self, block: &Examples) -> Result<(), DataError> {
        let rows = self.len() + block.len();
        if rows > u32::MAX as usize {
            return Err(DataError::TooManyRows { rows });
        }
        for (row, &label) in block.labels.iter().enumerate() {
            self.push(label, block.rows.row(row))?;
        }
        Ok(())
    }

    fn push(&mut self, label: f32, row: Row<'_, u64>) -> Result<(), DataError> {
        let entries = row.columns.len();
        let wide = row.columns.iter().fold(0, |all, column| all | column) > u64::from(u32::MAX);
        let values = row.values.filter(|values| values.iter().any(|&value| value != 1.0));
        let flags = if label > 0.0 { LABEL } else { 0 }
            | if wide { WIDE } else { 0 }
            | if values.is_some() { VALUES } else { 0 };
        let width = entries << u32::from(wide);
        let words = self.room(HEAD + width + values.map_or(0, <[f32]>::len))?;
        let (head, rest) = words.split_at_mut(HEAD);
        let (columns, value_words) = rest.split_at_mut(width);
        head.copy_from_slice(&[entries as u32, flags]);
        if wide {
            for (pair, &column) in columns.as_chunks_mut::<2>().0.iter_mut().zip(row.columns) {
                *pair = [column as u32, (column >> 32) as u32];
            }
        } else {
            for (word, &column) in columns.iter_mut().zip(row.columns) {
                *word = column as u32;
            }
        }
        for (word, value) in value_words.iter_mut().zip(values.unwrap_or_default()) {
            *word = value.to_bits();
        }
        Ok(())
    }

    /// The words of one more row.
    fn room(&mut self, words: usize) -> Result<&mut [u32], DataError> {
        let short = || DataError::Memory { bytes: 4 * words.max(ARENA_WORDS) };
        if self.arenas.last().is_none_or(|last| last.len() - self.used < words) {
            self.arenas.push(Arena::reserve(words.max(ARENA_WORDS)).map_err(|_| short())?);
            self.used = 0;
        }
        let (arena, start) = (self.arenas.len() - 1, self.used);
        self.places.push(Place { arena: arena as u32, word: start as u32 });
        self.used += words;
        self.words += words;
        Ok(&mut self.arenas[arena].words_mut()[start..start + words])
    }

    /// The number of examples.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Bytes of the examples, without spare capacity.
    pub fn bytes(&self) -> usize {
        4 * self.words + size_of_val(&self.places[..])
    }

    /// A copy of all examples, in file order.
    pub fn examples(&self) -> Examples {
        let mut out = Examples::default();
        (0..self.len()).for_each(|row| self.copy(row, &mut out));
        out
    }

    /// Replaces `out` by the rows named by `order`, in that order.
    pub fn gather(&self, order: &[u32], out: &mut Examples) {
        out.clear();
        for (at, &row) in order.iter().enumerate() {
            if let Some(&later) = order.get(at + PLACES_AHEAD) {
                prefetch_item(&self.places, later as usize);
            }
            if let Some(&later) = order.get(at + WORDS_AHEAD) {
                let Place { arena, word } = self.places[later as usize];
                let words = self.arenas[arena as usize].words();
                prefetch_item(words, word as usize);
                prefetch_item(words, word as usize + LINE_WORDS);
            }
            self.copy(row as usize, out);
        }
    }

    #[inline]
    fn copy(&self, row: usize, out: &mut Examples) {
        let Place { arena, word } = self.places[row];
        let words = &self.arenas[arena as usize].words()[word as usize..];
        let (entries, flags) = (words[0] as usize, words[1]);
        let (columns, rest) = words[HEAD..].split_at(entries << u32::from(flags & WIDE != 0));
        let values = if flags & VALUES == 0 { None } else { Some(&rest[..entries]) };
        if flags & WIDE == 0 {
            out.rows.push_row_of(columns.iter().map(|&word| u64::from(word)), values);
        } else {
            let pairs = columns.as_chunks::<2>().0.iter();
            out.rows.push_row_of(pairs.map(|&[low, high]| u64::from(low) | u64::from(high) << 32), values);
        }
        out.labels.push((flags & LABEL) as f32);
    }

    /// Splits into (rows whose index is no multiple of `every`, the others): train and test.
    ///
    /// Panics when `every` is 0.
    pub fn split_every(&self, every: usize) -> Result<(Self, Self), DataError> {
        let (mut rest, mut picked) = (Self::default(), Self::default());
        let mut one = Examples::default();
        for row in 0..self.len() {
            one.clear();
            self.copy(row, &mut one);
            let part = if row % every == 0 { &mut picked } else { &mut rest };
            part.append(&one)?;
        }
        Ok((rest, picked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(keys: &[u64], value: f32) -> Examples {
        let mut examples = Examples::default();
        for (at, &key) in keys.iter().enumerate() {
            examples.labels.push((at % 2) as f32);
            examples.rows.push(key, value);
            (0..at as u64).for_each(|more| examples.rows.push(key + 1 + more, 1.0));
            examples.rows.end_row();
        }
        examples.labels.push(1.0);
        examples.rows.end_row();
        examples
    }

    #[test]
    fn rows_of_every_form_come_back_in_any_order() {
        const LARGE: u64 = u32::MAX as u64;
        let blocks = [
            block(&[1, 2, 3], 1.0),
            block(&[3, LARGE - 1, LARGE - 1, LARGE, LARGE + 1], 1.0),
            block(&[4, u64::MAX - 2], -0.5),
            block(&[7, 8], 1.0),
        ];
        let (mut dataset, mut all) = (Dataset::default(), Examples::default());
        for block in &blocks {
            dataset.append(block).unwrap();
            all.append(block);
        }
        assert_eq!(dataset.examples(), all);
        let mut gathered = Examples::default();
        let order: Vec<u32> = (0..all.len() as u32).rev().collect();
        dataset.gather(&order, &mut gathered);
        let mut wanted = Examples::default();
        order.iter().for_each(|&row| wanted.push_from(&all, row as usize));
        assert_eq!(gathered.labels, wanted.labels);
        for row in 0..wanted.len() {
            let ones = [1.0; 9];
            let entries = |examples: &Examples| {
                let row = examples.rows.row(row);
                let values = row.values.unwrap_or(&ones[..row.columns.len()]).to_vec();
                (row.columns.to_vec(), values)
            };
            assert_eq!(entries(&gathered), entries(&wanted));
        }
        let (rest, picked) = dataset.split_every(3).unwrap();
        assert_eq!((rest.len() + picked.len(), picked.len()), (all.len(), all.len().div_ceil(3)));
        assert_eq!(picked.examples().rows.row(1).columns, all.rows.row(3).columns);
    }

    #[test]
    fn small_columns_and_ones_take_little_memory() {
        let (mut narrow, mut wide, mut explicit) =
            (Dataset::default(), Dataset::default(), Dataset::default());
        narrow.append(&block(&[1, 2, 3], 1.0)).unwrap();
        wide.append(&block(&[1 << 40, 2 << 40, 3 << 40], 1.0)).unwrap();
        explicit.append(&block(&[1, 2, 3], 0.5)).unwrap();
        assert_eq!(narrow.bytes(), 4 * (HEAD + 2) * 4 + 6 * 4);
        assert_eq!(wide.bytes() - narrow.bytes(), 6 * 4);
        assert_eq!(explicit.bytes() - narrow.bytes(), 6 * 4);
    }

    #[test]
    fn a_row_longer_than_an_arena_is_held() {
        let mut examples = block(&[5], 1.0);
        (0..ARENA_WORDS as u64 + 5).for_each(|column| examples.rows.push(column, 1.0));
        examples.rows.end_row();
        examples.labels.push(0.0);
        examples.append(&block(&[6], 1.0));
        let mut dataset = Dataset::default();
        dataset.append(&examples).unwrap();
        assert_eq!(dataset.arenas.len(), 2);
        assert!(dataset.examples() == examples);
    }
}
