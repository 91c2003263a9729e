use std::panic::{AssertUnwindSafe, catch_unwind};

use gradwire_kernels::{Dtype, Isa, RowLayout, Rule, update_rows};
use proptest::prelude::*;

use crate::isas;
use crate::numbers::Random;
use crate::oracle::{self, RULES};

/// A word that no update may touch.
const GUARD: u32 = 0xdead_beef;

/// Rows with guard words between them, in an arena that starts at any word.
struct Arena {
    words: Vec<u32>,
    /// Word of each row, in units.
    offsets: Vec<u32>,
    unit: usize,
}

impl Arena {
    /// `rows` rows in shuffled places; one guard word or more before, between and after them.
    fn new(layout: &RowLayout, rows: usize, unit: usize, random: &mut Random) -> Arena {
        let stride = (layout.words() + 1).div_ceil(unit);
        let mut places: Vec<usize> = (0..rows).collect();
        for i in (1..rows).rev() {
            places.swap(i, random.below(i + 1));
        }
        let lead = 1 + random.below(5);
        let offsets: Vec<u32> = places.iter().map(|place| (lead + place * stride) as u32).collect();
        let mut words = vec![GUARD; (lead + rows * stride) * unit];
        for &offset in &offsets {
            words[offset as usize * unit..][..layout.words()].fill(0);
        }
        Arena { words, offsets, unit }
    }

    fn row(&mut self, offset: u32, layout: &RowLayout) -> &mut [u32] {
        &mut self.words[offset as usize * self.unit..][..layout.words()]
    }
}

/// Applies the same pushes by the oracle and by every instruction set; words must agree, guards included.
fn compare(rule: &Rule, layout: &RowLayout, arena: &Arena, pushes: &[(Vec<u32>, Vec<f32>)]) {
    let mut expected = Arena { words: arena.words.clone(), offsets: Vec::new(), unit: arena.unit };
    for (offsets, gradients) in pushes {
        for (&offset, gradient) in offsets.iter().zip(gradients.chunks(layout.dim())) {
            oracle::update(rule, layout, expected.row(offset, layout), gradient);
        }
    }
    for isa in isas() {
        let mut words = arena.words.clone();
        for (offsets, gradients) in pushes {
            update_rows(isa, rule, layout, &mut words, arena.unit, offsets, gradients);
        }
        let differs = (0..words.len()).find(|&at| words[at] != expected.words[at]);
        let show = differs.map(|at| (at, words[at], expected.words[at]));
        assert_eq!(show, None, "{isa} {rule:?} {layout:?}: word, found, expected");
    }
}

fn gradients(count: usize, rarity: usize, random: &mut Random) -> Vec<f32> {
    (0..count).map(|_| random.float(rarity)).collect()
}

#[test]
fn all_rules_dims_and_formats_agree_with_the_oracle_in_every_bit() {
    for rule in RULES {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            for dim in 1..=67 {
                let mut random = Random(dim as u64);
                let layout = RowLayout::new(&rule, dim, dtype);
                let rows = if dim == 1 {
                    300
                } else if dim <= 8 {
                    70
                } else {
                    5
                };
                let unit = [1, 1, 3, 16][dim % 4];
                let arena = Arena::new(&layout, rows, unit, &mut random);
                // Ordinary numbers first, so that states are not all NaN, then awkward ones.
                let pushes: Vec<_> = [1000, 1000, 6, 3]
                    .map(|rarity| (arena.offsets.clone(), gradients(rows * dim, rarity, &mut random)))
                    .into();
                compare(&rule, &layout, &arena, &pushes);
            }
        }
    }
}

#[test]
fn every_number_of_rows_agrees_with_the_oracle() {
    for rule in RULES {
        for dim in [1, 2, 4, 8, 3, 16] {
            let layout = RowLayout::new(&rule, dim, Dtype::F32);
            for rows in (0..=67).chain([255, 256, 257, 513]) {
                let mut random = Random(rows as u64);
                let arena = Arena::new(&layout, rows, 1, &mut random);
                let pushes = vec![(arena.offsets.clone(), gradients(rows * dim, 20, &mut random))];
                compare(&rule, &layout, &arena, &pushes);
            }
        }
    }
}

#[test]
fn a_repeated_row_sees_each_of_its_updates_in_order() {
    for rule in RULES {
        for (dim, dtype) in
            [1, 2, 4, 8, 5, 16, 33].into_iter().flat_map(|d| [(d, Dtype::F32), (d, Dtype::Bf16)])
        {
            let layout = RowLayout::new(&rule, dim, dtype);
            for rows in [1, 2, 3, 40] {
                let mut random = Random(rows as u64);
                let arena = Arena::new(&layout, rows, 1, &mut random);
                let offsets: Vec<u32> = (0..300).map(|_| arena.offsets[random.below(rows)]).collect();
                let pushes = vec![(offsets, gradients(300 * dim, 50, &mut random))];
                compare(&rule, &layout, &arena, &pushes);
            }
        }
    }
}

#[test]
fn two_equal_rows_far_apart_in_a_group_are_noticed() {
    let pairs = [
        (0, 1),
        (0, 15),
        (14, 15),
        (15, 16),
        (0, 255),
        (31, 32),
        (254, 255),
        (0, 256),
        (255, 256),
        (256, 511),
    ];
    for rule in [Rule::Adagrad { lr: 0.5, epsilon: 1e-8 }, Rule::Add, Rule::Assign, Rule::Max] {
        let layout = RowLayout::new(&rule, 1, Dtype::F32);
        for (first, second) in pairs {
            let mut random = Random(7);
            let arena = Arena::new(&layout, 512, 1, &mut random);
            let mut offsets = arena.offsets.clone();
            offsets[second] = offsets[first];
            compare(&rule, &layout, &arena, &[(offsets, gradients(512, 1000, &mut random))]);
        }
    }
}

#[test]
fn denormal_values_and_gradients_are_kept() {
    let denormal = f32::from_bits(3);
    for isa in isas() {
        for dim in [1, 4, 5, 16, 17] {
            let layout = RowLayout::new(&Rule::Add, dim, Dtype::F32);
            let mut words = vec![0; dim];
            for _ in 0..2 {
                update_rows(isa, &Rule::Add, &layout, &mut words, 1, &[0], &vec![denormal; dim]);
            }
            assert_eq!(words, vec![6; dim], "{isa}");
        }
    }
}

#[test]
fn rows_past_the_end_are_refused_and_nothing_changes() {
    let rule = Rule::Momentum { lr: 0.1, momentum: 0.5 };
    for isa in isas() {
        for dim in [1, 8, 20] {
            let layout = RowLayout::new(&rule, dim, Dtype::F32);
            let words = vec![1u32; layout.words() * 4];
            let ones = vec![1.0; 2 * dim];
            let last = (layout.words() * 3) as u32;
            for bad in [last + 1, last * 2, u32::MAX] {
                for offsets in [[0, bad], [bad, 0]] {
                    let mut changed = words.clone();
                    let refused = catch_unwind(AssertUnwindSafe(|| {
                        update_rows(isa, &rule, &layout, &mut changed, 1, &offsets, &ones);
                    }));
                    assert!(refused.is_err(), "{isa} {bad}");
                    assert_eq!(changed, words);
                }
            }
            // A huge unit must not wrap around into the memory.
            for unit in [1 << 40, usize::MAX] {
                let refused = catch_unwind(AssertUnwindSafe(|| {
                    update_rows(isa, &rule, &layout, &mut words.clone(), unit, &[0, 1 << 31], &ones);
                }));
                assert!(refused.is_err(), "{isa} unit {unit}");
            }
            let mut good = words.clone();
            update_rows(isa, &rule, &layout, &mut good, 1, &[0, last], &ones);
            assert_ne!(good, words);
        }
    }
}

#[test]
fn gradients_of_the_wrong_length_and_foreign_layouts_are_refused() {
    let layout = RowLayout::new(&Rule::Add, 4, Dtype::F32);
    let adagrad = Rule::Adagrad { lr: 0.1, epsilon: 1e-8 };
    for (rule, len) in [(Rule::Add, 3), (Rule::Add, 5), (adagrad, 4)] {
        let refused = catch_unwind(|| {
            update_rows(Isa::Scalar, &rule, &layout, &mut [0; 64], 1, &[0], &vec![0.0; len]);
        });
        assert!(refused.is_err(), "{rule:?} {len}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn any_pushes_of_any_bits_agree_with_the_oracle(
        rule in 0..RULES.len(),
        bf16: bool,
        dim in prop_oneof![4 => 1usize..10, 1 => 10usize..70],
        rows in 1usize..90,
        seed: u64,
        raw in proptest::collection::vec(any::<u32>(), 64),
    ) {
        let rule = RULES[rule];
        let layout = RowLayout::new(&rule, dim, if bf16 { Dtype::Bf16 } else { Dtype::F32 });
        let mut random = Random(seed);
        let arena = Arena::new(&layout, rows, 1 + random.below(4), &mut random);
        let pushes: Vec<(Vec<u32>, Vec<f32>)> = (0..3)
            .map(|_| {
                let offsets: Vec<u32> =
                    (0..random.below(100)).map(|_| arena.offsets[random.below(rows)]).collect();
                let gradients = (0..offsets.len() * dim)
                    .map(|_| match random.below(8) {
                        0 => f32::from_bits(raw[random.below(64)]),
                        _ => random.unit(),
                    })
                    .collect();
                (offsets, gradients)
            })
            .collect();
        compare(&rule, &layout, &arena, &pushes);
    }
}
