//! Scoring: weights are pulled block by block, by as many threads as there are cores to use.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{LrError, Solver, on_threads, open};
use crate::app::metrics::{Score, score};
use crate::app::progress::Progress;
use crate::client::Cluster;
use crate::data::{DataError, Examples};
use crate::linalg::Localized;

/// Margins and labels of one block, and which block it is.
type Block = (usize, Vec<f32>, Vec<f32>);

/// Scores the weights in table `table` of `cluster` on `blocks` of examples, with `threads` threads.
///
/// The figures do not depend on `threads`: blocks are put back in order before losses are added up.
///
/// # Errors
/// [`LrError`]: the first one of any thread.
pub fn evaluate(
    cluster: &Cluster,
    table: &str,
    solver: &Solver,
    blocks: impl Iterator<Item = Result<Examples, DataError>> + Send,
    threads: usize,
    progress: &Progress,
) -> Result<Score, LrError> {
    progress.begin("evaluation", "examples", None);
    let blocks = Mutex::new(blocks.enumerate().fuse());
    let stop = AtomicBool::new(false);
    let parts = on_threads("evaluate", 0..threads.max(1), &stop, |_| -> Result<Vec<Block>, LrError> {
        let (_session, table) = open(cluster, table, solver)?;
        let mut weights = Vec::new();
        let mut done = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let next = blocks.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((index, examples)) = next else { break };
            let Examples { labels, rows } = examples?;
            let batch = Localized::new(&rows);
            table.pull_into(&batch.keys, &mut weights)?;
            progress.add(labels.len() as u64);
            done.push((index, batch.x.times(&weights), labels));
        }
        Ok(done)
    })?;
    let mut scored: Vec<Block> = parts.into_iter().flatten().collect();
    scored.sort_unstable_by_key(|(index, ..)| *index);
    let (mut margins, mut labels) = (Vec::new(), Vec::new());
    for (_, block_margins, block_labels) in scored {
        margins.extend_from_slice(&block_margins);
        labels.extend_from_slice(&block_labels);
    }
    Ok(score(&margins, &labels))
}
