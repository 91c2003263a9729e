//! Rows with their labels.

use crate::linalg::Csr;

/// Labelled examples with global keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Examples {
    /// One label a row: 0 or 1. All 0 where the format was told that there is no label.
    pub labels: Vec<f32>,
    /// The features of each row.
    pub rows: Csr<u64>,
}

impl Examples {
    /// The number of examples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Removes all examples and keeps the memory.
    pub fn clear(&mut self) {
        self.labels.clear();
        self.rows.clear();
    }

    /// Appends all of `other`.
    pub fn append(&mut self, other: &Examples) {
        self.labels.extend_from_slice(&other.labels);
        self.rows.append(&other.rows);
    }

    /// Appends row `row` of `other`. Panics when it has none.
    #[inline]
    pub fn push_from(&mut self, other: &Examples, row: usize) {
        self.labels.push(other.labels[row]);
        self.rows.push_row(other.rows.row(row));
    }

    /// Bytes of the examples, without spare capacity.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.labels[..]) + self.rows.bytes()
    }
}
