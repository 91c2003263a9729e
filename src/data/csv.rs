//! Delimited text with a header: columns to hashed features.

use std::io::Read;

use super::error::{Fault, shown};
use super::keys::{self, Kind};
use super::lines::Lines;
use super::record::Record;
use super::{Examples, FeatureSpec, LabelExpr, number};

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
        let name = |at| String::from_utf8_lossy(record.cell(lines, at)).into_owned();
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
        let (hashes, skipped_rows) = (vec![0; hashed.len()], 0);
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
            skipped_rows,
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
        let label = match &self.label {
            None => 0.0,
            Some((column, label)) => {
                let cell = record.cell(lines, *column);
                if is_missing(cell) {
                    self.skipped_rows += 1;
                    return Ok(());
                }
                label.eval(cell).ok_or_else(|| self.not_a_number(lines, *column))?
            }
        };
        for (hash, &column) in self.hashes.iter_mut().zip(&self.hashed) {
            *hash = keys::cell(record.cell(lines, column));
        }
        for &(field, cell) in &self.categorical {
            out.rows.push(keys::key(keys::mix(field ^ self.hashes[cell])), 1.0);
        }
        for (field, cells) in &self.cross {
            let state = cells.iter().fold(*field, |state, &cell| keys::mix(state ^ self.hashes[cell]));
            out.rows.push(keys::key(state), 1.0);
        }
        for &(key, column) in &self.numeric {
            let cell = record.cell(lines, column);
            if !is_missing(cell) {
                let value = number::whole_f32(cell).ok_or_else(|| self.not_a_number(lines, column))?;
                out.rows.push(key, value);
            }
        }
        out.rows.end_row();
        out.labels.push(label);
        Ok(())
    }

    #[cold]
    fn not_a_number<R: Read>(&self, lines: &Lines<R>, column: usize) -> Fault {
        let (line, at) = self.record.place(lines, column);
        let found = shown(self.record.cell(lines, column));
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
