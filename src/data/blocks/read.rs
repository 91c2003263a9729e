//! The rows of a block, in the order of an epoch.

use std::sync::Arc;

use super::cut::Range;
use crate::data::keys::mix;
use crate::data::shuffle::{Rng, fill_order};
use crate::data::{DataError, Examples, Format, Stream};

/// The order of the rows of one block in one epoch.
pub(super) fn order_of(seed: u64, epoch: u32, block: u32) -> Rng {
    Rng::new(seed ^ mix(u64::from(block) + 1), u64::from(epoch))
}

/// A block that is being learnt from. A block larger than what is shuffled together comes in pieces, each in an order of
/// its own.
pub struct BlockRows {
    piece: Arc<Examples>,
    order: Vec<u32>,
    dealt: usize,
    rng: Option<Rng>,
    /// What comes after this piece.
    rest: Option<Unread>,
    /// There was more than this piece at some time.
    in_pieces: bool,
}

/// What is not read yet.
pub(super) struct Unread {
    pub(super) range: Range,
    pub(super) format: Format,
    pub(super) stream: Stream,
    pub(super) chunk_bytes: usize,
}

impl BlockRows {
    pub(super) fn whole(piece: Arc<Examples>, rng: Option<Rng>) -> Result<Self, DataError> {
        let mut rows = Self { piece, order: Vec::new(), dealt: 0, rng, rest: None, in_pieces: false };
        rows.deal_anew()?;
        Ok(rows)
    }

    pub(super) fn read(rest: Unread, rng: Option<Rng>, on_progress: &dyn Fn()) -> Result<Self, DataError> {
        let piece = Arc::default();
        let mut rows = Self { piece, order: Vec::new(), dealt: 0, rng, rest: Some(rest), in_pieces: false };
        rows.next_piece(on_progress)?;
        rows.in_pieces = rows.rest.is_some();
        Ok(rows)
    }

    /// All rows, when they are in one piece.
    pub(super) fn is_whole(&self) -> Option<Arc<Examples>> {
        (!self.in_pieces).then(|| Arc::clone(&self.piece))
    }

    /// Replaces `out` by the next `rows` rows, or by what is left of a piece, reusing its memory; false at the end.
    ///
    /// # Errors
    /// [`DataError`]: what is wrong with the rows that come next.
    pub fn next_into(&mut self, rows: usize, out: &mut Examples) -> Result<bool, DataError> {
        out.clear();
        while self.dealt == self.order.len() {
            if self.rest.is_none() {
                return Ok(false);
            }
            self.next_piece(&|| ())?;
        }
        let end = self.order.len().min(self.dealt.saturating_add(rows));
        for &row in &self.order[self.dealt..end] {
            out.push_from(&self.piece, row as usize);
        }
        self.dealt = end;
        Ok(true)
    }

    fn next_piece(&mut self, on_progress: &dyn Fn()) -> Result<(), DataError> {
        let Some(rest) = &mut self.rest else { return Ok(()) };
        let mut piece = Examples::default();
        let ended = loop {
            match rest.stream.next() {
                None => break true,
                Some(Ok(block)) => {
                    piece.append(&block);
                    rest.stream.recycle(block);
                    on_progress();
                    if piece.bytes() > rest.chunk_bytes {
                        break false;
                    }
                }
                // Some lines of a file may be without examples; a whole file may not.
                Some(Err(DataError::NoExamples { .. } | DataError::Empty { .. }))
                    if !rest.range.is_whole() =>
                {
                    break true;
                }
                Some(Err(error)) => return Err(rest.range.located(error, &rest.format)),
            }
        };
        if ended {
            self.rest = None;
        }
        self.piece = Arc::new(piece);
        self.deal_anew()
    }

    fn deal_anew(&mut self) -> Result<(), DataError> {
        let rows = self.piece.len();
        let countable = u32::try_from(rows).map_err(|_| DataError::TooManyRows { rows })?;
        fill_order(&mut self.order, countable, self.rng.as_mut());
        self.dealt = 0;
        Ok(())
    }
}
