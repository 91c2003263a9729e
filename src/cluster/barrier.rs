//! Named, counted barriers: the n-th arrival lets all n go on.

use std::collections::BTreeMap;

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
    arrived: usize,
    round: u64,
}

/// All barriers of the cluster. A name is forgotten when nobody waits at it.
#[derive(Debug, Default)]
pub struct Barriers {
    open: BTreeMap<String, Gathering>,
    /// Rounds begun, over all names: a round's number is never used again.
    rounds: u64,
}

impl Barriers {
    /// Counts one arrival.
    ///
    /// # Errors
    /// A count of zero, or another count than those waiting gave; nothing changed.
    pub fn arrive(&mut self, name: &str, count: usize) -> Result<Arrival, BarrierError> {
        if count == 0 {
            return Err(BarrierError::Zero { name: name.to_owned() });
        }
        let Some(gathering) = self.open.get_mut(name) else {
            if count == 1 {
                return Ok(Arrival::Released);
            }
            self.rounds += 1;
            let round = self.rounds;
            self.open.insert(name.to_owned(), Gathering { count, arrived: 1, round });
            return Ok(Arrival::Wait { round });
        };
        if gathering.count != count {
            return Err(BarrierError::Count { name: name.to_owned(), theirs: gathering.count, ours: count });
        }
        gathering.arrived += 1;
        if gathering.arrived == count {
            self.open.remove(name);
            return Ok(Arrival::Released);
        }
        Ok(Arrival::Wait { round: gathering.round })
    }

    /// Whether a round is over.
    #[must_use]
    pub fn released(&self, name: &str, round: u64) -> bool {
        self.open.get(name).is_none_or(|gathering| gathering.round != round)
    }

    /// Takes back one arrival of a round that is not over; someone gave up.
    pub fn leave(&mut self, name: &str, round: u64) {
        let Some(gathering) = self.open.get_mut(name).filter(|gathering| gathering.round == round) else {
            return;
        };
        assert!(gathering.arrived > 0, "more left barrier {name:?} than arrived");
        gathering.arrived -= 1;
        if gathering.arrived == 0 {
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
        assert_eq!(barriers.arrive("b", 1), Ok(Arrival::Released));
        assert_eq!(barriers.arrive("b", 0), Err(BarrierError::Zero { name: "b".into() }));
    }

    #[test]
    fn another_count_is_an_error_that_names_both() {
        let mut barriers = Barriers::default();
        barriers.arrive("b", 3).unwrap();
        let error = barriers.arrive("b", 2).unwrap_err();
        assert_eq!(error, BarrierError::Count { name: "b".into(), theirs: 3, ours: 2 });
    }

    proptest! {
        /// Against the plainest model: a list of who stands where.
        #[test]
        fn the_last_arrival_releases_exactly_its_round(steps in prop::collection::vec((0u8..3, any::<bool>(), 0usize..8), 1..200)) {
            const NAMES: [(&str, usize); 3] = [("a", 2), ("b", 3), ("c", 5)];
            let mut barriers = Barriers::default();
            let mut waiting: [Vec<u64>; 3] = Default::default();
            for (name, leave, who) in steps {
                let (name, count, standing) = (NAMES[name as usize].0, NAMES[name as usize].1, &mut waiting[name as usize]);
                if leave && !standing.is_empty() {
                    let round = standing.swap_remove(who % standing.len());
                    barriers.leave(name, round);
                    continue;
                }
                match barriers.arrive(name, count).unwrap() {
                    Arrival::Released => {
                        prop_assert_eq!(standing.len() + 1, count);
                        for round in standing.drain(..) {
                            prop_assert!(barriers.released(name, round));
                        }
                    }
                    Arrival::Wait { round } => {
                        standing.push(round);
                        prop_assert!(standing.len() < count);
                        prop_assert!(standing.iter().all(|round| !barriers.released(name, *round)));
                    }
                }
            }
        }
    }
}
