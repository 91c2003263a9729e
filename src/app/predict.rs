//! Probabilities from a model file, one a line, without a cluster.

use std::io::{self, Write};
use std::path::Path;

use super::metrics::probability;
use super::model::Model;
use super::progress::Progress;
use super::publish::{PublishError, publish};
use crate::data::{DataError, Examples};
use crate::linalg::{Localized, Localizer};

/// Why a prediction stopped.
#[derive(Debug, thiserror::Error)]
pub enum PredictError {
    /// The data is wrong.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The probabilities cannot be written.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// Writes the probability of a positive label for each example, in order, to `out`; returns how many there are.
///
/// The shortest digits that give the same 32-bit float again are written. A feature that the model never met counts
/// as weight 0.
///
/// # Errors
/// [`PredictError`]; `out` then keeps what it held before.
pub fn predict(
    model: &Model,
    blocks: impl Iterator<Item = Result<Examples, DataError>>,
    out: &Path,
    progress: &Progress,
) -> Result<u64, PredictError> {
    progress.begin("prediction", "examples", None);
    let mut count = 0;
    let mut data_error = None;
    let written = publish(out, |file| {
        let mut localizer = Localizer::new();
        let (mut batch, mut weights, mut margins) = (Localized::default(), Vec::new(), Vec::new());
        for block in blocks {
            let examples = block.map_err(|e| {
                data_error = Some(e);
                io::Error::other("the data ended early")
            })?;
            localizer.localize_into(&examples.rows, &mut batch);
            weights.resize(batch.keys.len(), 0.0);
            model.lookup(&batch.keys, &mut weights);
            margins.resize(examples.len(), 0.0);
            batch.x.times_into(&weights, &mut margins);
            for margin in &margins {
                writeln!(file, "{}", probability(*margin))?;
            }
            count += examples.len() as u64;
            progress.add(examples.len() as u64);
        }
        Ok(())
    });
    match (data_error, written) {
        (Some(error), _) => Err(error.into()),
        (None, written) => Ok(written.map(|()| count)?),
    }
}
