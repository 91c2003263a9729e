//! What is due by the clock: pulls that waited long enough, and when to look next.

use std::time::Instant;

use super::{CREDIT_POLL, Shard};
use crate::lane::Fabric;
use crate::wire::PullStatus;

impl<F: Fabric> Shard<F> {
    /// Answers parked pulls whose clock has come, or whose patience is over. False when there were none.
    pub(super) fn timers(&mut self, now: Instant) -> bool {
        let mut any = false;
        if self.next_link().is_some_and(|at| at <= now) {
            self.open_links(now);
            any = true;
        }
        let mut index = 0;
        while index < self.parked.len() {
            let parked = &self.parked[index];
            let come = self.min_clock(parked.place).is_none_or(|clock| clock >= parked.at_least);
            if !come && now < parked.deadline {
                index += 1;
                continue;
            }
            any = true;
            // Pulls are answered by request, so their order among themselves is free.
            let parked = self.parked.swap_remove(index);
            let Some(at) = self.seat_of(parked.lane) else { unreachable!("pulls of a lane leave with it") };
            self.lanes[at].parked -= 1;
            if come {
                self.serve_or_keep(at, parked.answer, now);
            } else {
                self.end_pull(at, parked.answer, PullStatus::ClockDeadline, now);
            }
        }
        any
    }

    /// When something is due though nothing arrives.
    pub(super) fn next_timer(&self, now: Instant) -> Option<Instant> {
        let parked = self.parked.iter().map(|parked| parked.deadline).min();
        let stuck = self.lanes.iter().any(|lane| lane.stuck_since.is_some()) || !self.unsent.is_empty();
        let stuck = stuck.then(|| now + CREDIT_POLL);
        parked
            .into_iter()
            .chain(stuck)
            .chain(self.next_link())
            .chain(self.waiting.as_ref().map(|waiting| waiting.until))
            .min()
    }
}
