//! The rows of blocks, in the order of an epoch.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::cut::Range;
use crate::data::shuffle::{Rng, fill_order};
use crate::data::{DataError, Examples, Format, Stream};

/// A block that was read.
pub enum Block {
    /// All of its rows, in the order of the file.
    Whole(Arc<Examples>),
    /// It is too large to hold.
    Pieces(Box<Pieces>),
}

/// The rows of some blocks, shared by workers that each take the next minibatch.
pub struct Mix {
    blocks: Vec<Arc<Examples>>,
    /// Block and row, in the order of dealing.
    order: Vec<(u32, u32)>,
    /// Rows dealt. Relaxed: nothing else is published through it.
    dealt: AtomicUsize,
}

impl Mix {
    pub(super) fn new(blocks: Vec<Arc<Examples>>, rng: Option<Rng>) -> Result<Self, DataError> {
        let rows: usize = blocks.iter().map(|block| block.len()).sum();
        if u32::try_from(rows).is_err() {
            return Err(DataError::TooManyRows { rows });
        }
        let mut order = Vec::with_capacity(rows);
        for (at, block) in blocks.iter().enumerate() {
            order.extend((0..block.len() as u32).map(|row| (at as u32, row)));
        }
        if let Some(mut rng) = rng {
            rng.shuffle(&mut order);
        }
        Ok(Self { blocks, order, dealt: AtomicUsize::new(0) })
    }

    /// Replaces `out` by the next `rows` rows, or by what is left, reusing its memory; false at the end.
    pub fn next_into(&self, rows: usize, out: &mut Examples) -> bool {
        out.clear();
        let start = self.dealt.fetch_add(rows, Ordering::Relaxed).min(self.order.len());
        for &(block, row) in &self.order[start..self.order.len().min(start + rows)] {
            out.push_from(&self.blocks[block as usize], row as usize);
        }
        !out.is_empty()
    }

    /// Rows of each block.
    pub fn rows(&self) -> impl Iterator<Item = usize> {
        self.blocks.iter().map(|block| block.len())
    }
}

/// A block that is read while it is learnt from: each piece in an order of its own.
pub struct Pieces {
    piece: Examples,
    order: Vec<u32>,
    dealt: usize,
    rng: Option<Rng>,
    rest: Option<Unread>,
}

/// What is not read yet.
pub(super) struct Unread {
    pub(super) range: Range,
    pub(super) format: Format,
    pub(super) stream: Stream,
    pub(super) chunk_bytes: usize,
}

impl Unread {
    pub(super) fn open(mut self, rng: Option<Rng>, on_progress: &dyn Fn()) -> Result<Block, DataError> {
        let mut piece = Examples::default();
        if self.read(&mut piece, on_progress)? {
            return Ok(Block::Whole(Arc::new(piece)));
        }
        let mut pieces = Pieces { piece, order: Vec::new(), dealt: 0, rng, rest: Some(self) };
        pieces.deal_anew()?;
        Ok(Block::Pieces(Box::new(pieces)))
    }

    /// Reads the next piece; true when it is the last.
    fn read(&mut self, piece: &mut Examples, on_progress: &dyn Fn()) -> Result<bool, DataError> {
        loop {
            match self.stream.next() {
                None => return Ok(true),
                Some(Ok(block)) => {
                    piece.append(&block);
                    self.stream.recycle(block);
                    on_progress();
                    if piece.bytes() > self.chunk_bytes {
                        return Ok(false);
                    }
                }
                // Some lines of a file may be without examples; a whole file may not.
                Some(Err(DataError::NoExamples { .. } | DataError::Empty { .. }))
                    if !self.range.is_whole() =>
                {
                    return Ok(true);
                }
                Some(Err(error)) => return Err(self.range.located(error, &self.format)),
            }
        }
    }
}

impl Pieces {
    /// Replaces `out` by the next `rows` rows, or by what is left of a piece, reusing its memory; false at the end.
    ///
    /// # Errors
    /// [`DataError`]: what is wrong with the rows that come next.
    pub fn next_into(&mut self, rows: usize, out: &mut Examples) -> Result<bool, DataError> {
        out.clear();
        while self.dealt == self.order.len() {
            let Some(rest) = &mut self.rest else { return Ok(false) };
            self.piece.clear();
            if rest.read(&mut self.piece, &|| ())? {
                self.rest = None;
            }
            self.deal_anew()?;
        }
        let end = self.order.len().min(self.dealt.saturating_add(rows));
        for &row in &self.order[self.dealt..end] {
            out.push_from(&self.piece, row as usize);
        }
        self.dealt = end;
        Ok(true)
    }

    fn deal_anew(&mut self) -> Result<(), DataError> {
        let rows = self.piece.len();
        let countable = u32::try_from(rows).map_err(|_| DataError::TooManyRows { rows })?;
        fill_order(&mut self.order, countable, self.rng.as_mut());
        self.dealt = 0;
        Ok(())
    }
}
