//! The floating-point control word of a thread. Results are the same bits everywhere only under round to nearest even
//! with denormals kept; a library in the process may have changed that for a thread it touched.
//!
//! Soundness: the only value ever written is the one every Rust thread starts with, which the language assumes.

/// The state this thread was meant to start with: round to nearest even, all exceptions masked, denormals kept.
#[cfg(target_arch = "x86_64")]
static DEFAULT: u32 = 0x1f80;
#[cfg(target_arch = "aarch64")]
const DEFAULT: u64 = 0;

/// Puts this thread's control word into the state that the kernels need. Every shard thread calls it when it starts.
pub fn set_float_control() {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: LDMXCSR reads the four bytes given; the value is the default that Rust code relies on.
    unsafe {
        std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const DEFAULT, options(nostack, readonly));
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: FPCR may be written at EL0; the value is the default that Rust code relies on.
    unsafe {
        std::arch::asm!("msr fpcr, {}", in(reg) DEFAULT, options(nostack, nomem));
    }
}

/// Panics if this thread's control word is not what [`set_float_control`] sets: results would differ from those of
/// other replicas. Cost: a few cycles; called once a batch.
#[inline]
pub fn assert_float_control() {
    assert!(is_default(), "floating-point control word of this thread was changed");
}

#[inline]
fn is_default() -> bool {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        let mut word = 0u32;
        // SAFETY: STMXCSR writes the four bytes of `word`.
        unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut word, options(nostack)) };
        // The low six bits are sticky exception flags, which change nothing.
        word & !0x3f == DEFAULT
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    {
        let word: u64;
        // SAFETY: FPCR may be read at EL0.
        unsafe { std::arch::asm!("mrs {}, fpcr", out(reg) word, options(nostack, nomem)) };
        word == DEFAULT
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_starts_in_the_state_the_kernels_need() {
        assert_float_control();
        set_float_control();
        assert_float_control();
    }

    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[test]
    fn flushed_denormals_are_noticed_and_repaired() {
        // On a thread of its own, which computes nothing meanwhile.
        std::thread::spawn(|| {
            let flush = DEFAULT | 1 << 15;
            // SAFETY: LDMXCSR reads four bytes; no floating-point code runs until the default is back.
            unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const flush, options(nostack, readonly)) };
            let noticed = !is_default();
            set_float_control();
            assert!(noticed);
            assert_float_control();
        })
        .join()
        .unwrap();
    }
}
