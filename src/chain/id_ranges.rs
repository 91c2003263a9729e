//! A set of ids that are given out in rising order and end at any time, kept as ranges.
//!
//! Ended ids must be refused for ever, so the set only grows; but in the end every id below some number has ended,
//! hence it is a few ranges however many clients came and went: one range per id that outlives its neighbours.

/// Ids as disjoint, inclusive, ascending ranges that do not touch. 16 bytes a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct IdRanges {
    ranges: Vec<(u64, u64)>,
}

impl IdRanges {
    /// Adds an id. Cost: a binary search, and a move of the ranges above when one is made or merged.
    pub(super) fn insert(&mut self, id: u64) {
        // Ranges before `at` end below the id; the one at `at` ends at or above it.
        let at = self.ranges.partition_point(|&(_, last)| last < id);
        if self.ranges.get(at).is_some_and(|&(first, _)| first <= id) {
            return;
        }
        let joins_below = at > 0 && self.ranges[at - 1].1 + 1 == id;
        let joins_above = self.ranges.get(at).is_some_and(|&(first, _)| first - 1 == id);
        match (joins_below, joins_above) {
            (true, true) => {
                self.ranges[at - 1].1 = self.ranges[at].1;
                self.ranges.remove(at);
            }
            (true, false) => self.ranges[at - 1].1 = id,
            (false, true) => self.ranges[at].0 = id,
            (false, false) => self.ranges.insert(at, (id, id)),
        }
    }

    /// Made from what [`IdRanges::iter`] gave; none unless the ranges ascend and do not touch.
    pub(super) fn from_ranges(ranges: Vec<(u64, u64)>) -> Option<Self> {
        let ordered = ranges.iter().all(|&(first, last)| first <= last);
        let apart = ranges.windows(2).all(|pair| pair[1].0.checked_sub(pair[0].1).is_some_and(|gap| gap > 1));
        (ordered && apart).then_some(Self { ranges })
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().copied()
    }

    pub(super) fn contains(&self, id: u64) -> bool {
        let at = self.ranges.partition_point(|&(_, last)| last < id);
        self.ranges.get(at).is_some_and(|&(first, _)| first <= id)
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.ranges.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_ranges_hold_what_a_naive_set_holds(ids in prop::collection::vec(0u64..80, 0..120)) {
            let mut ranges = IdRanges::default();
            let mut naive = BTreeSet::new();
            for id in ids {
                ranges.insert(id);
                naive.insert(id);
                for probe in 0..82 {
                    prop_assert_eq!(ranges.contains(probe), naive.contains(&probe));
                }
            }
            let starts = naive.iter().filter(|&&id| id == 0 || !naive.contains(&(id - 1))).count();
            prop_assert_eq!(ranges.count(), starts);
        }
    }

    #[test]
    fn the_largest_id_can_end() {
        let mut ranges = IdRanges::default();
        for id in [u64::MAX, 0, u64::MAX - 1, u64::MAX] {
            ranges.insert(id);
        }
        assert!(ranges.contains(u64::MAX) && ranges.contains(0) && !ranges.contains(1));
        assert_eq!(ranges.count(), 2);
    }
}
