//! Compressed sparse rows, grown row by row.

use thiserror::Error;

/// A sparse matrix in compressed rows. `K` is `u64` for global keys and `u32` for local columns.
///
/// A matrix of ones, the usual one for categorical data, stores no values at all; the first other value makes them
/// explicit. A column may repeat within a row: products add the entries.
#[derive(Clone, Debug, PartialEq)]
pub struct Csr<K> {
    /// `row_offsets[i]..row_offsets[i + 1]` are the entries of row `i`; always starts with 0.
    row_offsets: Vec<usize>,
    columns: Vec<K>,
    /// One for each column when `explicit`, otherwise empty: all are 1. Two fields, so that `clear` keeps the memory.
    values: Vec<f32>,
    explicit: bool,
}

/// One row: its columns and, unless all are one, its values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row<'a, K> {
    /// The columns, in stored order.
    pub columns: &'a [K],
    /// The values, or `None` when every value of the matrix is 1.
    pub values: Option<&'a [f32]>,
}

/// Sorts entries by column, where `values` may be none at all; a column that occurs twice, if any.
pub(crate) fn sort_entries<K: Copy + Ord>(
    columns: &mut [K],
    values: &mut [f32],
    scratch: &mut Vec<(K, f32)>,
) -> Option<K> {
    if values.is_empty() {
        columns.sort_unstable();
    } else {
        scratch.clear();
        scratch.extend(columns.iter().copied().zip(values.iter().copied()));
        scratch.sort_unstable_by_key(|&(column, _)| column);
        for (at, &(column, value)) in scratch.iter().enumerate() {
            columns[at] = column;
            values[at] = value;
        }
    }
    columns.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

/// Entries to be written where a matrix will have its next rows: see [`Csr::room`].
pub(crate) struct Room<'a> {
    pub(crate) columns: &'a mut [u64],
    /// None at all where the matrix has only ones.
    pub(crate) values: &'a mut [f32],
    row_offsets: &'a mut Vec<usize>,
    /// Entries of the matrix before.
    base: usize,
}

impl Room<'_> {
    /// The first `entries` are whole rows, and this one ends with them.
    #[inline(always)]
    pub(crate) fn end_row(&mut self, entries: usize) {
        self.row_offsets.push(self.base + entries);
    }
}

/// Why [`Csr::from_parts`] refused its arguments.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CsrError {
    /// Offsets must start at 0, never decrease, and end at the number of entries.
    #[error(
        "row offset {index} is wrong: offsets start at 0, never decrease, and end at the {entries} entries"
    )]
    Offsets {
        /// Index of the first wrong offset.
        index: usize,
        /// The number of entries.
        entries: usize,
    },
    /// One value for each column is needed.
    #[error("{values} values for {columns} columns: pass one value for each, or None when all are 1")]
    Values {
        /// Values passed.
        values: usize,
        /// Columns passed.
        columns: usize,
    },
}

impl<K> Default for Csr<K> {
    fn default() -> Self {
        Self { row_offsets: vec![0], columns: Vec::new(), values: Vec::new(), explicit: false }
    }
}

impl<K: Copy> Csr<K> {
    /// An empty matrix.
    pub fn new() -> Self {
        Self::default()
    }

    /// A matrix from its three arrays, checked.
    ///
    /// ```
    /// use gradwire::linalg::Csr;
    /// let x = Csr::from_parts(vec![0, 2, 3], vec![7u64, 9, 7], None)?;
    /// assert_eq!((x.rows(), x.nonzeros(), x.row(1).columns), (2, 3, &[7u64][..]));
    /// # Ok::<(), gradwire::linalg::CsrError>(())
    /// ```
    pub fn from_parts(
        row_offsets: Vec<usize>,
        columns: Vec<K>,
        values: Option<Vec<f32>>,
    ) -> Result<Self, CsrError> {
        let entries = columns.len();
        let fault = |index| CsrError::Offsets { index, entries };
        if row_offsets.first() != Some(&0) {
            return Err(fault(0));
        }
        if let Some(at) = row_offsets.windows(2).position(|pair| pair[0] > pair[1]) {
            return Err(fault(at + 1));
        }
        if row_offsets.last() != Some(&entries) {
            return Err(fault(row_offsets.len() - 1));
        }
        match values {
            Some(values) if values.len() != entries => {
                Err(CsrError::Values { values: values.len(), columns: entries })
            }
            values => {
                let explicit = values.is_some();
                Ok(Self { row_offsets, columns, values: values.unwrap_or_default(), explicit })
            }
        }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.row_offsets.len() - 1
    }

    /// The number of stored entries.
    pub fn nonzeros(&self) -> usize {
        self.columns.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows() == 0
    }

    /// `rows() + 1` positions into [`columns`](Self::columns).
    pub fn row_offsets(&self) -> &[usize] {
        &self.row_offsets
    }

    /// The columns of all entries, row after row.
    pub fn columns(&self) -> &[K] {
        &self.columns
    }

    /// The values of all entries, or `None` when all are 1.
    pub fn values(&self) -> Option<&[f32]> {
        self.explicit.then_some(&self.values)
    }

    /// One row. Panics when `row` is not below [`rows`](Self::rows).
    pub fn row(&self, row: usize) -> Row<'_, K> {
        let range = self.row_offsets[row]..self.row_offsets[row + 1];
        Row { columns: &self.columns[range.clone()], values: self.values().map(|values| &values[range]) }
    }

    /// Bytes of offsets, columns and values, without spare capacity.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.row_offsets[..]) + size_of_val(&self.columns[..]) + size_of_val(&self.values[..])
    }

    /// Removes every row and keeps the memory.
    pub fn clear(&mut self) {
        self.row_offsets.truncate(1);
        self.columns.clear();
        self.values.clear();
        self.explicit = false;
    }

    /// Adds one entry to the row being built; [`end_row`](Self::end_row) completes the row.
    #[inline]
    pub fn push(&mut self, column: K, value: f32) {
        if self.explicit {
            self.values.push(value);
        } else if value != 1.0 {
            self.make_explicit();
            self.values.push(value);
        }
        self.columns.push(column);
    }

    /// As [`push`](Self::push) for each of `columns`; `ones` says that every one of `values` is 1.
    #[inline]
    pub(crate) fn push_entries(&mut self, columns: &[K], values: &[f32], ones: bool) {
        if self.explicit || !ones {
            self.make_explicit();
            self.values.extend_from_slice(values);
        }
        self.columns.extend_from_slice(columns);
    }

    /// Completes the row being built, which may be empty.
    #[inline]
    pub fn end_row(&mut self) {
        self.row_offsets.push(self.columns.len());
    }

    /// Forgets the entries pushed since the last complete row.
    pub fn abandon_row(&mut self) {
        let complete = self.row_offsets[self.rows()];
        self.columns.truncate(complete);
        self.values.truncate(complete);
    }

    /// Appends a whole row.
    pub fn push_row(&mut self, row: Row<'_, K>) {
        self.extend_values(row.values, row.columns.len());
        self.columns.extend_from_slice(row.columns);
        self.end_row();
    }

    /// Appends a whole row; `values` are the bits of floats, one for each column, or all are 1.
    #[inline]
    pub(crate) fn push_row_of(&mut self, columns: impl Iterator<Item = K>, values: Option<&[u32]>) {
        self.columns.extend(columns);
        match values {
            None if !self.explicit => {}
            None => self.values.resize(self.columns.len(), 1.0),
            Some(bits) => {
                let start = self.row_offsets[self.rows()];
                if !self.explicit {
                    self.explicit = true;
                    self.values.resize(start, 1.0);
                }
                self.values.extend(bits.iter().map(|&bits| f32::from_bits(bits)));
            }
        }
        self.end_row();
    }

    /// Appends every row of `other`.
    pub fn append(&mut self, other: &Csr<K>) {
        let base = self.columns.len();
        self.extend_values(other.values(), other.nonzeros());
        self.columns.extend_from_slice(&other.columns);
        self.row_offsets.extend(other.row_offsets[1..].iter().map(|offset| base + offset));
    }

    /// Sorts the entries of the row being built by column and returns a column that occurs twice, if any.
    pub(crate) fn sort_open_row(&mut self, scratch: &mut Vec<(K, f32)>) -> Option<K>
    where
        K: Ord,
    {
        let start = self.row_offsets[self.rows()];
        let values = if self.explicit { &mut self.values[start..] } else { &mut [] };
        sort_entries(&mut self.columns[start..], values, scratch)
    }

    /// Makes this matrix a copy of `from` with other column names, without allocating when capacity suffices.
    pub(super) fn copy_shape<Q: Copy>(&mut self, from: &Csr<Q>) -> &mut Vec<K> {
        self.row_offsets.clear();
        self.row_offsets.extend_from_slice(&from.row_offsets);
        self.explicit = from.explicit;
        self.values.clear();
        self.values.extend_from_slice(&from.values);
        self.columns.clear();
        &mut self.columns
    }

    fn extend_values(&mut self, given: Option<&[f32]>, entries: usize) {
        match given {
            None if !self.explicit => {}
            None => self.values.resize(self.values.len() + entries, 1.0),
            Some(given) => {
                self.make_explicit();
                self.values.extend_from_slice(given);
            }
        }
    }

    /// Writes out the ones so far. No effect when values are explicit already.
    #[cold]
    fn make_explicit(&mut self) {
        if !self.explicit {
            self.explicit = true;
            self.values.resize(self.columns.len(), 1.0);
        }
    }
}

impl Csr<u64> {
    /// Room for `entries` more; [`abandon_row`](Self::abandon_row) then gives back what no row was ended with.
    pub(crate) fn room(&mut self, entries: usize) -> Room<'_> {
        let base = self.columns.len();
        self.columns.resize(base + entries, 0);
        if self.explicit {
            self.values.resize(base + entries, 0.0);
        }
        let values = if self.explicit { &mut self.values[base..] } else { &mut [] };
        Room { columns: &mut self.columns[base..], values, row_offsets: &mut self.row_offsets, base }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_were_ended_in_room_stay_and_the_rest_of_it_goes() {
        let mut x = Csr::<u64>::new();
        for value in [1.0, 0.5] {
            x.push(9, value);
            x.end_row();
            let mut room = x.room(4);
            room.columns.copy_from_slice(&[1, 2, 3, 4]);
            room.values.fill(2.0);
            room.end_row(1);
            room.end_row(3);
            x.abandon_row();
        }
        assert_eq!(x.row_offsets(), &[0, 1, 2, 4, 5, 6, 8]);
        assert_eq!(x.columns(), &[9, 1, 2, 3, 9, 1, 2, 3]);
        assert_eq!(x.values(), Some(&[1., 1., 1., 1., 0.5, 2., 2., 2.][..]));
    }

    #[test]
    fn values_stay_implicit_until_one_is_not_one() {
        let mut x = Csr::<u64>::new();
        x.push(5, 1.0);
        x.end_row();
        assert_eq!(x.values(), None);
        x.push(6, 1.0);
        x.push(7, 0.5);
        x.end_row();
        x.push(8, 1.0);
        x.end_row();
        assert_eq!(x.values(), Some(&[1.0, 1.0, 0.5, 1.0][..]));
        assert_eq!(x.row(1), Row { columns: &[6, 7], values: Some(&[1.0, 0.5]) });
    }

    #[test]
    fn an_abandoned_row_leaves_no_trace() {
        let mut x = Csr::<u64>::new();
        x.push(1, 2.0);
        x.end_row();
        let before = x.clone();
        x.push(2, 3.0);
        x.abandon_row();
        assert_eq!(x, before);
    }

    #[test]
    fn appending_mixes_implicit_and_explicit_values() {
        let ones = Csr::from_parts(vec![0, 1, 3], vec![1u64, 2, 3], None).unwrap();
        let halves = Csr::from_parts(vec![0, 2], vec![4u64, 5], Some(vec![0.5, 0.5])).unwrap();
        let mut all = ones.clone();
        all.append(&halves);
        all.append(&ones);
        all.push_row(halves.row(0));
        assert_eq!(all.row_offsets(), &[0, 1, 3, 5, 6, 8, 10]);
        assert_eq!(all.values(), Some(&[1., 1., 1., 0.5, 0.5, 1., 1., 1., 0.5, 0.5][..]));
        assert_eq!(all.row(2).columns, &[4, 5]);
    }

    #[test]
    fn wrong_parts_are_refused() {
        let offsets = |offsets: Vec<usize>| Csr::from_parts(offsets, vec![1u64, 2], None);
        assert_eq!(offsets(vec![]), Err(CsrError::Offsets { index: 0, entries: 2 }));
        assert_eq!(offsets(vec![1, 2]), Err(CsrError::Offsets { index: 0, entries: 2 }));
        assert_eq!(offsets(vec![0, 3, 2]), Err(CsrError::Offsets { index: 2, entries: 2 }));
        assert_eq!(offsets(vec![0, 1]), Err(CsrError::Offsets { index: 1, entries: 2 }));
        let values = Csr::from_parts(vec![0, 2], vec![1u64, 2], Some(vec![1.0]));
        assert_eq!(values, Err(CsrError::Values { values: 1, columns: 2 }));
    }
}
