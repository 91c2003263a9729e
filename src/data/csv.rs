//! Delimited text with a header: columns to hashed features.
//!
//! A [`Plan`] is made once a file, from its header; [`CsvRows`] then turns chunks into examples, on any number of threads.
//! Columns that no feature uses are not looked at. A cell of at most eight bytes is a word, and what it was turned
//! into the last time is remembered: most columns have few different cells.

use std::sync::Arc;

use gradwire_kernels::Isa;

use super::chunk::LONGEST_LINE;
use super::error::{Fault, shown};
use super::keys::{self, Kind};
use super::lines::Lines;
use super::number;
use super::record::{Cells, Record, nul, trim};
use super::scan::Marks;
use super::{Examples, FeatureSpec, LabelExpr};

/// The columns of one file, found in its header.
#[derive(Debug)]
pub(super) struct Plan {
    delimiter: u8,
    header: Vec<String>,
    label: Option<(usize, LabelExpr)>,
    /// Columns whose cells are hashed; those of the first fields of `categorical` come first, in that order.
    hashed: Vec<usize>,
    /// The field of each categorical column.
    categorical: Vec<u64>,
    /// Field and positions in `hashed`.
    cross: Vec<(u64, Vec<usize>)>,
    /// Key and column.
    numeric: Vec<(u64, usize)>,
}

impl Plan {
    /// Reads the header and finds the columns; `None` when there is no line but blank ones.
    pub(super) fn read(spec: &FeatureSpec, lines: &mut Lines<'_>) -> Result<Option<Self>, Fault> {
        // `FeatureSpec::check` made sure that it is ASCII.
        let delimiter = spec.delimiter as u8;
        loop {
            if !lines.advance()? {
                return Ok(None);
            }
            if !trim(lines.line()).is_empty() {
                break;
            }
        }
        let mut record = Record::default();
        record.read(lines, delimiter)?;
        let name = |at| String::from_utf8_lossy(record.cells().cell(at)).into_owned();
        let header: Vec<String> = (0..record.len()).map(name).collect();
        let column = |name: &String| find(&header, name);
        let label = match &spec.label {
            None => None,
            Some(label) => Some((column(&label.column)?, label.clone())),
        };
        // No name is twice in the categorical columns, so field i's cells are hash i.
        let mut hashed = spec.categorical.iter().map(column).collect::<Result<Vec<usize>, Fault>>()?;
        let field = |name: &String| keys::field(Kind::Categorical, &[name]);
        let categorical = spec.categorical.iter().map(field).collect();
        let mut hash = |name: &String| {
            let column = find(&header, name)?;
            let known = hashed.iter().position(|&other| other == column);
            Ok(known.unwrap_or_else(|| {
                hashed.push(column);
                hashed.len() - 1
            }))
        };
        let mut cross = Vec::new();
        for names in &spec.cross {
            let cells = names.iter().map(&mut hash).collect::<Result<Vec<usize>, Fault>>()?;
            cross.push((keys::field(Kind::Cross, names), cells));
        }
        let mut numeric = Vec::new();
        for name in &spec.numeric {
            numeric.push((keys::key(keys::mix(keys::field(Kind::Numeric, &[name]))), column(name)?));
        }
        Ok(Some(Self { delimiter, header, label, hashed, categorical, cross, numeric }))
    }

    fn features(&self) -> usize {
        self.categorical.len() + self.cross.len() + self.numeric.len()
    }
}

/// What cells of one column were turned into.
struct Known {
    /// A cell as a word, and what became of it; another cell with the same place takes its turn. The empty cell is the
    /// only one whose word is 0, and its place is the first.
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    word: u64,
    /// The cell's hash, or label.
    hash: u64,
    /// Key of the category, in a categorical column.
    key: u64,
}

impl Known {
    /// Enough for a column of thousands of different cells; one of few touches a few lines of it.
    const PLACE_BITS: u32 = 12;

    fn new(empty: (u64, u64)) -> Self {
        Self { entries: vec![Entry { word: 0, hash: empty.0, key: empty.1 }; 1 << Self::PLACE_BITS] }
    }

    /// What `make` makes of the cell that is `word`, as [`Cells::word`] has it.
    #[inline]
    fn get(&mut self, word: u64, make: impl FnOnce(&[u8]) -> (u64, u64)) -> Entry {
        let place = word.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - Self::PLACE_BITS);
        let entry = &mut self.entries[place as usize];
        if entry.word != word {
            let length = 8 - word.leading_zeros() as usize / 8;
            let (hash, key) = make(&word.to_le_bytes()[..length]);
            *entry = Entry { word, hash, key };
        }
        *entry
    }
}

/// Labels as [`Known`] has them: 0, 1, or one of these.
const NO_LABEL: u64 = 2;
const BAD_LABEL: u64 = 3;

fn label_of(expression: &LabelExpr, cell: &[u8]) -> u64 {
    if is_missing(cell) {
        return NO_LABEL;
    }
    expression.eval(cell).map_or(BAD_LABEL, |label| u64::from(label > 0.0))
}

/// Hash of a cell, and the key of its category in `field`.
fn category(field: u64, cell: &[u8]) -> (u64, u64) {
    let hash = keys::cell(cell);
    (hash, keys::key(keys::mix(field ^ hash)))
}

/// The column of a row that is wrong, and how.
type RowFault = (usize, String);

/// What one thread needs for the rows of one file.
pub(super) struct CsvRows {
    plan: Arc<Plan>,
    known_labels: Known,
    /// One for each column of `plan.hashed`.
    known: Vec<Known>,
    hashes: Vec<u64>,
    /// The row being made.
    keys: Vec<u64>,
    values: Vec<f32>,
    marks: Marks,
    record: Record,
    skipped_rows: u64,
}

impl CsvRows {
    pub(super) fn new(plan: Arc<Plan>) -> Self {
        let empty_label = plan.label.as_ref().map_or(NO_LABEL, |(_, label)| label_of(label, b""));
        let field = |at| plan.categorical.get(at).copied().unwrap_or_default();
        Self {
            known_labels: Known::new((empty_label, 0)),
            known: (0..plan.hashed.len()).map(|at| Known::new(category(field(at), b""))).collect(),
            hashes: vec![0; plan.hashed.len()],
            keys: vec![0; plan.features()],
            values: vec![1.0; plan.features()],
            marks: Marks::default(),
            record: Record::default(),
            skipped_rows: 0,
            plan,
        }
    }

    /// Whether these are the rows of `plan`.
    pub(super) fn follows(&self, plan: &Arc<Plan>) -> bool {
        Arc::ptr_eq(&self.plan, plan)
    }

    /// Rows left out since this was asked last, because their label is missing.
    pub(super) fn take_skipped_rows(&mut self) -> u64 {
        std::mem::take(&mut self.skipped_rows)
    }

    /// Adds the rows of the lines that are left of a chunk to `out`.
    pub(super) fn read(&mut self, lines: &mut Lines<'_>, out: &mut Examples) -> Result<(), Fault> {
        loop {
            let (text, rest) = (lines.bytes(), lines.rest());
            if rest.is_empty() {
                return Ok(());
            }
            let special = memchr::memchr2(b'"', 0, &text[rest.clone()]).map(|at| rest.start + at);
            let plain = match special {
                None => rest.end,
                Some(at) => {
                    let newline = memchr::memrchr(b'\n', &text[rest.start..at]);
                    newline.map_or(rest.start, |newline| rest.start + newline + 1)
                }
            };
            let mut marks = std::mem::take(&mut self.marks);
            let outcome = self.plain_rows(&mut marks, lines, plain, out);
            self.marks = marks;
            outcome?;
            let Some(special) = special else { return Ok(()) };
            lines.advance()?;
            if text[special] == 0 {
                return Err(nul(lines.number(), special - plain));
            }
            let mut record = std::mem::take(&mut self.record);
            record.read(lines, self.plan.delimiter)?;
            let outcome = self.add_row(record.cells(), out);
            outcome.map_err(|(column, what)| {
                let (line, at) = record.place(column);
                Fault::at(line, at, what)
            })?;
            self.record = record;
        }
    }

    /// Adds the rows of the lines up to byte `end`, in which there is no quote.
    fn plain_rows(
        &mut self,
        marks: &mut Marks,
        lines: &mut Lines<'_>,
        end: usize,
        out: &mut Examples,
    ) -> Result<(), Fault> {
        let text = lines.bytes();
        let start = lines.rest().start;
        if end - start > LONGEST_LINE {
            // One of them may be too long.
            let mut each = Lines::clone(lines);
            while each.advance()? {}
        }
        marks.scan(Isa::active(), text, start, end, self.plan.delimiter);
        let mut read = 0;
        for bounds in marks.lines() {
            read += 1;
            let Some(cells) = Cells::new(text, bounds) else { continue };
            if let Err((column, what)) = self.add_row(cells, out) {
                return Err(Fault::at(lines.number() + read, cells.offset(column), what));
            }
        }
        lines.skip(read, end);
        Ok(())
    }

    #[inline]
    fn add_row(&mut self, cells: Cells<'_>, out: &mut Examples) -> Result<(), RowFault> {
        let plan = &*self.plan;
        if cells.len() != plan.header.len() {
            return Err(wrong_length(plan, cells.len()));
        }
        let label = match &plan.label {
            None => 0.0,
            Some((column, label)) => {
                let found = match cells.word(*column) {
                    Some(word) => self.known_labels.get(word, |cell| (label_of(label, cell), 0)).hash,
                    None => label_of(label, cells.cell(*column)),
                };
                match found {
                    NO_LABEL => {
                        self.skipped_rows += 1;
                        return Ok(());
                    }
                    BAD_LABEL => return Err(not_a_number(plan, cells, *column)),
                    label => label as f32,
                }
            }
        };
        let categories = plan.categorical.len();
        let (keys, crossed) = self.keys.split_at_mut(categories);
        for (at, &column) in plan.hashed.iter().enumerate() {
            let field = plan.categorical.get(at).copied().unwrap_or_default();
            let (hash, key) = match cells.word(column) {
                Some(word) => {
                    let entry = self.known[at].get(word, |cell| category(field, cell));
                    (entry.hash, entry.key)
                }
                None => category(field, cells.cell(column)),
            };
            self.hashes[at] = hash;
            if let Some(place) = keys.get_mut(at) {
                *place = key;
            }
        }
        for (key, (field, parts)) in crossed.iter_mut().zip(&plan.cross) {
            let state = match parts[..] {
                [a, b] => keys::mix(keys::mix(field ^ self.hashes[a]) ^ self.hashes[b]),
                _ => parts.iter().fold(*field, |state, &cell| keys::mix(state ^ self.hashes[cell])),
            };
            *key = keys::key(state);
        }
        let categories = categories + plan.cross.len();
        let mut features = categories;
        for &(key, column) in &plan.numeric {
            let value = match cells.short_number(column) {
                Some(short) => short.to_f32(),
                None => {
                    let cell = cells.cell(column);
                    if is_missing(cell) {
                        continue;
                    }
                    number::whole_f32(cell).ok_or_else(|| not_a_number(plan, cells, column))?
                }
            };
            self.keys[features] = key;
            self.values[features] = value;
            features += 1;
        }
        let ones = self.values[categories..features].iter().all(|&value| value == 1.0);
        out.rows.push_entries(&self.keys[..features], &self.values[..features], ones);
        out.rows.end_row();
        out.labels.push(label);
        Ok(())
    }
}

#[cold]
fn wrong_length(plan: &Plan, cells: usize) -> RowFault {
    let columns = plan.header.len();
    let delimiter = plan.delimiter as char;
    let what = format!(
        "found {cells} cells where the header has {columns}; check the delimiter {delimiter:?} and quotes"
    );
    (0, what)
}

#[cold]
fn not_a_number(plan: &Plan, cells: Cells<'_>, column: usize) -> RowFault {
    let (found, name) = (shown(cells.cell(column)), &plan.header[column]);
    let what = format!(
        "found {found} in column {name:?} instead of a finite number; leave the cell empty where it is missing"
    );
    (column, what)
}

/// A cell without a value.
#[inline]
fn is_missing(cell: &[u8]) -> bool {
    cell.is_empty() || cell == b"NA"
}

fn one_line(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() })
        .collect()
}

fn find(header: &[String], name: &str) -> Result<usize, Fault> {
    /// Columns a message lists at most.
    const LISTED: usize = 100;
    let mut places = (0..header.len()).filter(|&at| header[at] == name);
    match (places.next(), places.next()) {
        (Some(place), None) => Ok(place),
        (Some(_), Some(second)) => {
            let what =
                format!("found the column {name:?} again (column {} of the header); rename one", second + 1);
            Err(Fault::at(1, 0, what))
        }
        (None, _) => {
            // A name in quotes may hold a line end, and a message is one line.
            let shown: Vec<String> = header.iter().take(LISTED).map(|name| one_line(name)).collect();
            let mut list = shown.join(", ");
            if header.len() > LISTED {
                list += &format!(" and {} more", header.len() - LISTED);
            }
            Err(Fault::NoColumn { column: name.to_owned(), header: list })
        }
    }
}

#[cfg(test)]
#[path = "csv_tests.rs"]
mod tests;
