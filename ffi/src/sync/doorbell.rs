//! Who wants to be woken, and for what.

use crate::primitive::{AtomicU32, Ordering, fence};

/// What a sleeper wants to be woken for. Each value includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Arm {
    /// Records and state entries.
    Arrivals = 1,
    /// These, and credit: the sleeper is short of it.
    Credit = 2,
}

/// Wakes one thread from any other, with a system call only when it sleeps.
#[derive(Debug, Default)]
pub struct WakeFlag {
    sleeping: AtomicU32,
    signalled: AtomicU32,
}

impl WakeFlag {
    /// Leaves the signal; true when the caller must ring the sleeper's descriptor.
    #[must_use]
    pub fn signal(&self) -> bool {
        self.signalled.store(1, Ordering::Release);
        // Partner: the fence in `prepare_sleep`.
        fence(Ordering::SeqCst);
        self.sleeping.load(Ordering::Relaxed) != 0 && self.sleeping.swap(0, Ordering::Relaxed) != 0
    }

    /// The sleeper's last step; false when a signal is there and it must not sleep.
    #[must_use]
    pub fn prepare_sleep(&self) -> bool {
        self.sleeping.store(1, Ordering::Relaxed);
        // Partner: the fence in `signal`: it sees `sleeping`, or this sees `signalled`.
        fence(Ordering::SeqCst);
        self.signalled.load(Ordering::Relaxed) == 0
    }

    /// After sleeping, or instead of it: takes the signal. What was done before it is visible now.
    pub fn awake(&self) -> bool {
        self.sleeping.store(0, Ordering::Relaxed);
        self.signalled.swap(0, Ordering::AcqRel) != 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_signal_rings_only_a_sleeper_and_is_taken_once() {
        let flag = WakeFlag::default();
        assert!(!flag.signal());
        assert!(!flag.prepare_sleep());
        assert!(flag.awake());
        assert!(!flag.awake());
        assert!(flag.prepare_sleep());
        assert!(flag.signal());
        assert!(!flag.signal());
        assert!(flag.awake());
    }
}
