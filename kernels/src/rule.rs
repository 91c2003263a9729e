//! Update rules: what a push does to a row, with the parameters that the user chose.

use std::fmt;

/// Format of the values of a row; optimizer state is always f32.
///
/// # Example
/// ```
/// use gradwire_kernels::{Dtype, RowLayout, Rule};
/// let words = |dtype| RowLayout::new(&Rule::Add, 16, dtype).words();
/// assert_eq!((words(Dtype::F32), words(Dtype::Bf16)), (16, 8));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// 32-bit IEEE floats.
    F32,
    /// The upper half of an f32, rounded to nearest even at each store. Ftrl stores no values and ignores it.
    Bf16,
}

/// How a pushed `g` changes the values `w` of a row and its state. Order of operations: the files of `update/`.
///
/// # Example
/// ```
/// use gradwire_kernels::Rule;
/// assert!(Rule::Sgd { lr: 0.1 }.validate().is_ok());
/// assert!(Rule::Sgd { lr: f32::NAN }.validate().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// `w -= lr g`.
    Sgd {
        /// Learning rate.
        lr: f32,
    },
    /// `v = momentum v + g; w -= lr v`.
    Momentum {
        /// Learning rate.
        lr: f32,
        /// Share of the old velocity, in [0, 1).
        momentum: f32,
    },
    /// `v = momentum v + g; w -= lr (g + momentum v)`.
    Nesterov {
        /// Learning rate.
        lr: f32,
        /// Share of the old velocity, in [0, 1).
        momentum: f32,
    },
    /// `s += g^2; w -= lr g / (sqrt(s) + epsilon)`.
    Adagrad {
        /// Learning rate.
        lr: f32,
        /// Keeps the divisor positive.
        epsilon: f32,
    },
    /// Adagrad with one `s` for the whole row, which grows by the mean of `g^2`.
    RowAdagrad {
        /// Learning rate.
        lr: f32,
        /// Keeps the divisor positive.
        epsilon: f32,
    },
    /// Adam (Kingma 2015, algorithm 1), lazy: a row's step count rises only when it is pushed.
    Adam {
        /// Learning rate.
        lr: f32,
        /// Decay of the first moment, in [0, 1).
        beta1: f32,
        /// Decay of the second moment, in [0, 1).
        beta2: f32,
        /// Keeps the divisor positive.
        epsilon: f32,
    },
    /// FTRL-proximal (McMahan 2013, algorithm 1). State is (z, n); the weight is derived when it is read.
    Ftrl {
        /// Learning rate.
        alpha: f32,
        /// Damps the first steps.
        beta: f32,
        /// L1 penalty: weights whose `|z|` does not pass it are 0.
        l1: f32,
        /// L2 penalty.
        l2: f32,
    },
    /// `w += g`.
    Add,
    /// `w = g`.
    Assign,
    /// `w = max(w, g)`; a NaN wins, and +0 over -0. A fresh row is 0, so only values above its initial one count.
    Max,
}

/// A parameter that no update can work with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RuleError {
    /// One field is outside its range.
    Field {
        /// Name of the rule.
        rule: &'static str,
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: f32,
        /// What is accepted, in words.
        accepted: &'static str,
    },
    /// Ftrl's divisor `beta / alpha + l2` would be 0 for a row that saw no gradient.
    NoDamping,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RuleError::Field { rule, field, value, accepted } => {
                write!(f, "{rule}: {field} is {value}: give {accepted}")
            }
            RuleError::NoDamping => f.write_str("ftrl: beta and l2 are both 0: make one of them positive"),
        }
    }
}

impl std::error::Error for RuleError {}

/// Accepted ranges, with the words of the error.
#[derive(Clone, Copy)]
enum Range {
    NotNegative,
    /// Positive, and so large that its reciprocal is finite: it is divided by.
    Positive,
    /// 0 <= x < 1.
    Fraction,
}

impl Range {
    fn holds(self, x: f32) -> bool {
        match self {
            Range::NotNegative => x >= 0.0 && x.is_finite(),
            Range::Positive => x > 0.0 && x.is_finite() && (1.0 / x).is_finite(),
            Range::Fraction => (0.0..1.0).contains(&x),
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Range::NotNegative => "a finite number that is not negative",
            Range::Positive => "a finite number above 0 (and above 3e-39)",
            Range::Fraction => "a number of at least 0 and below 1",
        }
    }
}

impl Rule {
    /// The name that flags, reports and errors use.
    pub fn name(&self) -> &'static str {
        match self {
            Rule::Sgd { .. } => "sgd",
            Rule::Momentum { .. } => "momentum",
            Rule::Nesterov { .. } => "nesterov",
            Rule::Adagrad { .. } => "adagrad",
            Rule::RowAdagrad { .. } => "row-adagrad",
            Rule::Adam { .. } => "adam",
            Rule::Ftrl { .. } => "ftrl",
            Rule::Add => "add",
            Rule::Assign => "assign",
            Rule::Max => "max",
        }
    }

    /// Refuses parameters that are negative, infinite, NaN, or make a divisor 0.
    ///
    /// Errors: the first bad field with its value; the table is not created.
    pub fn validate(&self) -> Result<(), RuleError> {
        use Range::{Fraction, NotNegative, Positive};
        let check = |fields: &[(&'static str, f32, Range)]| -> Result<(), RuleError> {
            for &(field, value, range) in fields {
                if !range.holds(value) {
                    return Err(RuleError::Field {
                        rule: self.name(),
                        field,
                        value,
                        accepted: range.words(),
                    });
                }
            }
            Ok(())
        };
        match *self {
            Rule::Sgd { lr } => check(&[("lr", lr, NotNegative)]),
            Rule::Momentum { lr, momentum } | Rule::Nesterov { lr, momentum } => {
                check(&[("lr", lr, NotNegative), ("momentum", momentum, Fraction)])
            }
            Rule::Adagrad { lr, epsilon } | Rule::RowAdagrad { lr, epsilon } => {
                check(&[("lr", lr, NotNegative), ("epsilon", epsilon, Positive)])
            }
            Rule::Adam { lr, beta1, beta2, epsilon } => check(&[
                ("lr", lr, NotNegative),
                ("beta1", beta1, Fraction),
                ("beta2", beta2, Fraction),
                ("epsilon", epsilon, Positive),
            ]),
            Rule::Ftrl { alpha, beta, l1, l2 } => {
                check(&[
                    ("alpha", alpha, Positive),
                    ("beta", beta, NotNegative),
                    ("l1", l1, NotNegative),
                    ("l2", l2, NotNegative),
                ])?;
                if beta == 0.0 && l2 == 0.0 { Err(RuleError::NoDamping) } else { Ok(()) }
            }
            Rule::Add | Rule::Assign | Rule::Max => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn useful_parameters_are_accepted() {
        for rule in [
            Rule::Sgd { lr: 0.0 },
            Rule::Momentum { lr: 0.1, momentum: 0.9 },
            Rule::Nesterov { lr: 0.1, momentum: 0.0 },
            Rule::Adagrad { lr: 0.1, epsilon: 1e-10 },
            Rule::RowAdagrad { lr: 0.1, epsilon: 1e-10 },
            Rule::Adam { lr: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 },
            Rule::Ftrl { alpha: 0.1, beta: 1.0, l1: 0.0, l2: 0.0 },
            Rule::Ftrl { alpha: 0.1, beta: 0.0, l1: 0.0, l2: 1.0 },
            Rule::Add,
            Rule::Assign,
            Rule::Max,
        ] {
            assert_eq!(rule.validate(), Ok(()), "{rule:?}");
        }
    }

    #[test]
    fn a_bad_parameter_is_refused_by_name() {
        let nan = f32::NAN;
        for (rule, field) in [
            (Rule::Sgd { lr: -0.1 }, "lr"),
            (Rule::Sgd { lr: nan }, "lr"),
            (Rule::Momentum { lr: 0.1, momentum: 1.0 }, "momentum"),
            (Rule::Nesterov { lr: f32::INFINITY, momentum: 0.5 }, "lr"),
            (Rule::Adagrad { lr: 0.1, epsilon: 0.0 }, "epsilon"),
            (Rule::RowAdagrad { lr: 0.1, epsilon: nan }, "epsilon"),
            (Rule::Adam { lr: 0.1, beta1: -0.1, beta2: 0.9, epsilon: 1e-8 }, "beta1"),
            (Rule::Adam { lr: 0.1, beta1: 0.1, beta2: 1.5, epsilon: 1e-8 }, "beta2"),
            (Rule::Ftrl { alpha: 0.0, beta: 1.0, l1: 0.0, l2: 0.0 }, "alpha"),
            (Rule::Ftrl { alpha: 1e-42, beta: 1.0, l1: 0.0, l2: 0.0 }, "alpha"),
            (Rule::Ftrl { alpha: 0.1, beta: 1.0, l1: -1.0, l2: 0.0 }, "l1"),
            (Rule::Ftrl { alpha: 0.1, beta: 1.0, l1: 0.0, l2: nan }, "l2"),
            (Rule::Ftrl { alpha: 0.1, beta: 0.0, l1: 0.0, l2: 0.0 }, "l2"),
        ] {
            let message = rule.validate().unwrap_err().to_string();
            assert!(message.contains(field) && message.contains(rule.name()), "{message}");
        }
    }
}
