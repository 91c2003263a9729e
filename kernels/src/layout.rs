//! Where the words of a row are: values first, then planes of state, then scalars of the whole row.
//!
//! | rule | values | state, in order |
//! |---|---|---|
//! | sgd, add, assign, max | `w` | none |
//! | momentum, nesterov | `w` | `v[dim]` |
//! | adagrad | `w` | `s[dim]` |
//! | row-adagrad | `w` | `s` |
//! | adam | `w` | `m[dim]`, `s[dim]`, `1 - beta1^t`, `1 - beta2^t` |
//! | ftrl | none | `z[dim]`, `n[dim]` |
//!
//! All words 0 is a valid fresh row of every rule, which is why Adam keeps one minus its powers. bf16 values are two
//! to a word, the even index in the low half; the unused half of an odd `dim` stays 0.

use crate::rule::{Dtype, Rule};

/// Word counts of a row, derived from rule, dimension and dtype.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowLayout {
    dim: usize,
    dtype: Dtype,
    value_words: usize,
    state_words: usize,
}

impl RowLayout {
    /// Panics if `dim` is 0: schemas are validated before.
    pub fn new(rule: &Rule, dim: usize, dtype: Dtype) -> RowLayout {
        assert!(dim > 0, "a row has at least one value");
        let value_words = match dtype {
            Dtype::F32 => dim,
            Dtype::Bf16 => dim.div_ceil(2),
        };
        let (dtype, value_words, state_words) = match rule {
            Rule::Sgd { .. } | Rule::Add | Rule::Assign | Rule::Max => (dtype, value_words, 0),
            Rule::Momentum { .. } | Rule::Nesterov { .. } | Rule::Adagrad { .. } => (dtype, value_words, dim),
            Rule::RowAdagrad { .. } => (dtype, value_words, 1),
            Rule::Adam { .. } => (dtype, value_words, 2 * dim + 2),
            Rule::Ftrl { .. } => (Dtype::F32, 0, 2 * dim),
        };
        RowLayout { dim, dtype, value_words, state_words }
    }

    /// Values a row has for its users, also where none are stored (ftrl).
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Format of the values; always [`Dtype::F32`] for ftrl.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// 32-bit words of a row.
    pub fn words(&self) -> usize {
        self.value_words + self.state_words
    }

    /// Words of stored values, from the row's start.
    pub fn value_words(&self) -> usize {
        self.value_words
    }

    /// Words of state, after the values.
    pub fn state_words(&self) -> usize {
        self.state_words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_documented_words() {
        let adam = Rule::Adam { lr: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 1e-8 };
        let ftrl = Rule::Ftrl { alpha: 0.1, beta: 1.0, l1: 0.0, l2: 1.0 };
        for (rule, dim, dtype, value_words, state_words) in [
            (Rule::Add, 1, Dtype::F32, 1, 0),
            (Rule::Add, 5, Dtype::Bf16, 3, 0),
            (Rule::Adagrad { lr: 0.1, epsilon: 1e-8 }, 4, Dtype::Bf16, 2, 4),
            (Rule::RowAdagrad { lr: 0.1, epsilon: 1e-8 }, 64, Dtype::F32, 64, 1),
            (adam, 8, Dtype::F32, 8, 18),
            (ftrl, 1, Dtype::F32, 0, 2),
            (ftrl, 3, Dtype::Bf16, 0, 6),
        ] {
            let layout = RowLayout::new(&rule, dim, dtype);
            assert_eq!((layout.value_words(), layout.state_words()), (value_words, state_words), "{rule:?}");
            assert_eq!(layout.words(), value_words + state_words);
            assert_eq!(layout.dim(), dim);
        }
    }
}
