//! A copy of a partition for a joiner, made by the tail while pushes go on.
//!
//! State that is not rows goes first, as it is after one batch; then rows, in the order of this store's own hash of their
//! keys, each piece as it is between two batches. What a piece has passed is the joiner's to keep up to date from the
//! batches that follow; what is beyond comes with a later piece. So every key is copied once, and no push waits.

use std::collections::VecDeque;

use zerocopy::IntoBytes;

use super::Shard;
use super::links::link_header;
use super::rows::Rows;
use crate::cluster::encode_schema;
use crate::lane::{Fabric, WriteError};
use crate::store::ScanOrder;
use crate::wire::ids::{Lsn, PartitionId, TableId};
use crate::wire::{ChunkBody, CopiedBody, HEADER_BYTES, Header, Kind, MetaBody, NO_CLOCK, padded};

/// Bytes of a piece: small enough that no push waits long behind it.
const PIECE_BYTES: usize = 32 << 10;
/// Bytes of a piece of state: fits the largest record of the smallest ring.
const META_BYTES: usize = 8 << 10;
/// Bytes of copies that one partition sends in a turn.
const TURN_BYTES: usize = 128 << 10;

/// What has still to be sent.
pub(super) struct Copying {
    lsn: Lsn,
    meta: Vec<u8>,
    pieces: u32,
    next_piece: u32,
    tables: VecDeque<TableId>,
    /// Place in the first table.
    cursor: u64,
    ended: bool,
}

impl Copying {
    /// The copy of a partition whose sealed state is `snapshot` at `lsn`.
    pub(super) fn new(rows: &Rows, partition: PartitionId, snapshot: &[u8], lsn: Lsn) -> Self {
        let tables: Vec<TableId> = rows.tables_of(partition);
        let mut meta = Vec::new();
        meta.extend_from_slice(&(tables.len() as u32).to_le_bytes());
        for table in &tables {
            let schema = rows.schema(*table).map(encode_schema).unwrap_or_default();
            meta.extend_from_slice(&table.0.to_le_bytes());
            meta.extend_from_slice(&(schema.len() as u32).to_le_bytes());
            meta.extend_from_slice(&schema);
        }
        meta.extend_from_slice(snapshot);
        let pieces = meta.len().div_ceil(META_BYTES).max(1) as u32;
        Self { lsn, meta, pieces, next_piece: 0, tables: tables.into(), cursor: 0, ended: false }
    }

    /// Whether batches have to wait for the state they follow.
    pub(super) fn is_before_batches(&self) -> bool {
        self.next_piece < self.pieces
    }
}

impl<F: Fabric> Shard<F> {
    /// Sends the next pieces. Every batch has been sent. Gives whether anything moved, and whether all is sent.
    pub(super) fn copy_on(&mut self, place: usize) -> (bool, bool) {
        let mut moved = 0;
        while moved < TURN_BYTES {
            let Self { held, rows, fabric, .. } = self;
            let held = &mut held[place];
            let (partition, lsn) = (held.partition, held.replica.lsn());
            let (meta, chunk, copied) =
                [Kind::Meta, Kind::Chunk, Kind::Copied].map(|kind| link_header(held, kind)).into();
            let Some(down) = held.down.as_mut() else { return (moved > 0, true) };
            let (Some(lane), Some(copy)) = (down.lane, down.copy.as_mut()) else { return (moved > 0, true) };
            if copy.ended {
                return (moved > 0, true);
            }
            // Half of the ring is for batches: a copy never keeps them waiting.
            if fabric.credit(lane) < 2 * fabric.max_record(lane) {
                return (moved > 0, false);
            }
            let (header, body, parts, next): (Header, Vec<u8>, Rows32, Step) =
                match (copy.is_before_batches(), copy.tables.front().copied()) {
                    (true, _) => {
                        let from = copy.next_piece as usize * META_BYTES;
                        let until = (from + META_BYTES).min(copy.meta.len());
                        let head = MetaBody {
                            lsn: copy.lsn.0.into(),
                            piece: copy.next_piece.into(),
                            pieces: copy.pieces.into(),
                        };
                        let mut body = head.as_bytes().to_vec();
                        body.extend_from_slice(&copy.meta[from..until]);
                        (meta, body, Default::default(), Step::Piece)
                    }
                    (false, Some(table)) => {
                        let words = rows.row_words(table).unwrap_or(0);
                        let piece = PIECE_BYTES.min(fabric.max_record(lane) / 2);
                        let most = (piece / (8 + 4 * words)).max(1);
                        // A table that was dropped meanwhile has nothing to copy.
                        let next = rows.export(table, partition, copy.cursor, most).unwrap_or(None);
                        let (keys, row_words) = rows.take_exported();
                        let seed = match rows.scan_order(table, partition) {
                            Some(ScanOrder::Hashed(first, second)) => [first, second],
                            _ => [0, 0],
                        };
                        let body = ChunkBody {
                            seed: seed.map(Into::into),
                            until: next.unwrap_or(NO_CLOCK).into(),
                            rows: (keys.len() as u32).into(),
                            words: (words as u32).into(),
                            reserved: 0.into(),
                        };
                        let header = Header { table, ..chunk };
                        (header, body.as_bytes().to_vec(), (keys, row_words), Step::Rows(next))
                    }
                    (false, None) => {
                        let rows = rows.rows_of_partition(partition);
                        let body = CopiedBody { lsn: lsn.0.into(), rows: rows.into() };
                        (copied, body.as_bytes().to_vec(), Default::default(), Step::End)
                    }
                };
            let (keys, row_words) = parts;
            let bytes = body.len() + keys.len() * 8 + row_words.len() * 4;
            let padding = &[0u8; 8][..padded(bytes) - bytes];
            let head = Header { length: bytes as u32, shard: down.shard, ..header }.to_bytes();
            let written =
                fabric.write(lane, &[&head, &body, keys.as_bytes(), row_words.as_bytes(), padding], true);
            rows.give_back(keys, row_words);
            match (written, next) {
                (Ok(()), Step::Piece) => {
                    copy.next_piece += 1;
                    if !copy.is_before_batches() {
                        copy.meta = Vec::new();
                        // Batches may have been ordered meanwhile; they go before the rows.
                        return (true, false);
                    }
                }
                (Ok(()), Step::Rows(Some(cursor))) => copy.cursor = cursor,
                (Ok(()), Step::Rows(None)) => {
                    copy.tables.pop_front();
                    copy.cursor = 0;
                }
                (Ok(()), Step::End) => copy.ended = true,
                (Err(WriteError::Full | WriteError::Down), _) => return (moved > 0, false),
                (Err(WriteError::TooLarge { .. }), _) => {
                    self.give_up_joiner(
                        place,
                        "a row is larger than its lane takes; give all servers larger rings",
                    );
                    return (true, true);
                }
            }
            moved += HEADER_BYTES + bytes;
        }
        (true, false)
    }
}

/// Keys, and their rows as words.
type Rows32 = (Vec<u64>, Vec<u32>);

/// What a piece that was sent has done.
enum Step {
    Piece,
    Rows(Option<u64>),
    End,
}
