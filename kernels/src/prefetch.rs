//! Prefetch hints. They change no value; addresses are clamped to the memory given, since a hint far outside costs a
//! page walk.

use crate::bucket::{LINE_WORDS, Line};

/// Asks for the line of `p`. A hint on any address, valid or not, has no effect on the program's meaning.
#[inline(always)]
pub(crate) fn prefetch_line(p: *const u32) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: PREFETCHT0 never faults and SSE is part of x86-64.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(p.cast());
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: PRFM never faults, and touches neither memory, stack nor flags as far as the program can tell.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) p, options(nostack, preserves_flags, readonly));
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    let _ = p;
}

/// Asks for every line of the `row_words` words at `row`.
#[inline(always)]
pub(crate) fn prefetch_row(row: *const u32, row_words: usize) {
    for word in (0..row_words).step_by(LINE_WORDS) {
        prefetch_line(row.wrapping_add(word));
    }
    // A row that starts inside a line may end one line later than the steps above reach.
    if row_words % LINE_WORDS != 1 {
        prefetch_line(row.wrapping_add(row_words - 1));
    }
}

/// Prefetches one of `lines`, which the caller knows to be among them: this is for loops where the clamp would count.
#[inline(always)]
pub fn prefetch_line_of(lines: &[Line], line: usize) {
    prefetch_line(lines.as_ptr().wrapping_add(line).cast());
}

/// Prefetches the line of one word of `memory`; a word outside asks for the last line.
#[inline(always)]
pub fn prefetch_word(memory: &[u32], word: usize) {
    if let Some(last) = memory.len().checked_sub(1) {
        prefetch_line(memory.as_ptr().wrapping_add(word.min(last)));
    }
}

/// Prefetches the line of one item of `memory`; an item outside asks for the last line.
#[inline(always)]
pub fn prefetch_item<T>(memory: &[T], item: usize) {
    if let Some(last) = memory.len().checked_sub(1) {
        prefetch_line(memory.as_ptr().wrapping_add(item.min(last)).cast());
    }
}
