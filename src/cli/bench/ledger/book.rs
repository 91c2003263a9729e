//! What every key should hold, in integers, and the verdict on what it does.

use std::fmt;

use crate::wire::ids::PartitionId;

/// Largest random number of a push.
pub(super) const LARGEST_RANDOM: u64 = 63;

/// Both columns of a key, summed over the pushes sent, and over those acknowledged.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    sent: [u64; 2],
    acked: [u64; 2],
}

/// Accounts of the keys from 0 on.
pub(super) struct Book {
    accounts: Vec<Account>,
    /// The largest sum of any key, were everything sent applied.
    largest: u64,
}

/// The first key that does not hold what it should.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wrong {
    pub(super) key: u64,
    pub(super) partition: PartitionId,
    found: [f32; 2],
    acked: [u64; 2],
    sent: [u64; 2],
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, partition, found, acked, sent } = self;
        write!(f, "key {key} of partition {partition} holds {found:?}, acknowledged were {acked:?}")?;
        if acked != sent { write!(f, " and sent {sent:?}") } else { Ok(()) }
    }
}

/// What came of the comparison; lost and duplicated are updates of keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Verdict {
    pub(super) lost: u64,
    pub(super) duplicated: u64,
    pub(super) first_wrong: Option<Wrong>,
}

impl Book {
    pub(super) fn new(keys: u64) -> Self {
        Self { accounts: vec![Account::default(); keys as usize], largest: 0 }
    }

    /// The largest sum that any key can have come to.
    pub(super) fn largest(&self) -> u64 {
        self.largest
    }

    pub(super) fn sent(&mut self, keys: &[u64], random: u64) {
        assert!(random <= LARGEST_RANDOM, "a row's random number is {random}");
        for key in keys {
            let sent = &mut self.accounts[*key as usize].sent;
            sent[0] += 1;
            sent[1] += random;
            self.largest = self.largest.max(sent[0]).max(sent[1]);
        }
    }

    pub(super) fn acked(&mut self, keys: &[u64], random: u64) {
        for key in keys {
            let acked = &mut self.accounts[*key as usize].acked;
            acked[0] += 1;
            acked[1] += random;
        }
    }

    /// Compares a key's row. A push of unknown outcome may be in it or not.
    pub(super) fn judge(&self, key: u64, partition: PartitionId, found: [f32; 2], verdict: &mut Verdict) {
        let Account { sent, acked } = self.accounts[key as usize];
        let columns = found.map(integer);
        let (lost, duplicated) = match columns {
            [Some(pushes), Some(sum)] => (
                // A loss and a double in one key show in the second column.
                acked[0].saturating_sub(pushes).max(u64::from(sum < acked[1])),
                pushes.saturating_sub(sent[0]).max(u64::from(sum > sent[1])),
            ),
            // No sum of integers: whatever came of it, it is neither kept once nor not at all.
            _ => (1, 1),
        };
        verdict.lost += lost;
        verdict.duplicated += duplicated;
        if lost + duplicated > 0 {
            verdict.first_wrong.get_or_insert(Wrong { key, partition, found, acked, sent });
        }
    }
}

/// The integer that a float stands for, if it stands for one that sums can come to.
fn integer(value: f32) -> Option<u64> {
    let whole = (0.0..=(1u32 << 24) as f32).contains(&value) && value.fract() == 0.0;
    whole.then_some(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(book: &Book, found: [f32; 2]) -> (u64, u64) {
        let mut verdict = Verdict::default();
        book.judge(0, PartitionId(0), found, &mut verdict);
        assert_eq!(verdict.first_wrong.is_some(), verdict.lost + verdict.duplicated > 0);
        (verdict.lost, verdict.duplicated)
    }

    #[test]
    fn both_columns_are_compared_exactly() {
        let mut book = Book::new(1);
        for random in [5, 9, 20] {
            book.sent(&[0], random);
            book.acked(&[0], random);
        }
        assert_eq!(judged(&book, [3.0, 34.0]), (0, 0));
        assert_eq!(judged(&book, [2.0, 29.0]), (1, 0));
        assert_eq!(judged(&book, [4.0, 43.0]), (0, 1));
        assert_eq!(judged(&book, [3.0, 30.0]), (1, 0), "a push for another that is smaller");
        assert_eq!(judged(&book, [3.0, 38.0]), (0, 1), "a push for another that is larger");
        assert_eq!(judged(&book, [0.0, 0.0]), (3, 0));
        for odd in [f32::NAN, -1.0, 2.5, f32::INFINITY] {
            assert_eq!(judged(&book, [odd, 34.0]), (1, 1), "{odd}");
        }
    }

    #[test]
    fn a_push_of_unknown_outcome_may_be_in_it_or_not() {
        let mut book = Book::new(1);
        book.sent(&[0], 5);
        book.acked(&[0], 5);
        book.sent(&[0], 7);
        assert_eq!(judged(&book, [1.0, 5.0]), (0, 0));
        assert_eq!(judged(&book, [2.0, 12.0]), (0, 0));
        assert_eq!(judged(&book, [0.0, 0.0]), (1, 0));
        assert_eq!(judged(&book, [3.0, 19.0]), (0, 1));
        assert_eq!(book.largest(), 12);
    }
}
