//! Examples held in memory.

use super::{DataError, Examples};

/// Examples in memory, in file order, at most 2^32 - 1 of them so that an order of rows takes four bytes a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dataset {
    examples: Examples,
}

impl Dataset {
    /// Adds a block. Fails when the rows would no longer be countable in 32 bits.
    pub fn append(&mut self, block: &Examples) -> Result<(), DataError> {
        let rows = self.len() + block.len();
        if rows > u32::MAX as usize {
            return Err(DataError::TooManyRows { rows });
        }
        self.examples.append(block);
        Ok(())
    }

    /// The number of examples.
    pub fn len(&self) -> usize {
        self.examples.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }

    /// All examples, in file order.
    pub fn examples(&self) -> &Examples {
        &self.examples
    }

    /// Replaces `out` by the rows named by `order`, in that order.
    pub fn gather(&self, order: &[u32], out: &mut Examples) {
        out.clear();
        for &row in order {
            out.push_from(&self.examples, row as usize);
        }
    }

    /// Splits into (rows whose index is no multiple of `every`, the others): train and test.
    ///
    /// Panics when `every` is 0.
    pub fn split_every(&self, every: usize) -> (Self, Self) {
        let (mut rest, mut picked) = (Examples::default(), Examples::default());
        for row in 0..self.len() {
            let part = if row % every == 0 { &mut picked } else { &mut rest };
            part.push_from(&self.examples, row);
        }
        (Self { examples: rest }, Self { examples: picked })
    }
}
