//! How far a job is: counters that workers add to and the terminal reads, without either waiting.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Shared between a job and whoever shows it. All counters are Relaxed: they are shown, never decided on.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
    /// Bits of the newest loss; all zero for none, since no loss that matters is exactly 0.
    loss: AtomicU64,
    stage: Mutex<Stage>,
}

/// What the job is at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stage {
    /// Such as `epoch 1/3`.
    pub name: String,
    /// What is counted, such as `examples`.
    pub unit: &'static str,
}

/// One look at a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Units done in this stage.
    pub done: u64,
    /// Units of this stage, if known.
    pub total: Option<u64>,
    /// Mean loss of the newest minibatch.
    pub loss: Option<f64>,
    /// The stage.
    pub stage: Stage,
}

impl Progress {
    /// Begins a stage and counts from zero.
    pub fn begin(&self, name: impl Into<String>, unit: &'static str, total: Option<u64>) {
        *self.stage() = Stage { name: name.into(), unit };
        self.loss.store(0, Ordering::Relaxed);
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total.unwrap_or(0), Ordering::Relaxed);
    }

    /// Adds finished units.
    pub fn add(&self, units: u64) {
        self.done.fetch_add(units, Ordering::Relaxed);
    }

    /// States how many units of the stage are finished.
    pub fn set(&self, units: u64) {
        self.done.store(units, Ordering::Relaxed);
    }

    /// Shows the mean loss of a minibatch.
    pub fn note_loss(&self, loss: f64) {
        self.loss.store(loss.to_bits(), Ordering::Relaxed);
    }

    /// How far the job is.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let (total, loss) = (self.total.load(Ordering::Relaxed), self.loss.load(Ordering::Relaxed));
        Snapshot {
            done: self.done.load(Ordering::Relaxed),
            total: (total > 0).then_some(total),
            loss: (loss != 0).then_some(f64::from_bits(loss)),
            stage: self.stage().clone(),
        }
    }

    fn stage(&self) -> std::sync::MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_counts_from_zero_and_forgets_the_last_ones_loss() {
        let progress = Progress::default();
        progress.add(5);
        progress.begin("epoch 1/2", "examples", Some(10));
        progress.add(2);
        progress.add(3);
        progress.note_loss(0.5);
        let seen = progress.snapshot();
        assert_eq!((seen.done, seen.total, seen.loss), (5, Some(10), Some(0.5)));
        progress.begin("evaluation", "examples", None);
        let stage = Stage { name: "evaluation".into(), unit: "examples" };
        assert_eq!(progress.snapshot(), Snapshot { done: 0, total: None, loss: None, stage });
    }
}
