//! Model files: what training leaves and `predict` and `--model-in` take up.
//!
//! A model is one safetensors file, so that Python reads it with two lines. Tensors: `keys` U64 `[n]`, strictly
//! increasing; `values` F32 `[n, dim]`; `state` U32 `[n, words]`, the rows as the servers store them, optimizer state
//! included, so that training resumes exactly where it stopped. Metadata, all strings: `format` (`gradwire-model`),
//! `format_version`, `gradwire_version`, `commit`, `kind` (`lr`), `kernel_version`, `table` and `features` (JSON).
//!
//! Invariants: the same model gives the same bytes (the header is written in one order); a file under a model's name
//! is whole ([`publish`](super::publish)); reading is total: any bytes give a checked model or an error that names
//! the file and what is wrong with it.
//!
//! Absent on purpose: compression and partial reads. A model larger than memory is a checkpoint's business.

mod read;
mod write;

use serde::{Deserialize, Serialize};

pub use read::{ModelError, parse, read};
pub use write::write;

use super::lr::Solver;
use crate::data::FeatureSpec;

/// Version of the layout above. A reader takes this one and every older one.
pub const FORMAT_VERSION: u32 = 1;
const FORMAT: &str = "gradwire-model";
const KIND_LR: &str = "lr";

/// The table that a model's rows come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelTable {
    /// Its name in the cluster.
    pub name: String,
    /// Values a row.
    pub dim: usize,
    /// Storage format of the values.
    pub dtype: String,
    /// Its optimizer, with the rates.
    pub optimizer: Solver,
}

/// A trained model, as it is in its file.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Where the rows come from.
    pub table: ModelTable,
    /// How text becomes keys; none when the training data had keys of its own (libsvm).
    pub features: Option<FeatureSpec>,
    /// The kernels that wrote `state`.
    pub kernel_version: u32,
    /// Strictly increasing.
    pub keys: Vec<u64>,
    /// `[keys, dim]`.
    pub values: Vec<f32>,
    /// Stored form of the rows, `[keys, words]`.
    pub state: Vec<u32>,
}

impl Model {
    /// Words of a row's stored form; 0 for a model without rows.
    #[must_use]
    pub fn state_words(&self) -> usize {
        self.state.len().checked_div(self.keys.len()).unwrap_or(0)
    }

    /// Weights that are not zero.
    #[must_use]
    pub fn nonzeros(&self) -> u64 {
        self.values.iter().filter(|v| **v != 0.0).count() as u64
    }

    /// Writes the weights of strictly increasing `keys` into `out`; a key that the model lacks has weight 0.
    ///
    /// # Panics
    /// When `out` has not `dim` values for each key.
    pub fn lookup(&self, keys: &[u64], out: &mut [f32]) {
        let dim = self.table.dim;
        assert_eq!(out.len(), keys.len() * dim, "dim values for each key");
        // Both lists rise, so each search starts where the last one ended.
        let mut from = 0;
        for (key, row) in keys.iter().zip(out.chunks_exact_mut(dim)) {
            from += self.keys[from..].partition_point(|k| k < key);
            match self.keys.get(from) {
                Some(found) if found == key => row.copy_from_slice(&self.values[from * dim..][..dim]),
                _ => row.fill(0.0),
            }
        }
    }
}

#[cfg(test)]
mod tests;
