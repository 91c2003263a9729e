//! Plain lines of libsvm text, many at a time.
//!
//! Where blanks, colons and line ends are is found ahead, for some thousand bytes; an entry is then what lies between
//! three known offsets. So no entry waits until it is known where the one before ended, nothing branches on the lengths of
//! numbers, and entries are written to room whose size is known. Any line that is not plainly right is left to
//! [`libsvm`](super::libsvm), which reads all forms and finds what is wrong: what is accepted here must be accepted there,
//! with the same result.

use gradwire_kernels::{Isa, Plain, Prober, run_compiled};

use super::scan::{Places, STRETCH, stretch};
use super::{Examples, number};
use crate::linalg::{Room, sort_entries};

/// Bytes marked at a time: they and their marks stay in a first-level cache.
const BATCH: usize = 8 << 10;
const _: () = assert!(BATCH.is_multiple_of(STRETCH));

/// The separators of some lines.
#[derive(Default)]
pub(super) struct Separators {
    /// What a label or an entry ends with: blanks and line ends.
    ends: Places,
    colons: Places,
    /// For each whole line, how many of both are before the next one.
    lines: Vec<Before>,
    /// Where marking goes on.
    marked: usize,
}

#[derive(Clone, Copy, Default)]
struct Before {
    ends: usize,
    colons: usize,
}

impl Separators {
    /// Forgets all; the next line starts at `start`.
    pub(super) fn restart(&mut self, start: usize) {
        self.ends.clear();
        self.colons.clear();
        self.lines.clear();
        self.marked = start;
    }

    /// Whole lines known.
    pub(super) fn lines(&self) -> usize {
        self.lines.len()
    }

    pub(super) fn marked(&self) -> usize {
        self.marked
    }

    /// Forgets the whole lines and marks some more of `text` up to `end`, after which it goes on for [`STRETCH`] bytes.
    pub(super) fn advance(&mut self, isa: Isa, text: &[u8], end: usize) {
        if let Some(&Before { ends, colons }) = self.lines.last() {
            self.ends.forget(ends);
            self.colons.forget(colons);
            self.lines.clear();
        }
        let end = end.min(self.marked + BATCH);
        run_compiled(isa, Mark { separators: self, text, end });
        self.marked = end;
    }

    /// Adds rows to `out` from line `first` on, which starts at byte `start`, until all lines are read or one is not plain.
    /// Gives how many were read, and where the next line starts.
    pub(super) fn read(
        &mut self,
        isa: Isa,
        text: &[u8],
        (first, start): (usize, usize),
        out: &mut Examples,
        unsorted: &mut Vec<(u64, f32)>,
    ) -> (usize, usize) {
        let before = if first == 0 { Before::default() } else { self.lines[first - 1] };
        let explicit = out.rows.values().is_some();
        let rows = Rows {
            text,
            ends: self.ends.all_mut(),
            colons: self.colons.all(),
            lines: &self.lines[first..],
            before,
            start,
            room: out.rows.room(self.colons.len() - before.colons + LANES),
            labels: &mut out.labels,
            unsorted,
        };
        let read = match explicit {
            true => run_compiled(isa, WithValues(rows)),
            false => run_compiled(isa, OnesOnly(rows)),
        };
        out.rows.abandon_row();
        read
    }
}

struct Mark<'a> {
    separators: &'a mut Separators,
    text: &'a [u8],
    end: usize,
}

impl Plain for Mark<'_> {
    type Output = ();

    #[inline(always)]
    fn run<P: Prober>(self, prober: P) {
        let Separators { ends, colons, lines, marked } = self.separators;
        let mut base = *marked;
        while base < self.end {
            let Some((bytes, inside)) = stretch(self.text, base, self.end) else { break };
            let newlines = prober.equal(bytes, b'\n') & inside;
            let blanks = (prober.equal(bytes, b' ') | prober.equal(bytes, b'\t')) & inside;
            let (end_mask, colon_mask) = (blanks | newlines, prober.equal(bytes, b':') & inside);
            let mut rest = newlines;
            while rest != 0 {
                let through = rest ^ (rest - 1);
                lines.push(Before {
                    ends: ends.len() + (end_mask & through).count_ones() as usize,
                    colons: colons.len() + (colon_mask & through).count_ones() as usize,
                });
                rest &= rest - 1;
            }
            ends.add(prober, base as u32, end_mask);
            colons.add(prober, base as u32, colon_mask);
            base += STRETCH;
        }
    }
}

/// Lines to read, and where to.
struct Rows<'a> {
    text: &'a [u8],
    ends: &'a mut [u32],
    colons: &'a [u32],
    lines: &'a [Before],
    before: Before,
    start: usize,
    room: Room<'a>,
    labels: &'a mut Vec<f32>,
    unsorted: &'a mut Vec<(u64, f32)>,
}

struct WithValues<'a>(Rows<'a>);
struct OnesOnly<'a>(Rows<'a>);

impl Plain for WithValues<'_> {
    type Output = (usize, usize);

    #[inline(always)]
    fn run<P: Prober>(self, _: P) -> (usize, usize) {
        self.0.read::<true>()
    }
}

impl Plain for OnesOnly<'_> {
    type Output = (usize, usize);

    #[inline(always)]
    fn run<P: Prober>(self, _: P) -> (usize, usize) {
        self.0.read::<false>()
    }
}

impl Rows<'_> {
    #[inline(always)]
    fn read<const VALUES: bool>(mut self) -> (usize, usize) {
        let (mut before, mut start, mut written) = (self.before, self.start, 0);
        for (read, line) in self.lines.iter().enumerate() {
            let (ends, colons) =
                (&mut self.ends[before.ends..line.ends], &self.colons[before.colons..line.colons]);
            let Some((newline, entry_ends)) = entry_ends(self.text, ends, colons.len()) else {
                return (read, start);
            };
            let Some(label) = label(self.text, start, entry_ends[0] as usize) else { return (read, start) };
            let rows_end = written + colons.len();
            let columns = &mut self.room.columns[written..];
            let values: &mut [f32] = if VALUES { &mut self.room.values[written..] } else { &mut [] };
            if entries::<VALUES>(self.text, entry_ends, colons, columns, values).is_none() {
                return (read, start);
            }
            let columns = &mut columns[..colons.len()];
            let sorted = columns.windows(2).fold(true, |sorted, pair| sorted & (pair[0] < pair[1]));
            if !sorted {
                let values = if VALUES { &mut values[..colons.len()] } else { &mut [] };
                // An index that occurs twice is wrong.
                if sort_entries(columns, values, self.unsorted).is_some() {
                    return (read, start);
                }
            }
            self.room.end_row(rows_end);
            self.labels.push(label);
            (before, start, written) = (*line, newline + 1, rows_end);
        }
        (self.lines.len(), start)
    }
}

/// Where a line ends, and where its label and its entries do; `None` unless there is one more than colons.
///
/// One blank or carriage return before the line's end, or both, is no part of an entry.
#[inline(always)]
fn entry_ends<'a>(text: &[u8], ends: &'a mut [u32], entries: usize) -> Option<(usize, &'a [u32])> {
    let newline = *ends.last()?;
    let carriage = text.get((newline as usize).wrapping_sub(1)) == Some(&b'\r');
    let end = newline - u32::from(carriage);
    if ends.len() == entries + 1 {
        ends[entries] = end;
    } else if ends.len() != entries + 2 || ends[entries] + 1 != end {
        return None;
    }
    Some((newline as usize, &ends[..=entries]))
}

/// The label that is the text `start..end`, when that is `0`, `1`, `-1` or `+1`.
#[inline(always)]
fn label(text: &[u8], start: usize, end: usize) -> Option<f32> {
    let &[first, second] = text.get(start..)?.first_chunk()?;
    match end.wrapping_sub(start) {
        1 if first & 0xFE == b'0' => Some(f32::from(first & 1)),
        2 if second == b'1' && matches!(first, b'-' | b'+') => Some(f32::from(u8::from(first == b'+'))),
        _ => None,
    }
}

/// Entries that are converted together, which the compiler does in vectors.
const LANES: usize = 16;

/// What some numbers are made from: the word each ends, and how many bytes of it are its own.
struct Words {
    words: [u64; LANES],
    lengths: [u32; LANES],
    /// More than the bytes of a word where a number is longer.
    longest: u32,
}

impl Words {
    /// Zeros.
    #[inline(always)]
    fn new() -> Self {
        Self { words: [u64::from_le_bytes([b'0'; 8]); LANES], lengths: [1; LANES], longest: 0 }
    }

    /// Takes number `at`, which ends before byte `end` of the text. A long one stays a zero.
    #[inline(always)]
    fn set(&mut self, at: usize, text: &[u8], end: u32, length: u32) -> Option<()> {
        self.longest = self.longest.max(length);
        if length <= number::WORD {
            self.words[at] = number::word_before(text, end as usize)?;
            self.lengths[at] = length;
        }
        Some(())
    }
}

/// Reads the entries between `ends`, which are one more than `colons`, to the start of the output, which has [`LANES`] places
/// more to write to; `None` when one is not plain. Without `VALUES`, a value other than `1` is not.
#[inline(always)]
fn entries<const VALUES: bool>(
    text: &[u8],
    ends: &[u32],
    colons: &[u32],
    columns: &mut [u64],
    values: &mut [f32],
) -> Option<()> {
    let mut wrong = 0;
    let (mut first, befores, ends) = (0, ends, &ends[1..]);
    while first < colons.len() {
        let count = LANES.min(colons.len() - first);
        let befores = &befores[first..first + count];
        let ends = &ends[first..first + count];
        let colons = &colons[first..first + count];
        let columns = columns.get_mut(first..)?.first_chunk_mut::<LANES>()?;
        let (mut indices, mut numbers) = (Words::new(), Words::new());
        for (at, ((&before, &colon), &end)) in befores.iter().zip(colons).zip(ends).enumerate() {
            indices.set(at & (LANES - 1), text, colon, colon.wrapping_sub(before + 1))?;
            let length = end.wrapping_sub(colon + 1);
            if VALUES {
                numbers.set(at & (LANES - 1), text, end, length)?;
            } else {
                wrong |= u64::from(length ^ 1) | u64::from(text.get(colon as usize + 1)? ^ b'1');
            }
        }
        for (at, column) in columns.iter_mut().enumerate() {
            let (index, not_digits) = number::last_digits(indices.words[at], indices.lengths[at]);
            *column = index;
            wrong |= not_digits;
        }
        if indices.longest > number::WORD {
            long_indices(text, befores, colons, columns)?;
        }
        if VALUES {
            let values = values.get_mut(first..)?.first_chunk_mut::<LANES>()?;
            for (at, value) in values.iter_mut().enumerate() {
                let (number, not_number) = number::last_number(numbers.words[at], numbers.lengths[at]);
                *value = number;
                wrong |= not_number;
            }
            if numbers.longest > number::WORD {
                long_values(text, colons, ends, values)?;
            }
        }
        first += count;
    }
    (wrong == 0).then_some(())
}

/// Reads the indices of more than eight digits, between two separators each.
#[inline(never)]
fn long_indices(text: &[u8], befores: &[u32], colons: &[u32], columns: &mut [u64; LANES]) -> Option<()> {
    for ((&before, &colon), column) in befores.iter().zip(colons).zip(columns) {
        if colon.wrapping_sub(before + 1) > number::WORD {
            *column = number::whole_index(text.get(before as usize + 1..colon as usize)?)?;
        }
    }
    Some(())
}

/// Reads the values of more than eight bytes, between two separators each.
#[inline(never)]
fn long_values(text: &[u8], colons: &[u32], ends: &[u32], values: &mut [f32; LANES]) -> Option<()> {
    for ((&colon, &end), value) in colons.iter().zip(ends).zip(values) {
        if end.wrapping_sub(colon + 1) > number::WORD {
            let text = text.get(colon as usize + 1..end as usize)?;
            let (number, length) = number::scan(text).ok()?;
            *value = if length == text.len() { number.to_f32()? } else { return None };
        }
    }
    Some(())
}
