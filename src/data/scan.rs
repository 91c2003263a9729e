//! Where certain bytes of a text are, found 64 bytes at a time; with them the cells and lines of plain delimited text.
//!
//! A stretch becomes a mask, a bit for each byte that is looked for; positions are then written many at a time, of which
//! those past the count are written over. So nothing branches on the lengths of cells, which no processor can predict.

use gradwire_kernels::{Isa, Plain, Prober, run_compiled};

/// Bytes looked at together: as many as text is padded with.
pub(super) const STRETCH: usize = 64;
const _: () = assert!(STRETCH <= super::chunk::PADDING);

/// Offsets in a text, in order.
#[derive(Default)]
pub(super) struct Places {
    /// Beyond `count` places to write to.
    list: Vec<u32>,
    count: usize,
}

impl Places {
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.count
    }

    #[inline(always)]
    pub(super) fn all(&self) -> &[u32] {
        &self.list[..self.count]
    }

    pub(super) fn all_mut(&mut self) -> &mut [u32] {
        &mut self.list[..self.count]
    }

    pub(super) fn clear(&mut self) {
        self.count = 0;
    }

    /// Forgets the first `count` places.
    pub(super) fn forget(&mut self, count: usize) {
        self.list.copy_within(count..self.count, 0);
        self.count -= count;
    }

    #[inline(always)]
    pub(super) fn push(&mut self, place: u32) {
        self.room(1);
        self.list[self.count] = place;
        self.count += 1;
    }

    /// Adds `base` + i for each bit i of `mask`.
    #[inline(always)]
    pub(super) fn add<P: Prober>(&mut self, prober: P, base: u32, mask: u64) {
        self.room(STRETCH);
        if let Some(out) = self.list.get_mut(self.count..).and_then(<[u32]>::first_chunk_mut) {
            prober.positions(mask, base, out);
            self.count += mask.count_ones() as usize;
        }
    }

    /// Room for `places` more.
    #[inline(always)]
    fn room(&mut self, places: usize) {
        if self.list.len() < self.count + places {
            self.grow(places);
        }
    }

    #[cold]
    fn grow(&mut self, places: usize) {
        self.list.resize((self.count + places) * 2, 0);
    }
}

/// The 64 bytes of `text` at `base`, and the mask of those before `end`.
#[inline(always)]
pub(super) fn stretch(text: &[u8], base: usize, end: usize) -> Option<(&[u8; STRETCH], u64)> {
    let inside = if end - base < STRETCH { (1 << (end - base)) - 1 } else { u64::MAX };
    Some((text.get(base..)?.first_chunk()?, inside))
}

/// The cells of some lines.
#[derive(Default)]
pub(super) struct Marks {
    /// Where each cell starts, and one past the byte that ends the last one.
    starts: Places,
    /// For each line, the place in `starts` of what follows it.
    lines: Vec<u32>,
}

impl Marks {
    /// Marks the lines `from..end` of `text`, which goes on for [`STRETCH`] bytes more; the last line may lack its `\n`.
    pub(super) fn scan(&mut self, isa: Isa, text: &[u8], from: usize, end: usize, delimiter: u8) {
        self.lines.clear();
        self.starts.clear();
        self.starts.push(from as u32);
        run_compiled(isa, Scan { marks: self, text, from, end, delimiter });
        if end > from && text.get(end - 1) != Some(&b'\n') {
            self.lines.push(self.starts.len() as u32);
            self.starts.push(end as u32 + 1);
        }
    }

    /// Lines as the bounds of their cells: cell `i` is from bound `i` to before the byte before bound `i + 1`.
    pub(super) fn lines(&self) -> impl Iterator<Item = &[u32]> {
        let mut first = 0;
        self.lines.iter().map(move |&last| {
            let bounds = &self.starts.all()[first..=last as usize];
            first = last as usize;
            bounds
        })
    }
}

/// Marks whole stretches.
struct Scan<'a> {
    marks: &'a mut Marks,
    text: &'a [u8],
    from: usize,
    end: usize,
    delimiter: u8,
}

impl Plain for Scan<'_> {
    type Output = ();

    #[inline(always)]
    fn run<P: Prober>(self, prober: P) {
        let Marks { starts, lines } = self.marks;
        let mut base = self.from;
        while base < self.end {
            let Some((bytes, inside)) = stretch(self.text, base, self.end) else { break };
            let newlines = prober.equal(bytes, b'\n') & inside;
            let ends = prober.equal(bytes, self.delimiter) & inside | newlines;
            let mut rest = newlines;
            while rest != 0 {
                let before = (ends & ((1 << rest.trailing_zeros()) - 1)).count_ones();
                lines.push(starts.len() as u32 + before);
                rest &= rest - 1;
            }
            starts.add(prober, base as u32 + 1, ends);
            base += STRETCH;
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
            for isa in Isa::ALL.into_iter().filter(|isa| isa.is_supported()) {
            let mut marks = Marks::default();
            marks.scan(isa, b"1,2\n3,,,,,,,,,,\n", 0, 3, b',');
            marks.scan(isa, &padded, from, text.len(), b',');
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
            prop_assert_eq!(found, wanted, "{}", isa);
            }
        }
    }
}
