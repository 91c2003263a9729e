//! Where the cells and lines of plain delimited text are, found 64 bytes at a time.
//!
//! A stretch becomes two masks, a bit for each byte that ends a cell and one for each that ends a line; positions are
//! then written eight at a time, of which those past the count are written over. So nothing branches on the
//! lengths of cells, which no processor can predict.

use gradwire_kernels::equal_bytes;

/// Bytes looked at together: as many as text is padded with.
const STRETCH: usize = 64;
const _: () = assert!(STRETCH <= super::chunk::PADDING);

/// The cells of some lines.
#[derive(Default)]
pub(super) struct Marks {
    /// Where each cell starts, and one past the byte that ends the last one. Beyond `count` places to write to.
    starts: Vec<u32>,
    count: usize,
    /// For each line, the place in `starts` of what follows it.
    lines: Vec<u32>,
}

impl Marks {
    /// Marks the lines `from..end` of `text`, which goes on for [`STRETCH`] bytes more; the last line may lack its `\n`.
    pub(super) fn scan(&mut self, text: &[u8], from: usize, end: usize, delimiter: u8) {
        self.lines.clear();
        self.room(0);
        self.starts[0] = from as u32;
        self.count = 1;
        let mut base = from;
        while base < end {
            let Some(stretch) = text.get(base..).and_then(<[u8]>::first_chunk) else { break };
            let (delimiters, newlines) = (equal_bytes(stretch, delimiter), equal_bytes(stretch, b'\n'));
            let inside = if end - base < STRETCH { (1 << (end - base)) - 1 } else { u64::MAX };
            self.add(base, (delimiters | newlines) & inside, newlines & inside);
            base += STRETCH;
        }
        if end > from && text.get(end - 1) != Some(&b'\n') {
            self.room(self.count);
            self.starts[self.count] = end as u32 + 1;
            self.lines.push(self.count as u32);
            self.count += 1;
        }
    }

    /// Lines as the bounds of their cells: cell `i` is from bound `i` to before the byte before bound `i + 1`.
    pub(super) fn lines(&self) -> impl Iterator<Item = &[u32]> {
        let mut first = 0;
        self.lines.iter().map(move |&last| {
            let bounds = &self.starts[first..=last as usize];
            first = last as usize;
            bounds
        })
    }

    #[inline]
    fn add(&mut self, base: usize, ends: u64, newlines: u64) {
        self.room(self.count);
        let mut rest = newlines;
        while rest != 0 {
            let at = rest.trailing_zeros();
            let before = (ends & ((1 << at) - 1)).count_ones();
            self.lines.push(self.count as u32 + before);
            rest &= rest - 1;
        }
        let count = ends.count_ones() as usize;
        let after = base as u32 + 1;
        let mut rest = ends;
        let mut at = self.count;
        while rest != 0 {
            let Some(eight) = self.starts.get_mut(at..).and_then(<[u32]>::first_chunk_mut::<8>) else {
                break;
            };
            for place in eight {
                *place = after + rest.trailing_zeros();
                rest &= rest.wrapping_sub(1);
            }
            at += 8;
        }
        self.count += count;
    }

    /// Room for the marks of a stretch from place `at` on, in eights.
    #[inline]
    fn room(&mut self, at: usize) {
        if self.starts.len() < at + STRETCH + 8 {
            self.starts.resize((at + STRETCH + 8) * 2, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn marks_agree_with_splitting(
            text in proptest::collection::vec(prop_oneof![Just(b','), Just(b'\n'), any::<u8>()], 0..400),
            from in 0usize..70,
        ) {
            let from = from.min(text.len());
            let mut padded = text.clone();
            padded.resize(text.len() + 1 + STRETCH, b',');
            let mut marks = Marks::default();
            marks.scan(b"1,2\n3,,,,,,,,,,\n", 0, 3, b',');
            marks.scan(&padded, from, text.len(), b',');
            let plain = &text[from..];
            let plain = plain.strip_suffix(b"\n").unwrap_or(plain);
            let wanted: Vec<Vec<&[u8]>> = if from == text.len() {
                Vec::new()
            } else {
                plain.split(|&b| b == b'\n').map(|line| line.split(|&b| b == b',').collect()).collect()
            };
            let cells = |bounds: &[u32]| {
                bounds.windows(2).map(|pair| &padded[pair[0] as usize..pair[1] as usize - 1]).collect()
            };
            let found: Vec<Vec<&[u8]>> = marks.lines().map(cells).collect();
            prop_assert_eq!(found, wanted);
        }
    }
}
