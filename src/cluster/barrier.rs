//! Named, counted barriers: the n-th arrival lets all n go on.
//!
//! An arrival has a name of its own, which a resend repeats: it counts once, and one whose round is over goes on at
//! once instead of standing in the way of the next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use thiserror::Error;

/// What an arrival means for the one that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The last one: everyone who waits on this round goes on.
    Released,
    /// Ask [`Barriers::released`] with this round.
    Wait {
        /// Which gathering at this name.
        round: u64,
    },
}

/// Why an arrival was not counted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BarrierError {
    /// Those who meet must agree on how many they are.
    #[error("barrier {name:?} gathers {theirs}, this caller says {ours}; use one count, or another name")]
    Count {
        /// The barrier.
        name: String,
        /// The count of those who wait.
        theirs: usize,
        /// The count of this caller.
        ours: usize,
    },
    /// Nobody can be the last of none.
    #[error("barrier {name:?} of 0; count everyone who calls it, this caller included")]
    Zero {
        /// The barrier.
        name: String,
    },
}

#[derive(Debug)]
struct Gathering {
    count: usize,
    callers: BTreeSet<u64>,
    round: u64,
}

/// Arrivals of rounds that are over which are remembered: a resend follows within a client's lease, and there are not
/// so many barriers in that time. 16 bytes each.
const REMEMBERED: usize = 1 << 16;

/// All barriers of the cluster. A name is forgotten when nobody waits at it.
#[derive(Debug, Default)]
pub struct Barriers {
    open: BTreeMap<String, Gathering>,
    /// Rounds begun, over all names: a round's number is never used again.
    rounds: u64,
    /// Callers of rounds that are over, and the order in which they were.
    gone_on: BTreeSet<u64>,
    order: VecDeque<u64>,
}

impl Barriers {
    /// Counts one arrival, unless `caller` has arrived before.
    ///
    /// # Errors
    /// A count of zero, or another count than those waiting gave; nothing changed.
    pub fn arrive(&mut self, name: &str, count: usize, caller: u64) -> Result<Arrival, BarrierError> {
        if count == 0 {
            return Err(BarrierError::Zero { name: name.to_owned() });
        }
        if self.gone_on.contains(&caller) {
            return Ok(Arrival::Released);
        }
        let Some(gathering) = self.open.get_mut(name) else {
            if count == 1 {
                self.remember([caller]);
                return Ok(Arrival::Released);
            }
            self.rounds += 1;
            let round = self.rounds;
            self.open.insert(name.to_owned(), Gathering { count, callers: BTreeSet::from([caller]), round });
            return Ok(Arrival::Wait { round });
        };
        if gathering.count != count {
            return Err(BarrierError::Count { name: name.to_owned(), theirs: gathering.count, ours: count });
        }
        gathering.callers.insert(caller);
        if gathering.callers.len() < count {
            return Ok(Arrival::Wait { round: gathering.round });
        }
        if let Some(gathering) = self.open.remove(name) {
            self.remember(gathering.callers);
        }
        Ok(Arrival::Released)
    }

    fn remember(&mut self, callers: impl IntoIterator<Item = u64>) {
        for caller in callers {
            self.gone_on.insert(caller);
            self.order.push_back(caller);
        }
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.gone_on.remove(&oldest);
            }
        }
    }

    /// Whether a round is over.
    #[must_use]
    pub fn released(&self, name: &str, round: u64) -> bool {
        self.open.get(name).is_none_or(|gathering| gathering.round != round)
    }

    /// Takes back one arrival of a round that is not over; someone gave up.
    pub fn leave(&mut self, name: &str, round: u64, caller: u64) {
        let Some(gathering) = self.open.get_mut(name).filter(|gathering| gathering.round == round) else {
            return;
        };
        gathering.callers.remove(&caller);
        if gathering.callers.is_empty() {
            self.open.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_barrier_of_one_never_waits_and_one_of_none_is_refused() {
        let mut barriers = Barriers::default();
        assert_eq!(barriers.arrive("b", 1, 1), Ok(Arrival::Released));
        assert_eq!(barriers.arrive("b", 0, 2), Err(BarrierError::Zero { name: "b".into() }));
    }

    #[test]
    fn another_count_is_an_error_that_names_both() {
        let mut barriers = Barriers::default();
        barriers.arrive("b", 3, 1).unwrap();
        let error = barriers.arrive("b", 2, 2).unwrap_err();
        assert_eq!(error, BarrierError::Count { name: "b".into(), theirs: 3, ours: 2 });
    }

    #[test]
    fn an_arrival_that_is_said_again_counts_once() {
        let mut barriers = Barriers::default();
        let Ok(Arrival::Wait { round }) = barriers.arrive("b", 2, 7) else { panic!("alone") };
        assert_eq!(barriers.arrive("b", 2, 7), Ok(Arrival::Wait { round }));
        assert_eq!(barriers.arrive("b", 2, 8), Ok(Arrival::Released));
    }

    #[test]
    fn an_arrival_that_is_said_again_after_its_round_is_not_the_next_rounds() {
        let mut barriers = Barriers::default();
        barriers.arrive("b", 2, 7).unwrap();
        barriers.arrive("b", 2, 8).unwrap();
        assert_eq!(barriers.arrive("b", 2, 7), Ok(Arrival::Released));
        assert!(matches!(barriers.arrive("b", 2, 9), Ok(Arrival::Wait { .. })));
    }

    proptest! {
        /// Against the plainest model: a list of who stands where.
        #[test]
        fn the_last_arrival_releases_exactly_its_round(steps in prop::collection::vec((0u8..3, any::<bool>(), 0usize..8), 1..200)) {
            const NAMES: [(&str, usize); 3] = [("a", 2), ("b", 3), ("c", 5)];
            let mut barriers = Barriers::default();
            let mut waiting: [Vec<(u64, u64)>; 3] = Default::default();
            for (caller, (name, leave, who)) in (0u64..).zip(steps) {
                let (name, count, standing) = (NAMES[name as usize].0, NAMES[name as usize].1, &mut waiting[name as usize]);
                if leave && !standing.is_empty() {
                    let (caller, round) = standing.swap_remove(who % standing.len());
                    barriers.leave(name, round, caller);
                    continue;
                }
                match barriers.arrive(name, count, caller).unwrap() {
                    Arrival::Released => {
                        prop_assert_eq!(standing.len() + 1, count);
                        for (_, round) in standing.drain(..) {
                            prop_assert!(barriers.released(name, round));
                        }
                    }
                    Arrival::Wait { round } => {
                        standing.push((caller, round));
                        prop_assert!(standing.len() < count);
                        prop_assert!(standing.iter().all(|(_, round)| !barriers.released(name, *round)));
                    }
                }
            }
        }
    }
}
