//! Delimited text with a header: columns to hashed features.

use std::io::Read;

use super::error::{Fault, shown};
use super::keys::{self, Kind};
use super::lines::Lines;
use super::number;
use super::record::Record;
use super::{Examples, FeatureSpec, LabelExpr};

/// Hashes of cells seen before: most columns have few different cells, and looking one up costs no branch on its length.
struct CellHashes {
    /// A cell and its hash; another cell with the same place takes its turn.
    entries: Vec<(u64, u64)>,
}

impl CellHashes {
    const PLACE_BITS: u32 = 11;

    fn new() -> Self {
        Self { entries: vec![(0, keys::cell(b"")); 1 << Self::PLACE_BITS] }
    }

    /// The hash of the cell that makes `word`, as [`Record::short_cell`] has it.
    #[inline]
    fn hash(&mut self, word: u64) -> u64 {
        let place = word.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - Self::PLACE_BITS);
        let entry = &mut self.entries[place as usize];
        if entry.0 != word {
            let length = 8 - word.leading_zeros() as usize / 8;
            *entry = (word, keys::cell(&word.to_le_bytes()[..length]));
        }
        entry.1
    }
}

/// The rows of one file, its columns resolved.
pub(super) struct CsvRows {
    delimiter: u8,
    header: Vec<String>,
    label: Option<(usize, LabelExpr)>,
    /// Columns whose cells are hashed.
    hashed: Vec<usize>,
    /// Field and position in `hashed`.
    categorical: Vec<(u64, usize)>,
    /// Key and column.
    numeric: Vec<(u64, usize)>,
    /// Field and positions in `hashed`.
    cross: Vec<(u64, Vec<usize>)>,
    record: Record,
    hashes: Vec<u64>,
    /// One for each column of `hashed`.
    known: Vec<CellHashes>,
    /// The row being made.
    keys: Vec<u64>,
    values: Vec<f32>,
    skipped_rows: u64,
}

impl CsvRows {
    /// Reads the header and finds the columns; `None` when the file is empty.
    pub(super) fn open<R: Read>(spec: &FeatureSpec, lines: &mut Lines<R>) -> Result<Option<Self>, Fault> {
        // `FeatureSpec::check` made sure that it is ASCII.
        let delimiter = spec.delimiter as u8;
        let mut record = Record::default();
        if !record.read(lines, delimiter)? {
            return Ok(None);
        }
        let name = |at| String::from_utf8_lossy(record.cells(lines).cell(at)).into_owned();
        let header: Vec<String> = (0..record.len()).map(name).collect();
        let column = |name: &String| find(&header, name);
        let label = match &spec.label {
            None => None,
            Some(label) => Some((column(&label.column)?, label.clone())),
        };
        let mut hashed = Vec::new();
        let mut hash = |name: &String| {
            let column = find(&header, name)?;
            let known = hashed.iter().position(|&other| other == column);
            Ok(known.unwrap_or_else(|| {
                hashed.push(column);
                hashed.len() - 1
            }))
        };
        let mut categorical = Vec::new();
        for name in &spec.categorical {
            categorical.push((keys::field(Kind::Categorical, &[name]), hash(name)?));
        }
        let mut cross = Vec::new();
        for names in &spec.cross {
            let cells = names.iter().map(&mut hash).collect::<Result<Vec<usize>, Fault>>()?;
            cross.push((keys::field(Kind::Cross, names), cells));
        }
        let mut numeric = Vec::new();
        for name in &spec.numeric {
            numeric.push((keys::key(keys::mix(keys::field(Kind::Numeric, &[name]))), column(name)?));
        }
        let features = categorical.len() + cross.len() + numeric.len();
        let hashes = vec![0; hashed.len()];
        let known = hashed.iter().map(|_| CellHashes::new()).collect();
        Ok(Some(Self {
            delimiter,
            header,
            label,
            hashed,
            categorical,
            numeric,
            cross,
            record,
            hashes,
            known,
            keys: vec![0; features],
            values: vec![1.0; features],
            skipped_rows: 0,
        }))
    }

    /// Rows left out so far because their label is missing.
    pub(super) fn skipped_rows(&self) -> u64 {
        self.skipped_rows
    }

    /// Adds rows to `out` until it is a full block; false at the end of the file.
    pub(super) fn read_block<R: Read>(
        &mut self,
        lines: &mut Lines<R>,
        out: &mut Examples,
    ) -> Result<bool, Fault> {
        while !out.is_full_block() {
            if !self.record.read(lines, self.delimiter)? {
                return Ok(false);
            }
            if let Err(fault) = self.add_row(lines, out) {
                out.rows.abandon_row();
                return Err(fault);
            }
        }
        Ok(true)
    }

    #[inline]
    fn add_row<R: Read>(&mut self, lines: &Lines<R>, out: &mut Examples) -> Result<(), Fault> {
        let record = &self.record;
        if record.len() != self.header.len() {
            let (line, at) = record.place(lines, 0);
            let (cells, columns) = (record.len(), self.header.len());
            let what = format!(
                "found {cells} cells where the header has {columns}; check the delimiter {:?} and quotes",
                self.delimiter as char
            );
            return Err(Fault::at(line, at, what));
        }
        let cells = record.cells(lines);
        let label = match &self.label {
            None => 0.0,
            Some((column, label)) => {
                let cell = cells.cell(*column);
                if is_missing(cell) {
                    self.skipped_rows += 1;
                    return Ok(());
                }
                let short = cells.short_number(*column);
                let label =
                    short.and_then(|short| label.eval_number(short.to_f64())).or_else(|| label.eval(cell));
                label.ok_or_else(|| self.not_a_number(lines, *column))?
            }
        };
        for ((hash, &column), known) in self.hashes.iter_mut().zip(&self.hashed).zip(&mut self.known) {
            *hash = match cells.word(column) {
                Some(word) => known.hash(word),
                None => keys::cell(cells.cell(column)),
            };
        }
        let (categorical, rest) = self.keys.split_at_mut(self.categorical.len());
        for (key, &(field, cell)) in categorical.iter_mut().zip(&self.categorical) {
            *key = keys::key(keys::mix(field ^ self.hashes[cell]));
        }
        for (key, (field, parts)) in rest.iter_mut().zip(&self.cross) {
            let state = parts.iter().fold(*field, |state, &cell| keys::mix(state ^ self.hashes[cell]));
            *key = keys::key(state);
        }
        let categories = self.categorical.len() + self.cross.len();
        let mut features = categories;
        for &(key, column) in &self.numeric {
            let value = match cells.short_number(column) {
                Some(short) => short.to_f32(),
                None => {
                    let cell = cells.cell(column);
                    if is_missing(cell) {
                        continue;
                    }
                    number::whole_f32(cell).ok_or_else(|| self.not_a_number(lines, column))?
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

    #[cold]
    fn not_a_number<R: Read>(&self, lines: &Lines<R>, column: usize) -> Fault {
        let (line, at) = self.record.place(lines, column);
        let found = shown(self.record.cells(lines).cell(column));
        let name = &self.header[column];
        let what = format!(
            "found {found} in column {name:?} instead of a finite number; leave the cell empty where it is missing"
        );
        Fault::at(line, at, what)
    }
}

/// A cell without a value.
#[inline]
fn is_missing(cell: &[u8]) -> bool {
    cell.is_empty() || cell == b"NA"
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
            let mut list = header[..header.len().min(LISTED)].join(", ");
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
