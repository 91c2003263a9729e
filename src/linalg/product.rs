//! The two products of a localized minibatch.
//!
//! `times`: `out[r] = sum over entries of row r, left to right, of value * w[column]`. `trans_times`: `out[c] = sum over
//! rows in order of value * g[row]`. Each sum starts at +0.0 and is a multiply, then an add. Small `trans_times` scatter
//! row by row; large ones need a column per thread, so they read the entries in column order, built once for a
//! matrix, by a counting sort that keeps row order. Both add the same terms in the same order (N1).

use std::sync::OnceLock;

use rayon::prelude::*;

use super::Csr;

/// Multiply-adds below which a product stays on the calling thread: about 0.1 ms, ten times what waking the pool costs.
const SERIAL_WORK: usize = 1 << 17;
/// Multiply-adds a task of a threaded product has at least.
const TASK_WORK: usize = 1 << 14;

/// Rows with local columns, and how many columns there are.
#[derive(Clone, Debug, Default)]
pub struct LocalMatrix {
    rows: Csr<u32>,
    columns: usize,
    by_column: OnceLock<ByColumn>,
}

/// The entries in column order, rows ascending within a column.
#[derive(Clone, Debug)]
struct ByColumn {
    /// `columns + 1` positions into `entries`.
    offsets: Vec<usize>,
    /// Row and value of each entry.
    entries: Vec<(u32, f32)>,
}

impl LocalMatrix {
    /// A matrix of `rows` with `columns` columns. Panics when an entry's column is not below `columns`.
    pub fn new(rows: Csr<u32>, columns: usize) -> Self {
        assert!(rows.columns().iter().all(|&column| (column as usize) < columns), "a column is out of range");
        Self { rows, columns, by_column: OnceLock::new() }
    }

    /// The rows.
    pub fn rows(&self) -> &Csr<u32> {
        &self.rows
    }

    /// The number of columns: the number of keys of the minibatch.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// `X w`. `w` is `[columns, dim]` row-major, where `dim` is `w.len() / columns`; gives `[rows, dim]`.
    ///
    /// Panics when `w` is not a whole number of values for each column, as the other products do.
    pub fn times(&self, w: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; self.rows.rows() * dim(w.len(), self.columns)];
        self.times_into(w, &mut out);
        out
    }

    /// [`times`](Self::times) into `out`, which has exactly `[rows, dim]` values. The same bits for any number of threads.
    pub fn times_into(&self, w: &[f32], out: &mut [f32]) {
        let rows = self.rows.rows();
        let dim = dim(w.len(), self.columns);
        assert_eq!(out.len(), rows * dim, "times: out must be [rows, dim]");
        if self.threaded(dim) {
            let rows_a_task = (TASK_WORK * rows / (self.rows.nonzeros() * dim)).max(1);
            out.par_chunks_mut(rows_a_task * dim)
                .enumerate()
                .for_each(|(task, out)| times_rows(&self.rows, task * rows_a_task, dim, w, out));
        } else {
            times_rows(&self.rows, 0, dim, w, out);
        }
    }

    /// `X' g`. `g` is `[rows, dim]` row-major, where `dim` is `g.len() / rows`; gives `[columns, dim]`.
    pub fn trans_times(&self, g: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; self.columns * dim(g.len(), self.rows.rows())];
        self.trans_times_into(g, &mut out);
        out
    }

    /// [`trans_times`](Self::trans_times) into `out`, which has exactly `[columns, dim]` values. The same bits for any
    /// number of threads.
    pub fn trans_times_into(&self, g: &[f32], out: &mut [f32]) {
        let dim = dim(g.len(), self.rows.rows());
        assert_eq!(out.len(), self.columns * dim, "trans_times: out must be [columns, dim]");
        if self.threaded(dim) {
            let columns_a_task = (TASK_WORK * self.columns / (self.rows.nonzeros() * dim)).max(1);
            let order = self.by_column.get_or_init(|| ByColumn::new(&self.rows, self.columns));
            out.par_chunks_mut(columns_a_task * dim)
                .enumerate()
                .for_each(|(task, out)| sum_columns(order, task * columns_a_task, dim, g, out));
        } else {
            scatter_rows(&self.rows, dim, g, out);
        }
    }

    /// Takes the shape and values of `csr`; the caller fills in the columns and then calls `set_columns`.
    pub(super) fn reset_rows(&mut self, csr: &Csr<u64>) -> &mut Vec<u32> {
        self.by_column = OnceLock::new();
        self.rows.copy_shape(csr)
    }

    pub(super) fn set_columns(&mut self, columns: usize) {
        self.columns = columns;
    }

    fn threaded(&self, dim: usize) -> bool {
        self.rows.nonzeros().saturating_mul(dim) >= SERIAL_WORK && rayon::current_num_threads() > 1
    }
}

/// Values a row of the dense operand has. An empty operand of an empty matrix counts as one column.
fn dim(len: usize, rows: usize) -> usize {
    if rows == 0 {
        assert_eq!(len, 0, "the matrix is empty, the vector is not");
        return 1;
    }
    let dim = len / rows;
    assert!(dim > 0 && len == dim * rows, "{len} values are not a whole number for each of {rows} rows");
    dim
}

fn times_rows(x: &Csr<u32>, first_row: usize, dim: usize, w: &[f32], out: &mut [f32]) {
    if dim == 1 {
        for (at, sum) in out.iter_mut().enumerate() {
            let row = x.row(first_row + at);
            *sum = match row.values {
                None => row.columns.iter().fold(0.0, |sum, &column| sum + w[column as usize]),
                Some(values) => row
                    .columns
                    .iter()
                    .zip(values)
                    .fold(0.0, |sum, (&column, &value)| sum + value * w[column as usize]),
            };
        }
        return;
    }
    for (at, sums) in out.chunks_exact_mut(dim).enumerate() {
        let row = x.row(first_row + at);
        sums.fill(0.0);
        for (entry, &column) in row.columns.iter().enumerate() {
            let value = row.values.map_or(1.0, |values| values[entry]);
            add_scaled(sums, value, &w[column as usize * dim..][..dim]);
        }
    }
}

fn scatter_rows(x: &Csr<u32>, dim: usize, g: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    for at in 0..x.rows() {
        let row = x.row(at);
        let g = &g[at * dim..][..dim];
        match (dim, row.values) {
            (1, None) => row.columns.iter().for_each(|&column| out[column as usize] += g[0]),
            (1, Some(values)) => {
                for (&column, &value) in row.columns.iter().zip(values) {
                    out[column as usize] += value * g[0];
                }
            }
            (_, values) => {
                for (entry, &column) in row.columns.iter().enumerate() {
                    let value = values.map_or(1.0, |values| values[entry]);
                    add_scaled(&mut out[column as usize * dim..][..dim], value, g);
                }
            }
        }
    }
}

fn sum_columns(order: &ByColumn, first_column: usize, dim: usize, g: &[f32], out: &mut [f32]) {
    for (at, sums) in out.chunks_exact_mut(dim).enumerate() {
        let range = order.offsets[first_column + at]..order.offsets[first_column + at + 1];
        sums.fill(0.0);
        for &(row, value) in &order.entries[range] {
            add_scaled(sums, value, &g[row as usize * dim..][..dim]);
        }
    }
}

#[inline]
fn add_scaled(sums: &mut [f32], value: f32, terms: &[f32]) {
    for (sum, &term) in sums.iter_mut().zip(terms) {
        *sum += value * term;
    }
}

impl ByColumn {
    fn new(x: &Csr<u32>, columns: usize) -> Self {
        assert!(x.rows() <= u32::MAX as usize, "a minibatch has more than 2^32 rows");
        let mut offsets = vec![0usize; columns + 1];
        for &column in x.columns() {
            offsets[column as usize + 1] += 1;
        }
        let mut total = 0;
        for offset in &mut offsets {
            total += *offset;
            *offset = total;
        }
        let mut next = offsets.clone();
        let mut entries = vec![(0u32, 0f32); x.nonzeros()];
        for at in 0..x.rows() {
            let row = x.row(at);
            for (entry, &column) in row.columns.iter().enumerate() {
                let place = &mut next[column as usize];
                entries[*place] = (at as u32, row.values.map_or(1.0, |values| values[entry]));
                *place += 1;
            }
        }
        Self { offsets, entries }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Entries `(row, column, value)` in row order, with the shape.
    #[derive(Clone, Debug)]
    struct Sparse {
        rows: usize,
        columns: usize,
        entries: Vec<(usize, u32, f32)>,
    }

    impl Sparse {
        fn matrix(&self) -> LocalMatrix {
            let mut csr = Csr::new();
            let mut entries = self.entries.iter().peekable();
            for row in 0..self.rows {
                while let Some(&(_, column, value)) = entries.next_if(|entry| entry.0 == row) {
                    csr.push(column, value);
                }
                csr.end_row();
            }
            LocalMatrix::new(csr, self.columns)
        }

        fn naive(&self, dense: &[f32], dim: usize, transposed: bool) -> Vec<f32> {
            let mut out = vec![0f32; if transposed { self.columns } else { self.rows } * dim];
            for &(row, column, value) in &self.entries {
                let column = column as usize;
                let (to, from) = if transposed { (column, row) } else { (row, column) };
                for k in 0..dim {
                    out[to * dim + k] += value * dense[from * dim + k];
                }
            }
            out
        }
    }

    fn sparse() -> impl Strategy<Value = Sparse> {
        (1usize..40, 1u32..40, any::<bool>()).prop_flat_map(|(rows, columns, ones)| {
            let value = if ones { Just(1f32).boxed() } else { (-4f32..4.0).boxed() };
            proptest::collection::vec((0..rows, 0..columns, value), 0..200).prop_map(move |mut entries| {
                entries.sort_by_key(|entry| entry.0);
                Sparse { rows, columns: columns as usize, entries }
            })
        })
    }

    fn dense(len: usize) -> Vec<f32> {
        (0..len).map(|at| ((at as f32 * 0.37).sin() * 3.0) + 0.01).collect()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn products_agree_with_the_naive_sum_bit_for_bit(sparse in sparse(), dim in 1usize..6) {
            let x = sparse.matrix();
            let (w, g) = (dense(sparse.columns * dim), dense(sparse.rows * dim));
            prop_assert_eq!(bits(&x.times(&w)), bits(&sparse.naive(&w, dim, false)));
            prop_assert_eq!(bits(&x.trans_times(&g)), bits(&sparse.naive(&g, dim, true)));
            let order = ByColumn::new(&x.rows, x.columns);
            let mut out = vec![f32::NAN; sparse.columns * dim];
            sum_columns(&order, 0, dim, &g, &mut out);
            prop_assert_eq!(bits(&out), bits(&sparse.naive(&g, dim, true)));
        }
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        let (rows, columns) = (9_001usize, 701usize);
        let mut state = 12345u64;
        let mut entries = Vec::new();
        for row in 0..rows {
            for _ in 0..20 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                // Skewed: column 0 has a third of all entries.
                let column = if state >> 62 == 0 { 0 } else { (state >> 33) as u32 % columns as u32 };
                entries.push((row, column, (state >> 40) as f32 / 1e6 - 8.0));
            }
        }
        let sparse = Sparse { rows, columns, entries };
        for dim in [1, 3] {
            let (w, g) = (dense(columns * dim), dense(rows * dim));
            let times = bits(&sparse.naive(&w, dim, false));
            let trans_times = bits(&sparse.naive(&g, dim, true));
            for threads in [1, 2, 3, 8] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    let x = sparse.matrix();
                    assert_eq!(x.threaded(dim), threads > 1);
                    assert_eq!(bits(&x.times(&w)), times);
                    assert_eq!(bits(&x.trans_times(&g)), trans_times);
                });
            }
        }
    }

    #[test]
    fn an_empty_matrix_has_empty_products() {
        let x = LocalMatrix::default();
        assert_eq!(x.times(&[]), Vec::<f32>::new());
        assert_eq!(x.trans_times(&[]), Vec::<f32>::new());
    }

    #[test]
    #[should_panic(expected = "not a whole number")]
    fn a_vector_of_the_wrong_length_is_refused() {
        let x = LocalMatrix::new(Csr::from_parts(vec![0, 2], vec![0, 2], None).unwrap(), 3);
        x.times(&[1.0; 4]);
    }
}
