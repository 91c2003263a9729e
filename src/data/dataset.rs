//! All examples in memory.

use gradwire_kernels::prefetch_item;

use super::{DataError, Examples};
use crate::linalg::Csr;

/// Examples in memory, in file order, at most 2^32 - 1 of them so that an order of rows takes four bytes a row.
///
/// Keys take four bytes each for as long as all fit, as numbered features do: half the memory to write when loading, and to
/// read when rows are gathered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dataset {
    labels: Vec<f32>,
    rows: Rows,
}

#[derive(Clone, Debug, PartialEq)]
enum Rows {
    Narrow(Csr<u32>),
    Wide(Csr<u64>),
}

impl Default for Rows {
    fn default() -> Self {
        Self::Narrow(Csr::new())
    }
}

/// Rows ahead of the one being copied whose entries are asked for, and whose offsets: a row of a large set is a cache miss
/// or two, and so is the place that says where it is.
const ENTRIES_AHEAD: usize = 12;
const OFFSETS_AHEAD: usize = 24;

impl Dataset {
    /// Adds a block. Fails when the rows would no longer be countable in 32 bits.
    pub fn append(&mut self, block: &Examples) -> Result<(), DataError> {
        let rows = self.len() + block.len();
        if rows > u32::MAX as usize {
            return Err(DataError::TooManyRows { rows });
        }
        self.labels.extend_from_slice(&block.labels);
        let keys = block.rows.columns().iter().fold(0, |all, key| all | key);
        if let Rows::Narrow(narrow) = &self.rows
            && keys > u64::from(u32::MAX)
        {
            let mut wide = Csr::new();
            wide.append_as(narrow, u64::from);
            self.rows = Rows::Wide(wide);
        }
        match &mut self.rows {
            Rows::Narrow(narrow) => narrow.append_as(&block.rows, |key| key as u32),
            Rows::Wide(wide) => wide.append(&block.rows),
        }
        Ok(())
    }

    /// The number of examples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Bytes of the examples, without spare capacity.
    pub fn bytes(&self) -> usize {
        let rows = match &self.rows {
            Rows::Narrow(narrow) => narrow.bytes(),
            Rows::Wide(wide) => wide.bytes(),
        };
        size_of_val(&self.labels[..]) + rows
    }

    /// A copy of all examples, in file order.
    pub fn examples(&self) -> Examples {
        let mut rows = Csr::new();
        match &self.rows {
            Rows::Narrow(narrow) => rows.append_as(narrow, u64::from),
            Rows::Wide(wide) => rows.append(wide),
        }
        Examples { labels: self.labels.clone(), rows }
    }

    /// Replaces `out` by the rows named by `order`, in that order.
    pub fn gather(&self, order: &[u32], out: &mut Examples) {
        out.clear();
        match &self.rows {
            Rows::Narrow(narrow) => self.gather_from(narrow, u64::from, order, out),
            Rows::Wide(wide) => self.gather_from(wide, |key| key, order, out),
        }
    }

    fn gather_from<K: Copy>(&self, rows: &Csr<K>, key: impl Fn(K) -> u64, order: &[u32], out: &mut Examples) {
        for (at, &row) in order.iter().enumerate() {
            if let Some(&later) = order.get(at + OFFSETS_AHEAD) {
                prefetch_item(rows.row_offsets(), later as usize);
                prefetch_item(&self.labels, later as usize);
            }
            if let Some(&later) = order.get(at + ENTRIES_AHEAD) {
                let offsets = &rows.row_offsets()[later as usize..];
                prefetch_item(rows.columns(), offsets[0]);
                prefetch_item(rows.columns(), offsets[1]);
                if let Some(values) = rows.values() {
                    prefetch_item(values, offsets[0]);
                }
            }
            out.labels.push(self.labels[row as usize]);
            out.rows.push_row_as(rows.row(row as usize), &key);
        }
    }

    /// Splits into (rows whose index is no multiple of `every`, the others): train and test.
    ///
    /// Panics when `every` is 0.
    pub fn split_every(&self, every: usize) -> (Self, Self) {
        match &self.rows {
            Rows::Narrow(narrow) => self.split(narrow, every, Rows::Narrow),
            Rows::Wide(wide) => self.split(wide, every, Rows::Wide),
        }
    }

    fn split<K: Copy>(&self, rows: &Csr<K>, every: usize, whole: impl Fn(Csr<K>) -> Rows) -> (Self, Self) {
        let (mut rest, mut picked) = ((Vec::new(), Csr::new()), (Vec::new(), Csr::new()));
        for (row, &label) in self.labels.iter().enumerate() {
            let part = if row % every == 0 { &mut picked } else { &mut rest };
            part.0.push(label);
            part.1.push_row(rows.row(row));
        }
        let part = |(labels, rows)| Self { labels, rows: whole(rows) };
        (part(rest), part(picked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(keys: &[u64], value: f32) -> Examples {
        let mut examples = Examples::default();
        for &key in keys {
            examples.labels.push(key as f32 % 2.0);
            examples.rows.push(key, value);
            examples.rows.push(key + 1, 1.0);
            examples.rows.end_row();
        }
        examples
    }

    #[test]
    fn keys_of_any_width_come_back_whatever_came_before_them() {
        const LARGE: u64 = u32::MAX as u64;
        for blocks in [
            vec![block(&[1, 2], 1.0), block(&[3, LARGE - 1], 1.0)],
            vec![block(&[1, 2], 1.0), block(&[3, LARGE], 0.5), block(&[4, u64::MAX - 2], 1.0)],
        ] {
            let (mut dataset, mut all) = (Dataset::default(), Examples::default());
            for block in &blocks {
                dataset.append(block).unwrap();
                all.append(block);
            }
            assert_eq!(dataset.examples(), all);
            let mut gathered = Examples::default();
            let order: Vec<u32> = (0..all.len() as u32).rev().collect();
            dataset.gather(&order, &mut gathered);
            assert!((0..all.len()).all(|row| {
                let back = all.len() - 1 - row;
                gathered.labels[row] == all.labels[back] && gathered.rows.row(row) == all.rows.row(back)
            }));
            let (rest, picked) = dataset.split_every(3);
            assert_eq!((rest.len() + picked.len(), picked.len()), (all.len(), all.len().div_ceil(3)));
            assert_eq!(picked.examples().rows.row(1), all.rows.row(3));
        }
    }

    #[test]
    fn small_keys_take_half_the_memory() {
        let (mut narrow, mut wide) = (Dataset::default(), Dataset::default());
        narrow.append(&block(&[1, 2, 3], 1.0)).unwrap();
        wide.append(&block(&[1, 2, 1 << 40], 1.0)).unwrap();
        assert_eq!(wide.bytes() - narrow.bytes(), 6 * 4);
    }
}
