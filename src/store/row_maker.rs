//! What a table does to one row, whatever its place: fresh rows, initial values, assigned values.

use gradwire_kernels::{self as kernels, Isa, RowLayout, Rule};

use super::initial;
use super::schema::{Init, TableSchema};

/// The parts of a schema that touch rows, with scratch for one row.
#[derive(Debug)]
pub(super) struct RowMaker {
    pub(super) isa: Isa,
    pub(super) rule: Rule,
    pub(super) layout: RowLayout,
    init: Init,
    seed: u64,
    values: Vec<f32>,
    row: Vec<u32>,
}

impl RowMaker {
    pub(super) fn new(isa: Isa, schema: &TableSchema) -> RowMaker {
        let dim = schema.dim as usize;
        let layout = RowLayout::new(&schema.rule, dim, schema.dtype);
        RowMaker {
            isa,
            rule: schema.rule,
            layout,
            init: schema.init,
            seed: schema.seed,
            values: vec![0.0; dim],
            row: vec![0; layout.words()],
        }
    }

    pub(super) fn dim(&self) -> usize {
        self.layout.dim()
    }

    pub(super) fn row_words(&self) -> usize {
        self.layout.words()
    }

    /// Zeroed memory is not yet a row of this table.
    pub(super) fn fills_rows(&self) -> bool {
        matches!(self.init, Init::Uniform { .. })
    }

    /// Makes `row` what the row of `key` is before its first push.
    pub(super) fn fresh(&mut self, key: u64, row: &mut [u32]) {
        row.fill(0);
        if let Init::Uniform { scale } = self.init {
            initial::uniform(self.seed, key, scale, &mut self.values);
            kernels::write_values(self.isa, &self.rule, &self.layout, row, &self.values);
        }
    }

    /// What a pull of an absent `key` gives: exactly what it would give of the fresh row.
    pub(super) fn initial_values(&mut self, key: u64, out: &mut [f32]) {
        let mut row = std::mem::take(&mut self.row);
        self.fresh(key, &mut row);
        kernels::read_rows(self.isa, &self.rule, &self.layout, &row, row.len(), &[0], out);
        self.row = row;
    }

    /// Sets the values of a row and clears its state.
    pub(super) fn assign(&self, row: &mut [u32], values: &[f32]) {
        row.fill(0);
        kernels::write_values(self.isa, &self.rule, &self.layout, row, values);
    }
}
