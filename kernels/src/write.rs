//! Setting the values of one row: initialisation, assignment by a user, import of a model.

use crate::codec::half::f32_to_bf16_bits;
use crate::isa::Isa;
use crate::layout::RowLayout;
use crate::rule::{Dtype, Rule};
use crate::update::ftrl::Ftrl;
use crate::vector::CANONICAL_NAN;

/// Sets the values of `row`; its state is left as it is, so pass zeroed words for a fresh row.
///
/// Ftrl stores no values: z is chosen such that the weight is `values[i]` while n is 0, and n is set to 0. That is
/// exact for 0; other weights come back within a few roundings, and those that l1 absorbs come back as 0.
/// Whole rows with their state are copied as words, which needs no function here.
///
/// Panics if `row` or `values` are not as long as `layout` says, or if `layout` is not that of `rule`.
pub fn write_values(isa: Isa, rule: &Rule, layout: &RowLayout, row: &mut [u32], values: &[f32]) {
    // The work is a few words; every instruction set shares the plain loops.
    let _ = isa;
    assert_eq!(*layout, RowLayout::new(rule, layout.dim(), layout.dtype()), "layout of another rule");
    assert_eq!((row.len(), values.len()), (layout.words(), layout.dim()), "row or values of another layout");
    if let Rule::Ftrl { alpha, beta, l1, l2 } = *rule {
        let ftrl = Ftrl::new(alpha, beta, l1, l2);
        let (z, n) = row.split_at_mut(layout.dim());
        for (z, &value) in z.iter_mut().zip(values) {
            *z = ftrl.z_of(value).to_bits();
        }
        n.fill(0);
        return;
    }
    match layout.dtype() {
        Dtype::F32 => {
            for (word, &value) in row.iter_mut().zip(values) {
                *word = if value.is_nan() { CANONICAL_NAN.to_bits() } else { value.to_bits() };
            }
        }
        Dtype::Bf16 => {
            let words = &mut row[..layout.value_words()];
            for (word, pair) in words.iter_mut().zip(values.chunks(2)) {
                let half = |i: usize| pair.get(i).map_or(0, |x| u32::from(f32_to_bf16_bits(x.to_bits())));
                *word = half(0) | half(1) << 16;
            }
        }
    }
}
