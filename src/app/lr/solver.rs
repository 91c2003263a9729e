//! The solvers of logistic regression: which optimizer the table runs and what a minibatch pushes to it.

use gradwire_kernels::Rule;
use serde::{Deserialize, Serialize};

/// Keeps adagrad's first step finite; far below any gradient that matters.
const ADAGRAD_EPSILON: f32 = 1e-8;

/// A solver with its rates. Each has its own scale, chosen so that the defaults converge and no rate has to follow
/// the size of the minibatch:
///
/// | solver | pushes | penalty |
/// |---|---|---|
/// | ftrl | the gradient summed over the minibatch | l1 and l2 of the formula, against the sum of losses |
/// | adagrad, sgd | the gradient's mean over the minibatch | `l2 w` is added for the keys of the minibatch only |
///
/// The lazy l2 of adagrad and sgd shrinks a key once in each minibatch that has it, so a rare key is shrunk rarely.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "lowercase", deny_unknown_fields)]
pub enum Solver {
    /// FTRL-proximal (McMahan et al. 2013): sparse weights, a rate of its own for each key.
    Ftrl {
        /// Learning rate.
        alpha: f32,
        /// Damps the first steps of a key.
        beta: f32,
        /// L1 penalty; keeps weights at exactly 0.
        l1: f32,
        /// L2 penalty.
        l2: f32,
    },
    /// Adagrad (Duchi et al. 2011).
    Adagrad {
        /// Learning rate.
        lr: f32,
        /// Lazy L2 penalty.
        l2: f32,
    },
    /// Plain stochastic gradient descent.
    Sgd {
        /// Learning rate.
        lr: f32,
        /// Lazy L2 penalty.
        l2: f32,
    },
}

impl Solver {
    /// FTRL with the rates that suit one pass over categorical data.
    pub const FTRL: Self = Self::Ftrl { alpha: 0.1, beta: 1.0, l1: 0.0, l2: 1.0 };
    /// Adagrad with a rate that suits the same.
    pub const ADAGRAD: Self = Self::Adagrad { lr: 0.1, l2: 0.0 };
    /// SGD with a rate that is stable for rows of a dozen ones and a few minibatches of delay; it needs more passes.
    pub const SGD: Self = Self::Sgd { lr: 0.5, l2: 0.0 };

    /// The name that flags use.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ftrl { .. } => "ftrl",
            Self::Adagrad { .. } => "adagrad",
            Self::Sgd { .. } => "sgd",
        }
    }

    /// The optimizer of the weights' table.
    #[must_use]
    pub fn rule(&self) -> Rule {
        match *self {
            Self::Ftrl { alpha, beta, l1, l2 } => Rule::Ftrl { alpha, beta, l1, l2 },
            Self::Adagrad { lr, .. } => Rule::Adagrad { lr, epsilon: ADAGRAD_EPSILON },
            Self::Sgd { lr, .. } => Rule::Sgd { lr },
        }
    }

    /// What each example's slope is multiplied by: 1 for a sum, 1/rows for a mean.
    pub(super) fn slope_scale(&self, rows: usize) -> f32 {
        match self {
            Self::Ftrl { .. } => 1.0,
            Self::Adagrad { .. } | Self::Sgd { .. } => 1.0 / rows as f32,
        }
    }

    /// The penalty that a worker adds to the gradient; the ftrl rule applies its own.
    pub(super) fn lazy_l2(&self) -> f32 {
        match *self {
            Self::Ftrl { .. } => 0.0,
            Self::Adagrad { l2, .. } | Self::Sgd { l2, .. } => l2,
        }
    }

    /// Checks every rate.
    ///
    /// # Errors
    /// [`SolverError`] names the solver and the rate.
    pub fn check(&self) -> Result<(), SolverError> {
        let (l2, name) = (self.lazy_l2(), self.name());
        if !(l2.is_finite() && l2 >= 0.0) {
            return Err(SolverError {
                solver: name,
                reason: format!("l2 is {l2}; give 0 or a positive number"),
            });
        }
        self.rule().validate().map_err(|e| SolverError { solver: name, reason: e.to_string() })
    }
}

/// A rate that no training can work with.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("solver {solver}: {reason}")]
pub struct SolverError {
    solver: &'static str,
    reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_solver_survives_its_json_form() {
        for solver in [Solver::FTRL, Solver::ADAGRAD, Solver::SGD] {
            let json = serde_json::to_string(&solver).unwrap();
            assert_eq!(serde_json::from_str::<Solver>(&json).unwrap(), solver, "{json}");
        }
        assert_eq!(
            serde_json::to_string(&Solver::FTRL).unwrap(),
            r#"{"rule":"ftrl","alpha":0.1,"beta":1.0,"l1":0.0,"l2":1.0}"#
        );
    }

    #[test]
    fn rates_that_cannot_train_are_refused_by_name() {
        let lr = Solver::Sgd { lr: -1.0, l2: 0.0 }.check().unwrap_err().to_string();
        assert!(lr.contains("sgd") && lr.contains("lr"), "{lr}");
        let l2 = Solver::Adagrad { lr: 0.1, l2: f32::NAN }.check().unwrap_err().to_string();
        assert!(l2.contains("l2"), "{l2}");
        assert_eq!(Solver::FTRL.check(), Ok(()));
    }
}
