//! A state entry: a few words with a version and a check, overwritten in place, never read torn.

use crate::primitive::{AtomicU64, Ordering, fence};

/// Words of an entry's content.
pub const STATE_WORDS: usize = 4;

/// The entry was being written; read it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn;

/// One entry in shared memory: odd versions are unfinished. The check covers version and words, because a
/// remote writer's words may become visible in any order.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct StateSlot {
    version: AtomicU64,
    words: [AtomicU64; STATE_WORDS],
    check: AtomicU64,
}

#[cfg(not(all(test, loom)))]
const _: () = assert!(size_of::<StateSlot>() == 64);

/// A mix in which each word has another odd multiplier and the result depends on every bit (xor-multiply rounds).
fn check_of(version: u64, words: &[u64; STATE_WORDS]) -> u64 {
    let mut mixed = version ^ 0x9e37_79b9_7f4a_7c15;
    for &word in words {
        mixed = (mixed ^ word).wrapping_mul(0xd6e8_feb8_6659_fd93);
        mixed ^= mixed >> 32;
    }
    mixed
}

impl StateSlot {
    /// Overwrites the entry; `version` is the writer's own count of writes to it, from 1.
    #[inline]
    pub fn write(&self, version: u64, words: &[u64; STATE_WORDS]) {
        let even = version.wrapping_mul(2);
        self.version.store(even.wrapping_sub(1), Ordering::Relaxed);
        // Partner: the acquire fence in `read`: who sees a new word sees the odd version too.
        fence(Ordering::Release);
        for (slot, &word) in self.words.iter().zip(words) {
            slot.store(word, Ordering::Relaxed);
        }
        self.check.store(check_of(even, words), Ordering::Relaxed);
        // Partner: the acquire load in `read`.
        self.version.store(even, Ordering::Release);
    }

    /// The entry as it was written whole, with its version.
    ///
    /// # Errors
    /// [`Torn`] while it is being written; read it again later.
    #[inline]
    pub fn read(&self) -> Result<(u64, [u64; STATE_WORDS]), Torn> {
        let before = self.version.load(Ordering::Acquire);
        let words = std::array::from_fn(|at| self.words[at].load(Ordering::Relaxed));
        let check = self.check.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let after = self.version.load(Ordering::Relaxed);
        if before % 2 == 1 || before == 0 || before != after || check != check_of(before, &words) {
            return Err(Torn);
        }
        Ok((before / 2, words))
    }

    /// Leaves the entry as a writer that died half-way would: for tests of readers.
    pub fn plant_torn(&self, words: &[u64; STATE_WORDS]) {
        for (slot, &word) in self.words.iter().zip(words) {
            slot.store(word, Ordering::Relaxed);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_entry_reads_back_and_a_torn_or_empty_one_does_not() {
        let slot = StateSlot::default();
        assert_eq!(slot.read(), Err(Torn));
        slot.write(1, &[1, 2, 3, 4]);
        assert_eq!(slot.read(), Ok((1, [1, 2, 3, 4])));
        slot.plant_torn(&[1, 2, 9, 4]);
        assert_eq!(slot.read(), Err(Torn));
        slot.write(2, &[5, 6, 7, 8]);
        assert_eq!(slot.read(), Ok((2, [5, 6, 7, 8])));
    }
}
