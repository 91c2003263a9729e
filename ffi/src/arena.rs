//! Reservations: large private mappings whose pages come with their first touch.
//!
//! A table's rows and index live in one reservation, so that a row is named by an offset, never by a pointer, and
//! growth never moves what is there. The range is reserved without swap accounting (`MAP_NORESERVE`): address space is
//! free, memory is charged when a page is touched and given back by [`Arena::discard`].
//!
//! Soundness. `words` and `words_mut` hand out slices over the whole reservation. That holds because
//! - the mapping is anonymous, private, readable and writable over its whole length, and is unmapped only when the
//!   `Arena` is dropped, which no slice outlives;
//! - nobody else has the address: it is never shared, exported or remapped, so the borrow rules of the slices are the
//!   borrow rules of the `Arena`;
//! - any bit pattern is a `u32`, and untouched or discarded pages read as zero.
//!
//! `discard` takes `&mut self`: no slice lives across it. The test
//! `discarded_words_read_as_zero_and_their_neighbours_stay` would notice a wrong range.

use std::io;
use std::ops::Range;

use memmap2::{Advice, MmapMut, MmapOptions, UncheckedAdvice};

/// Bytes of a huge page on the machines we serve; the base of an arena is aligned to it.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

const WORD_BYTES: usize = size_of::<u32>();
const HUGE_PAGE_WORDS: usize = HUGE_PAGE_BYTES / WORD_BYTES;

/// Why address space could not be reserved.
#[derive(Debug, thiserror::Error)]
#[error(
    "reserving {bytes} bytes of address space failed: {source}; lower the memory budget, or raise the address-space limit (ulimit -v) or vm.overcommit_memory"
)]
pub struct ArenaError {
    /// Bytes asked for.
    pub bytes: usize,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// One private reservation of 32-bit words, zero until written.
#[derive(Debug)]
pub struct Arena {
    map: MmapMut,
    /// Words between the start of the mapping and the first huge-page boundary.
    skip: usize,
    words: usize,
    huge_pages: bool,
}

impl Arena {
    /// Reserves at least `words` words, rounded up to whole huge pages.
    ///
    /// Errors: the kernel has no such range for us (an address-space limit, strict overcommit). The caller may retry
    /// with less.
    pub fn reserve(words: usize) -> Result<Arena, ArenaError> {
        let words = words.max(1).next_multiple_of(HUGE_PAGE_WORDS);
        let bytes = words.saturating_mul(WORD_BYTES);
        let failed = |source| ArenaError { bytes, source };
        let map = MmapOptions::new()
            .len(bytes.saturating_add(HUGE_PAGE_BYTES))
            .no_reserve_swap()
            .map_anon()
            .map_err(failed)?;
        let address = map.as_ptr() as usize;
        let skip_bytes = address.next_multiple_of(HUGE_PAGE_BYTES) - address;
        // Refused where transparent huge pages are not built in or are set to `never`: small pages serve too.
        let huge_pages = map.advise_range(Advice::HugePage, skip_bytes, bytes).is_ok();
        Ok(Arena { map, skip: skip_bytes / WORD_BYTES, words, huge_pages })
    }

    /// Words in the reservation.
    pub fn len(&self) -> usize {
        self.words
    }

    /// Never: a reservation has at least one huge page.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Whether the kernel took the advice to use huge pages.
    pub fn huge_pages(&self) -> bool {
        self.huge_pages
    }

    /// All words.
    pub fn words(&self) -> &[u32] {
        // SAFETY: `skip + words` words lie inside the mapping (`reserve` mapped one huge page more than `words` and
        // `skip` is below a huge page); the base is page aligned, so words are aligned; see the module for lifetime.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast::<u32>().add(self.skip), self.words) }
    }

    /// All words, to write.
    pub fn words_mut(&mut self) -> &mut [u32] {
        // SAFETY: as in `words`; `&mut self` makes this the only slice.
        unsafe {
            std::slice::from_raw_parts_mut(self.map.as_mut_ptr().cast::<u32>().add(self.skip), self.words)
        }
    }

    /// Gives the memory of a range of words back; they read as zero again.
    ///
    /// Panics when the range is not made of whole huge pages inside the arena: that would be our bug.
    pub fn discard(&mut self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.words);
        assert!(range.start.is_multiple_of(HUGE_PAGE_WORDS) && range.end.is_multiple_of(HUGE_PAGE_WORDS));
        if range.is_empty() {
            return;
        }
        let start = (self.skip + range.start) * WORD_BYTES;
        let bytes = range.len() * WORD_BYTES;
        // SAFETY: the range lies inside our anonymous private mapping and no slice of it lives (`&mut self`), so pages
        // that turn to zero change nothing that is borrowed.
        let given = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, bytes) };
        if given.is_err() {
            // Locked pages are refused; the promise is zeroes, so write them.
            self.words_mut()[range].fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_is_larger_than_what_it_touches_and_reads_as_zero() {
        let mut arena = Arena::reserve(1 << 30).expect("4 GiB of address space");
        assert_eq!(arena.len(), 1 << 30);
        assert_eq!(arena.words().as_ptr() as usize % HUGE_PAGE_BYTES, 0);
        assert_eq!(arena.words()[(1 << 30) - 1], 0);
        arena.words_mut()[(1 << 30) - 1] = 7;
        assert_eq!(arena.words()[(1 << 30) - 1], 7);
    }

    #[test]
    fn discarded_words_read_as_zero_and_their_neighbours_stay() {
        let mut arena = Arena::reserve(3 * HUGE_PAGE_WORDS).expect("6 MiB");
        arena.words_mut().fill(u32::MAX);
        arena.discard(HUGE_PAGE_WORDS..2 * HUGE_PAGE_WORDS);
        let words = arena.words();
        assert!(words[..HUGE_PAGE_WORDS].iter().all(|w| *w == u32::MAX));
        assert!(words[HUGE_PAGE_WORDS..2 * HUGE_PAGE_WORDS].iter().all(|w| *w == 0));
        assert!(words[2 * HUGE_PAGE_WORDS..].iter().all(|w| *w == u32::MAX));
    }

    #[test]
    fn an_impossible_reservation_is_an_error_that_names_its_size() {
        let error = Arena::reserve(usize::MAX / 16).expect_err("more than the address space");
        assert!(error.to_string().contains("bytes of address space"), "{error}");
    }
}
