//! Are the keys of a record sorted and unique? Checked for every push, so at the speed of memory: blocks of keys are
//! compared with their predecessors without a branch, and only a block that fails is searched.

use crate::isa::Isa;
use crate::vector::{Vector, Work, run};

/// Keys compared between two branches.
const BLOCK: usize = 64;

struct Scan<'a>(&'a [u64]);

impl Work for Scan<'_> {
    type Output = Option<usize>;

    #[inline(always)]
    unsafe fn run<V: Vector>(self) -> Option<usize> {
        let keys = self.0;
        let mut start = 0;
        // The pairs (i, i + 1) of a block begin at `start`.
        while start + 1 < keys.len() {
            let pairs = BLOCK.min(keys.len() - 1 - start);
            let (low, high) = (&keys[start..start + pairs], &keys[start + 1..start + 1 + pairs]);
            let mut wrong = false;
            for (a, b) in low.iter().zip(high) {
                wrong |= b <= a;
            }
            if wrong {
                return low.iter().zip(high).position(|(a, b)| b <= a).map(|at| start + at + 1);
            }
            start += pairs;
        }
        None
    }
}

/// The first index whose key is not above the one before it; `None` if `keys` increase strictly.
pub fn first_unsorted(isa: Isa, keys: &[u64]) -> Option<usize> {
    // SAFETY: `Scan` holds a slice only.
    unsafe { run(isa, Scan(keys)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeat_or_descent_is_found_wherever_it_is() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_supported()) {
            for len in 0..140usize {
                let keys: Vec<u64> = (0..len as u64).map(|i| i * 3 + (i / 7) * (1 << 59)).collect();
                assert_eq!(first_unsorted(isa, &keys), None, "{isa} {len}");
                for at in 1..len {
                    let mut wrong = keys.clone();
                    wrong[at] = wrong[at - 1];
                    assert_eq!(first_unsorted(isa, &wrong), Some(at), "{isa} {len}");
                }
            }
            // The comparison is unsigned, and the first of several is named.
            assert_eq!(first_unsorted(isa, &[1, i64::MAX as u64, 1 << 63, u64::MAX]), None);
            assert_eq!(first_unsorted(isa, &[1 << 63, 1, 0]), Some(1));
        }
    }
}
