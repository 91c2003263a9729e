//! Probe and apply alone: the lists of a run through a store of the same size in one thread, without client, fabric, log
//! and acknowledgements. What a rate reaches of it says what those cost; the store bounds what they can gain.

use std::time::{Duration, Instant};

use super::lists::{KeyLists, Named};
use super::traffic::MAKE_ROWS;
use super::{Failure, SLICES};
use crate::cli::args::BenchArgs;
use crate::store::{Init, Store, StoreConfig, TableKind, TableSchema};
use crate::wire::ids::{PartitionId, TableId};
use gradwire_kernels::{Dtype, Rule};

const TABLE: TableId = TableId(1);
const PARTITION: PartitionId = PartitionId(0);
/// Lists drawn before each slice of time, where none is to come again.
const LISTS_AT_ONCE: usize = 16;

/// Keys a second through the store alone, one figure a slice.
pub(super) fn rates(
    op: &str,
    args: &BenchArgs,
    rule: Rule,
    memory_bytes: u64,
    duration: Duration,
) -> Result<Vec<f64>, Failure> {
    let mut store = Store::new(StoreConfig::new(memory_bytes, crate::control::random()));
    let schema = TableSchema {
        name: "bare".into(),
        kind: TableKind::Sparse,
        dim: args.dim as u32,
        dtype: Dtype::F32,
        rule,
        init: Init::Zero,
        seed: 0,
        partitions: 1,
    };
    store.create_table(TABLE, schema, &[PARTITION]).map_err(Failure::work)?;
    let (batch, dim) = (args.batch as usize, args.dim as usize);
    let mut lists = KeyLists::new(args.keys, batch, args.batches as usize, false)?;
    let values = vec![1e-3; batch.max(MAKE_ROWS as usize) * dim];
    if args.fresh_keys {
        for first in (0..args.keys).step_by(MAKE_ROWS as usize) {
            let keys: Vec<u64> = (first..args.keys.min(first + MAKE_ROWS)).collect();
            push(&mut store, &keys, &values[..keys.len() * dim])?;
        }
    } else {
        lists.all().iter().try_for_each(|list| push(&mut store, list.keys(), &values[..batch * dim]))?;
    }
    let (mut out, mut found) = (vec![0.0; batch * dim], vec![0; batch.div_ceil(64)]);
    let mut rates = Vec::new();
    for _ in 0..SLICES {
        // A slice is long enough that what is done between two of its lists does not count.
        let (mut busy, mut keys) = (Duration::ZERO, 0);
        while busy < duration / SLICES {
            let fresh: Vec<Named> = match args.fresh_keys {
                true => (0..LISTS_AT_ONCE).map(|_| lists.fresh()).collect::<Result<_, _>>()?,
                false => Vec::new(),
            };
            let turn = if args.fresh_keys { &fresh[..] } else { lists.all() };
            let began = Instant::now();
            for list in turn {
                match op {
                    "push" => push(&mut store, list.keys(), &values[..batch * dim])?,
                    _ => store
                        .pull(TABLE, PARTITION, list.keys(), &mut out, &mut found)
                        .map_err(Failure::work)?,
                }
            }
            busy += began.elapsed();
            keys += turn.len() * batch;
        }
        rates.push(keys as f64 / busy.as_secs_f64());
    }
    Ok(rates)
}

fn push(store: &mut Store, keys: &[u64], values: &[f32]) -> Result<(), Failure> {
    store.push(TABLE, PARTITION, keys, values).map_err(Failure::work)
}
