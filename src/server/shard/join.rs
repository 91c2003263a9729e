//! A partition that this shard joins: state, then rows, with the batches between them.

use std::collections::BTreeMap;

use zerocopy::{FromBytes, IntoBytes};

use super::Shard;
use super::chain::Held;
use super::follow::Stop;
use super::push::EntryPush;
use super::rows::{Rows, Values};
use crate::chain::{Position, Replica, ReplicaConfig};
use crate::cluster::decode_schema;
use crate::lane::Fabric;
use crate::store::{ScanCursor, ScanOrder, TableSchema};
use crate::wire::ids::{PartitionId, TableId};
use crate::wire::{ChunkBody, CopiedBody, Header, MetaBody, NO_CLOCK};

/// Most bytes of state that is not rows; 10,000 sessions take 2 MB.
const MAX_META_BYTES: usize = 256 << 20;

/// The keys of a table that have been copied.
#[derive(Clone, Copy, Debug)]
enum Mark {
    Whole,
    /// Those that the sender's export has passed.
    Until(ScanOrder, ScanCursor),
}

impl Mark {
    fn has(&self, key: u64) -> bool {
        match self {
            Self::Whole => true,
            Self::Until(order, cursor) => order.has_passed(*cursor, key),
        }
    }
}

/// How far a copy has come.
#[derive(Default)]
pub(super) struct Joining {
    meta: Vec<u8>,
    pieces: u32,
    /// State has come; batches can be applied.
    begun: bool,
    marks: BTreeMap<TableId, Mark>,
    complete: bool,
}

impl Joining {
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// A table that was made after the copy began: all its rows come in batches.
    pub(super) fn own_whole(&mut self, table: TableId) {
        self.marks.insert(table, Mark::Whole);
    }

    /// Applies what a push does to the keys that have been copied.
    pub(super) fn apply(
        &mut self,
        rows: &mut Rows,
        table: TableId,
        partition: PartitionId,
        push: EntryPush<'_>,
    ) -> Result<(), Stop> {
        let EntryPush { keys, values, width } = push;
        let Some(mark) = self.marks.get(&table) else { return Ok(()) };
        if keys.iter().all(|key| mark.has(*key)) {
            return rows.follow(table, partition, keys, values);
        }
        let own: Vec<usize> = (0..keys.len()).filter(|at| mark.has(keys[*at])).collect();
        let some: Vec<u64> = own.iter().map(|at| keys[*at]).collect();
        fn of<T: Copy>(own: &[usize], width: usize, all: &[T]) -> Vec<T> {
            own.iter().flat_map(|at| all[at * width..(at + 1) * width].iter().copied()).collect()
        }
        match values {
            Values::Gradients(all) => {
                rows.follow(table, partition, &some, Values::Gradients(&of(&own, width, all)))
            }
            Values::Assign(all) => {
                rows.follow(table, partition, &some, Values::Assign(&of(&own, width, all)))
            }
            Values::Erase => rows.follow(table, partition, &some, Values::Erase),
            Values::Import(all) => {
                rows.follow(table, partition, &some, Values::Import(&of(&own, width, all)))
            }
        }
    }
}

impl<F: Fabric> Shard<F> {
    /// Forgets what came so far.
    pub(super) fn begin_joining(&mut self, place: usize) {
        let (partition, chain) = (self.held[place].partition, self.held[place].chain.clone());
        self.rows.drop_partition(partition);
        match Held::empty(partition, &chain, self.shard, self.log_bytes) {
            Ok(fresh) => {
                let (touched, unsent) = (self.held[place].touched, self.held[place].unsent);
                self.held[place] = Held { touched, unsent, ..fresh };
            }
            Err(error) => self.stop_following(place, &error.to_string()),
        }
    }

    pub(super) fn on_meta(&mut self, at: usize, header: &Header) {
        let payload = self.take_payload(at, header);
        let Some(place) = self.place_of_link(at, header) else { return self.keep_payload(payload) };
        let taken = self.take_meta(place, &payload.as_bytes()[..header.length as usize]);
        self.keep_payload(payload);
        if let Err(stop) = taken {
            self.stop_following(place, &stop);
        }
    }

    fn take_meta(&mut self, place: usize, payload: &[u8]) -> Result<(), Stop> {
        let (body, bytes) = MetaBody::split(payload).map_err(|error| error.to_string())?;
        let held = &mut self.held[place];
        let Some(joining) = held.joining.as_mut().filter(|joining| !joining.begun) else {
            return Err("state came for what is no joiner".to_owned());
        };
        if body.piece.get() != joining.pieces || joining.meta.len() + bytes.len() > MAX_META_BYTES {
            return Err("a piece of the state is missing".to_owned());
        }
        joining.pieces += 1;
        joining.meta.extend_from_slice(bytes);
        if joining.pieces < body.pieces.get() {
            return Ok(());
        }
        joining.begun = true;
        let meta = std::mem::take(&mut joining.meta);
        let (tables, snapshot) = split_meta(&meta)?;
        let config = ReplicaConfig {
            partition: held.partition,
            epoch: held.chain.epoch,
            position: Position::Tail,
            log_bytes: self.log_bytes,
        };
        held.replica = Replica::restore(config, snapshot).map_err(|error| error.to_string())?;
        for session in held.replica.sessions() {
            self.sessions.entry(session.session).or_insert(None);
        }
        for (table, schema) in tables {
            self.rows.create(table, &schema, held.partition).map_err(|error| error.to_string())?;
        }
        self.touch(place);
        Ok(())
    }

    pub(super) fn on_chunk(&mut self, at: usize, header: &Header) {
        let payload = self.take_payload(at, header);
        let Some(place) = self.place_of_link(at, header) else { return self.keep_payload(payload) };
        let taken = self.take_chunk(place, header.table, &payload.as_bytes()[..header.length as usize]);
        self.keep_payload(payload);
        if let Err(stop) = taken {
            self.stop_following(place, &stop);
        }
    }

    fn take_chunk(&mut self, place: usize, table: TableId, payload: &[u8]) -> Result<(), Stop> {
        const SHAPE: &str = "a piece of rows does not have the form of its table";
        let (body, rest) = ChunkBody::split(payload).map_err(|error| error.to_string())?;
        let Self { held, rows, .. } = self;
        let held = &mut held[place];
        let Some(joining) = held.joining.as_mut().filter(|joining| joining.begun) else {
            return Err("rows came for what is no joiner".to_owned());
        };
        // Dropped after the copy began: the sender finds out at its next piece.
        if rows.scan_order(table, held.partition).is_none() {
            return Ok(());
        }
        let (count, words) = (body.rows.get() as usize, body.words.get() as usize);
        let (keys, rest) = <[u64]>::ref_from_prefix_with_elems(rest, count).map_err(|_| SHAPE.to_owned())?;
        let values = <[u32]>::ref_from_bytes(rest).map_err(|_| SHAPE.to_owned())?;
        if rows.row_words(table) != Some(words) || count.checked_mul(words) != Some(values.len()) {
            return Err(SHAPE.to_owned());
        }
        rows.follow(table, held.partition, keys, Values::Import(values))?;
        let [first, second] = body.seed.map(|word| word.get());
        // A dense table's rows go in their own order, from the first of the partition.
        let order = match rows.scan_order(table, held.partition) {
            Some(ScanOrder::Rising(start)) => ScanOrder::Rising(start),
            _ => ScanOrder::Hashed(first, second),
        };
        let mark = match body.until.get() {
            NO_CLOCK => Mark::Whole,
            until => Mark::Until(order, ScanCursor(until)),
        };
        joining.marks.insert(table, mark);
        Ok(())
    }

    pub(super) fn on_copied(&mut self, at: usize, header: &Header) {
        let payload = self.take_payload(at, header);
        let Some(place) = self.place_of_link(at, header) else { return self.keep_payload(payload) };
        let told = CopiedBody::split(&payload.as_bytes()[..header.length as usize]);
        let told = told.map(|(body, _)| (body.lsn.get(), body.rows.get()));
        self.keep_payload(payload);
        let here = (self.held[place].replica.lsn().0, self.rows.rows_of_partition(header.partition));
        if told != Ok(here) {
            let stop = format!("its copy came out different: lsn and rows {here:?}, the sender's {told:?}");
            return self.stop_following(place, &stop);
        }
        if let Some(joining) = self.held[place].joining.as_mut().filter(|joining| joining.begun) {
            joining.complete = true;
        }
        self.report_if_caught_up(place);
    }
}

/// Tables of a copy.
type Tables = Vec<(TableId, TableSchema)>;

/// Tables and the replica's own state.
fn split_meta(mut meta: &[u8]) -> Result<(Tables, &[u8]), Stop> {
    const CUT: &str = "the copy's state is cut short";
    let word = |meta: &mut &[u8]| -> Result<u32, Stop> {
        let (word, rest) = meta.split_first_chunk::<4>().ok_or_else(|| CUT.to_owned())?;
        *meta = rest;
        Ok(u32::from_le_bytes(*word))
    };
    let count = word(&mut meta)?;
    let mut tables = Vec::new();
    for _ in 0..count {
        let (table, bytes) = (TableId(word(&mut meta)?), word(&mut meta)? as usize);
        let (schema, rest) = meta.split_at_checked(bytes).ok_or_else(|| CUT.to_owned())?;
        meta = rest;
        tables.push((table, decode_schema(schema).map_err(|error| error.to_string())?));
    }
    Ok((tables, meta))
}
