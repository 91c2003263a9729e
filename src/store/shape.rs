//! Where the rows of a table lie, and how a bucket of its index is cut.
//!
//! A bucket is one or two cache lines: `lanes` keys, then for each lane a payload. *Inline*, the payload is the row: a
//! probe brings key and row in one line, and a row's slot is the offset of its first word. That holds for rows of up to
//! four words; beyond, moving rows on every growth of the index would cost more than the second miss. *Slab*, the
//! payload is the row's slot, and the row stays where it was made.
//!
//! | row words | bucket | lanes | bytes used |
//! |---|---|---|---|
//! | 1, or slab | 64 B | 5 | 60 |
//! | 2 (adagrad or ftrl, dim 1) | 64 B | 4 | 64 |
//! | 3 | 64 B | 3 | 60 |
//! | 4 | 128 B | 5 | 120 (64 B would hold 2 lanes and waste a quarter) |

/// Words of a cache line, the unit in which blocks and buckets are placed.
pub(super) const LINE_WORDS: usize = 16;
/// The slot of a key that has no row.
pub(super) const MISSING: u32 = u32::MAX;

/// Rows of so many words live in the index. A row of one word does not: its slot takes no more of the bucket than the row
/// would, and rows side by side in the order they were made share lines. What is pushed together the first time lies
/// together for good, so named key lists find sixteen rows a line, not one in a bucket each, and hot keys crowd into
/// few lines. It costs those rows four bytes each; a lookup by key pays nothing, since sorted keys of a first push make
/// slots that rise.
const INLINE_WORDS: std::ops::RangeInclusive<usize> = 2..=4;

/// Keys of a bucket with payloads of so many words.
pub(super) const fn lanes_of(payload_words: usize) -> usize {
    match payload_words {
        2 => 4,
        3 => 3,
        _ => 5,
    }
}

/// Lines of a bucket with payloads of so many words, as a shift.
pub(super) const fn lines_shift_of(payload_words: usize) -> u32 {
    if payload_words < 4 { 0 } else { 1 }
}

/// The geometry of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Keys in a bucket.
    pub(super) lanes: usize,
    /// Words of a payload.
    pub(super) payload_words: usize,
    /// Cache lines of a bucket, as a shift: 0 or 1.
    pub(super) lines_shift: u32,
    /// Words of a row.
    pub(super) row_words: usize,
    /// Words from one row of a slab to the next.
    pub(super) stride: usize,
    /// Words a slot counts.
    pub(super) unit: usize,
    /// Rows live in the index.
    pub(super) inline: bool,
}

impl Shape {
    pub(super) fn of(row_words: usize) -> Shape {
        assert!(row_words > 0);
        let inline = INLINE_WORDS.contains(&row_words);
        let payload_words = if inline { row_words } else { 1 };
        let (lanes, lines_shift) = (lanes_of(payload_words), lines_shift_of(payload_words));
        // A row of more than a line starts on a line: 64 floats then touch four lines and not five, and the waste is
        // below half. A shorter one is packed, since padding it to a line would cost more memory than the row.
        let padded = row_words > LINE_WORDS;
        let stride = if padded { row_words.next_multiple_of(LINE_WORDS) } else { row_words };
        let unit = if padded { LINE_WORDS } else { 1 };
        let shape = Shape { lanes, payload_words, lines_shift, row_words, stride, unit, inline };
        assert!(lanes * (2 + payload_words) <= shape.bucket_words());
        shape
    }

    pub(super) fn bucket_words(&self) -> usize {
        LINE_WORDS << self.lines_shift
    }

    /// Offset in words of a lane's payload inside its bucket.
    pub(super) fn payload_at(&self, lane: usize) -> usize {
        2 * self.lanes + lane * self.payload_words
    }

    /// Words that slots can name, and so the largest useful reservation.
    pub(super) fn addressable_words(&self) -> usize {
        (MISSING as usize) * self.unit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_size_fits_its_bucket_and_its_slab() {
        for row_words in 1..200 {
            let shape = Shape::of(row_words);
            assert!(shape.stride >= row_words && shape.stride.is_multiple_of(shape.unit));
            assert!(shape.payload_at(shape.lanes) <= shape.bucket_words());
            assert_eq!(shape.inline, (2..=4).contains(&row_words));
        }
    }
}
