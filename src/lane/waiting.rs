//! How an owner waits: it polls for a while, because a wake-up costs tens of microseconds, then sleeps.

use std::time::{Duration, Instant};

/// How long to poll before sleeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Poll that long after the last work; [`Duration::MAX`] never sleeps.
    pub spin: Duration,
}

impl Waiting {
    /// Never sleeps: least latency, a whole core.
    pub const POLL: Self = Self { spin: Duration::MAX };
    /// Sleeps at once: least processor time.
    pub const BLOCK: Self = Self { spin: Duration::ZERO };
}

impl Default for Waiting {
    /// About what one wake-up of an idle core costs: then polling has cost at most as much as sleeping would have.
    fn default() -> Self {
        Self { spin: Duration::from_micros(50) }
    }
}

/// The clock is looked at once in so many idle turns.
const TURNS_A_LOOK: u32 = 16;

/// One who polls for longer than a round trip takes offers its core: when its peer was put on the same core, each
/// would otherwise poll through its whole time slice, and a round trip would take milliseconds.
pub const YIELD_AFTER: Duration = Duration::from_micros(25);
/// Idle turns of one who never looks at the clock until it offers its core: about as long.
const TURNS_A_YIELD: u32 = 128;

/// One owner's waiting: call [`Backoff::busy`] after a turn with work, [`Backoff::idle`] after one without.
#[derive(Debug)]
pub struct Backoff {
    waiting: Waiting,
    turns: u32,
    idle_since: Option<Instant>,
    looked: bool,
}

impl Backoff {
    /// Starts as after work.
    #[must_use]
    pub fn new(waiting: Waiting) -> Self {
        Self { waiting, turns: 0, idle_since: None, looked: true }
    }

    /// There was work.
    #[inline]
    pub fn busy(&mut self) {
        self.turns = 0;
        self.idle_since = None;
        self.looked = true;
    }

    /// Whether time has passed that is worth reading the clock for: after work, after sleep, and once in so many idle turns.
    #[inline]
    #[must_use]
    pub fn clock_is_due(&self) -> bool {
        self.looked
    }

    /// There was none: pauses, or sleeps by `sleep` (a bounded [`super::Fabric::wait`]) when polling was long enough.
    /// True after a sleep.
    pub fn idle(&mut self, sleep: impl FnOnce()) -> bool {
        if self.waiting.spin == Duration::MAX {
            std::hint::spin_loop();
            self.turns = self.turns.wrapping_add(1);
            self.looked = self.turns.is_multiple_of(TURNS_A_LOOK);
            if self.turns.is_multiple_of(TURNS_A_YIELD) {
                std::thread::yield_now();
            }
            return false;
        }
        if !self.waiting.spin.is_zero() {
            self.turns = self.turns.wrapping_add(1);
            std::hint::spin_loop();
            self.looked = self.turns % TURNS_A_LOOK == 1;
            if !self.looked {
                return false;
            }
            let now = Instant::now();
            let since = *self.idle_since.get_or_insert(now);
            let idle = now.duration_since(since);
            if idle < self.waiting.spin {
                if idle > YIELD_AFTER {
                    std::thread::yield_now();
                }
                return false;
            }
        }
        sleep();
        self.busy();
        true
    }
}
