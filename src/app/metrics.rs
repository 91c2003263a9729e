//! Logistic loss, its derivative, and the area under the ROC curve.

use serde::{Deserialize, Serialize};

/// What one example says about a margin: its loss and the loss's derivative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Logistic {
    /// `ln(1 + exp(-y m))` for y = ±1.
    pub loss: f64,
    /// Derivative by the margin, `probability - label`.
    pub slope: f32,
}

/// Loss and slope of a margin under a label of 0 or 1.
///
/// One exponential serves both, of a number that is never positive, so that no margin overflows.
#[must_use]
pub fn logistic(margin: f32, label: f32) -> Logistic {
    let margin = f64::from(margin);
    let tail = (-margin.abs()).exp();
    let positive = label > 0.5;
    // The margin points the wrong way when its sign is not the label's; then the loss grows linearly with it.
    let wrong = if positive { -margin } else { margin };
    let probability = probability_from_tail(margin, tail);
    Logistic {
        loss: wrong.max(0.0) + tail.ln_1p(),
        slope: (probability - if positive { 1.0 } else { 0.0 }) as f32,
    }
}

/// Probability of a positive label at a margin.
#[must_use]
pub fn probability(margin: f32) -> f32 {
    let margin = f64::from(margin);
    probability_from_tail(margin, (-margin.abs()).exp()) as f32
}

fn probability_from_tail(margin: f64, tail: f64) -> f64 {
    if margin >= 0.0 { 1.0 / (1.0 + tail) } else { tail / (1.0 + tail) }
}

/// How well margins foretell labels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Examples scored.
    pub examples: u64,
    /// Mean logistic loss; NaN for no examples.
    pub logloss: f64,
    /// Area under the ROC curve; none when one of the two labels is missing or a margin is not a number.
    pub auc: Option<f64>,
    /// Mean loss of the best constant prediction: the entropy of the labels. What a model has to beat.
    pub base_logloss: f64,
}

/// Scores margins against labels of 0 or 1, exactly: no bins, ties count half.
///
/// # Panics
/// When the two differ in length.
#[must_use]
pub fn score(margins: &[f32], labels: &[f32]) -> Score {
    assert_eq!(margins.len(), labels.len(), "one margin for each label");
    let examples = margins.len();
    let loss: f64 = margins.iter().zip(labels).map(|(&m, &y)| logistic(m, y).loss).sum();
    let positives = labels.iter().filter(|&&y| y > 0.5).count();
    Score {
        examples: examples as u64,
        logloss: loss / examples as f64,
        auc: auc(margins, labels),
        base_logloss: entropy(positives as f64 / examples as f64),
    }
}

/// Mean loss of predicting the rate of positives for every example.
#[must_use]
pub fn entropy(rate: f64) -> f64 {
    if rate <= 0.0 || rate >= 1.0 { 0.0 } else { -(rate * rate.ln() + (1.0 - rate) * (1.0 - rate).ln()) }
}

/// The chance that a positive example has a larger margin than a negative one, by ranks; a tie is half a win.
fn auc(margins: &[f32], labels: &[f32]) -> Option<f64> {
    if margins.iter().any(|m| m.is_nan()) {
        return None;
    }
    let mut order: Vec<(f32, bool)> = margins.iter().copied().zip(labels.iter().map(|&y| y > 0.5)).collect();
    order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let (mut negatives_below, mut positives) = (0_u64, 0_u64);
    // Twice the number of pairs won, in integers: exact for up to 2^31 examples of each label.
    let mut doubled_wins = 0_u128;
    for tied in order.chunk_by(|a, b| a.0 == b.0) {
        let up = tied.iter().filter(|(_, y)| *y).count() as u64;
        let down = tied.len() as u64 - up;
        doubled_wins += u128::from(up) * u128::from(2 * negatives_below + down);
        negatives_below += down;
        positives += up;
    }
    if positives == 0 || negatives_below == 0 {
        return None;
    }
    Some(doubled_wins as f64 / 2.0 / (positives as f64 * negatives_below as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive_auc(margins: &[f32], labels: &[f32]) -> Option<f64> {
        let (mut wins, mut pairs) = (0.0, 0.0);
        for (i, &a) in margins.iter().enumerate() {
            for (j, &b) in margins.iter().enumerate() {
                if labels[i] > 0.5 && labels[j] <= 0.5 {
                    pairs += 1.0;
                    wins += if a > b {
                        1.0
                    } else if a == b {
                        0.5
                    } else {
                        0.0
                    };
                }
            }
        }
        (pairs > 0.0).then(|| wins / pairs)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn auc_counts_pairs_as_the_naive_double_loop_does(
            pairs in prop::collection::vec((-4_i8..4, any::<bool>()), 0..60)
        ) {
            let margins: Vec<f32> = pairs.iter().map(|p| f32::from(p.0) / 2.0).collect();
            let labels: Vec<f32> = pairs.iter().map(|p| if p.1 { 1.0 } else { 0.0 }).collect();
            prop_assert_eq!(auc(&margins, &labels), naive_auc(&margins, &labels));
        }

        #[test]
        fn loss_and_slope_agree_with_the_textbook_formulas(margin in -30_f32..30.0, positive in any::<bool>()) {
            let label = if positive { 1.0 } else { 0.0 };
            let p = 1.0 / (1.0 + (-f64::from(margin)).exp());
            let naive = if positive { -p.ln() } else { -(1.0 - p).ln() };
            let found = logistic(margin, label);
            prop_assert!((found.loss - naive).abs() < 1e-3 * (1.0 + naive));
            prop_assert!((f64::from(found.slope) - (p - f64::from(label))).abs() < 1e-6);
            prop_assert!((f64::from(probability(margin)) - p).abs() < 1e-6);
        }
    }

    #[test]
    fn extreme_margins_neither_overflow_nor_lose_the_loss() {
        assert_eq!(logistic(1e30, 1.0), Logistic { loss: 0.0, slope: 0.0 });
        assert_eq!(logistic(-1e30, 0.0), Logistic { loss: 0.0, slope: 0.0 });
        let wrong = logistic(1e4, 0.0);
        assert_eq!((wrong.loss, wrong.slope), (1e4, 1.0));
        assert_eq!((probability(f32::INFINITY), probability(f32::NEG_INFINITY)), (1.0, 0.0));
    }

    #[test]
    fn zeros_of_either_sign_are_tied() {
        assert_eq!(auc(&[0.0, -0.0], &[1.0, 0.0]), Some(0.5));
    }

    #[test]
    fn one_label_alone_or_a_margin_that_is_no_number_has_no_auc() {
        assert_eq!(score(&[0.1, 0.2], &[1.0, 1.0]).auc, None);
        assert_eq!(score(&[0.1, f32::NAN], &[1.0, 0.0]).auc, None);
    }

    #[test]
    fn a_score_tells_the_mean_loss_and_the_base_rates() {
        let found = score(&[0.0; 4], &[1.0, 0.0, 0.0, 0.0]);
        assert!((found.logloss - std::f64::consts::LN_2).abs() < 1e-12);
        assert!((found.base_logloss - entropy(0.25)).abs() < 1e-12);
        assert_eq!((found.examples, found.auc), (4, Some(0.5)));
    }
}
