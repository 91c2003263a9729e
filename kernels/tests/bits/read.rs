use std::panic::catch_unwind;

use gradwire_kernels::{
    Dtype, Isa, MISSING, RowLayout, Rule, prefetch_word, read_rows, update_rows, write_values,
};

use crate::isas;
use crate::numbers::{AWKWARD, Random, bits, canonical};
use crate::oracle::{self, RULES};

#[test]
fn reads_give_the_weights_and_leave_missing_rows_alone() {
    for rule in RULES {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            for dim in 1..=67 {
                let layout = RowLayout::new(&rule, dim, dtype);
                let rows = 37;
                let mut random = Random(dim as u64);
                let memory: Vec<u32> = (0..rows * layout.words() + 3)
                    .map(|_| match random.below(5) {
                        0 => AWKWARD[random.below(AWKWARD.len())],
                        _ => random.unit().to_bits(),
                    })
                    .collect();
                let offsets: Vec<u32> = (0..rows)
                    .map(|_| match random.below(4) {
                        0 => MISSING,
                        _ => random.below((rows - 1) * layout.words()) as u32,
                    })
                    .collect();
                let mut expected = vec![7.5f32; rows * dim];
                for (&offset, out) in offsets.iter().zip(expected.chunks_mut(dim)) {
                    if offset == MISSING {
                        continue;
                    }
                    let row = &memory[offset as usize + 3..][..layout.words()];
                    for (i, out) in out.iter_mut().enumerate() {
                        *out = if let Rule::Ftrl { .. } = rule {
                            let (z, n) = (f32::from_bits(row[i]), f32::from_bits(row[dim + i]));
                            canonical(oracle::ftrl_weight(&rule, z, n))
                        } else {
                            oracle::value(&layout, row, i)
                        };
                    }
                }
                for isa in isas() {
                    let mut out = vec![7.5f32; rows * dim];
                    read_rows(isa, &rule, &layout, &memory[3..], 1, &offsets, &mut out);
                    assert_eq!(bits(&out), bits(&expected), "{isa} {rule:?} {dtype:?} {dim}");
                }
            }
        }
    }
}

#[test]
fn reads_past_the_end_are_refused() {
    for rule in [Rule::Add, Rule::Ftrl { alpha: 0.1, beta: 1.0, l1: 0.0, l2: 1.0 }] {
        let layout = RowLayout::new(&rule, 3, Dtype::F32);
        for isa in isas() {
            let memory = vec![0u32; layout.words() * 2];
            let last = layout.words() as u32;
            for (offset, good) in [(last, true), (last + 1, false), (u32::MAX - 1, false), (MISSING, true)] {
                let read = catch_unwind(|| {
                    read_rows(isa, &rule, &layout, &memory, 1, &[0, offset, MISSING], &mut [0.0; 9]);
                });
                assert_eq!(read.is_ok(), good, "{isa} {offset}");
            }
            // A missing row needs no memory at all.
            read_rows(isa, &rule, &layout, &[], 1, &[MISSING], &mut [0.0; 3]);
        }
    }
}

#[test]
fn written_values_are_read_back() {
    for rule in RULES {
        for (dim, dtype) in [1, 2, 3, 16, 33].into_iter().flat_map(|d| [(d, Dtype::F32), (d, Dtype::Bf16)]) {
            let layout = RowLayout::new(&rule, dim, dtype);
            let mut random = Random(dim as u64);
            let values: Vec<f32> = (0..dim).map(|_| random.unit()).collect();
            let mut row = vec![0; layout.words()];
            write_values(Isa::active(), &rule, &layout, &mut row, &values);
            let mut out = vec![0.0; dim];
            read_rows(Isa::active(), &rule, &layout, &row, 1, &[0], &mut out);
            let exact = layout.dtype() == Dtype::F32 && layout.value_words() > 0;
            let tolerance = if exact {
                0.0
            } else if dtype == Dtype::Bf16 && layout.value_words() > 0 {
                0.004
            } else {
                1e-5
            };
            for (out, value) in out.iter().zip(&values) {
                assert!(
                    (out - value).abs() <= tolerance * value.abs(),
                    "{rule:?} {dtype:?}: {out}, not {value}"
                );
            }
        }
    }
}

#[test]
fn written_values_leave_state_alone_and_canonicalise_nan() {
    for (rule, dtype) in [
        (Rule::Momentum { lr: 0.1, momentum: 0.9 }, Dtype::F32),
        (Rule::Adagrad { lr: 0.1, epsilon: 1e-8 }, Dtype::Bf16),
    ] {
        let layout = RowLayout::new(&rule, 3, dtype);
        let mut row = vec![0x1234_5678; layout.words()];
        let values = [f32::from_bits(0xff80_0001), 1.0, -2.0];
        write_values(Isa::active(), &rule, &layout, &mut row, &values);
        assert!(row[layout.value_words()..].iter().all(|&word| word == 0x1234_5678));
        let expected: &[u32] = match dtype {
            Dtype::F32 => &[0x7fc0_0000, 0x3f80_0000, 0xc000_0000],
            Dtype::Bf16 => &[0x3f80_7fc0, 0x0000_c000],
        };
        assert_eq!(&row[..layout.value_words()], expected);
    }
}

#[test]
fn an_imported_ftrl_weight_of_zero_is_exact_and_trains_on() {
    let rule = Rule::Ftrl { alpha: 0.1, beta: 1.0, l1: 0.5, l2: 1.0 };
    let layout = RowLayout::new(&rule, 2, Dtype::F32);
    let mut row = vec![9; layout.words()];
    write_values(Isa::active(), &rule, &layout, &mut row, &[0.0, 0.25]);
    assert_eq!((row[0], row[2], row[3]), (0, 0, 0), "z of a zero weight and n are fresh");
    update_rows(Isa::active(), &rule, &layout, &mut row, 1, &[0], &[1.0, -1.0]);
    let mut out = [0.0; 2];
    read_rows(Isa::active(), &rule, &layout, &row, 1, &[0], &mut out);
    assert!(out[0] < 0.0 && out[1] > 0.0, "{out:?}");
}

#[test]
fn prefetching_takes_any_offset() {
    let memory = vec![0u32; 100];
    for words in [&memory[..], &memory[..1], &[]] {
        [0, 7, 99, usize::MAX].into_iter().for_each(|word| prefetch_word(words, word));
    }
}
