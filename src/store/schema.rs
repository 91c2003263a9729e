//! What a table is: agreed by every client and server, fixed for its life.

use gradwire_kernels::{self as kernels, Dtype, Rule, RuleError};

use crate::wire::ids::PartitionId;

/// Most values in a row.
pub const MAX_DIM: u32 = 1 << 16;
/// Most partitions of a table.
pub const MAX_PARTITIONS: u32 = 1 << 16;
/// Most bytes in a table's name.
pub const MAX_NAME_BYTES: usize = 255;

/// Second half of the hash seed that partitions keys; any odd constant (this is the golden ratio's).
const PARTITION_SEED: u64 = 0x9e37_79b9_7f4a_7c15;
/// Keys hashed at a time: 4 KiB of hashes on the stack.
const HASH_CHUNK: usize = 512;

/// Sparse: a row is made by the first push to its key. Dense: rows `0..rows` exist from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// u64 key -> row; every key but `u64::MAX`.
    Sparse,
    /// Row index -> row.
    Dense {
        /// Rows of the whole table, over all partitions.
        rows: u64,
    },
}

/// Values of a row before its first push.
///
/// # Example
/// ```
/// # use gradwire::{Add, Cluster, ClusterConfig, Init, TableOptions};
/// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
/// let options = TableOptions { init: Init::Uniform { scale: 0.01 }, seed: 7, ..TableOptions::default() };
/// let w = session.sparse_with("w", 1, Add, options)?;
/// assert!(w.pull(&[1])?.wait()?[0].abs() <= 0.01);
/// # Ok::<(), gradwire::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All zero.
    Zero,
    /// In `[-scale, scale)`, from the table's seed and the key only.
    Uniform {
        /// Half the width of the range; zero or a normal float.
        scale: f32,
    },
}

/// The definition of a table.
///
/// # Example
/// ```
/// # use gradwire::{Cluster, ClusterConfig, Ftrl};
/// # let session = Cluster::embedded(ClusterConfig::default())?.session()?;
/// let table = session.sparse("w", 1, Ftrl::default())?;
/// assert_eq!((table.schema().name.as_str(), table.schema().dim), ("w", 1));
/// assert!(table.schema().validate().is_ok());
/// # Ok::<(), gradwire::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct TableSchema {
    /// 1 to 255 bytes.
    pub name: String,
    /// Sparse or dense.
    pub kind: TableKind,
    /// Values in a row, 1 to 65,536.
    pub dim: u32,
    /// How the values are stored.
    pub dtype: Dtype,
    /// How a push changes a row.
    pub rule: Rule,
    /// What a row is before its first push.
    pub init: Init,
    /// Seed of initial values and of the partition hash.
    pub seed: u64,
    /// Into how many partitions the keys are divided, 1 to 65,536.
    pub partitions: u32,
}

/// What is wrong with a schema.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SchemaError {
    /// The name is empty or too long.
    #[error("a table's name has {bytes} bytes; give it 1 to 255")]
    Name {
        /// Its length.
        bytes: usize,
    },
    /// The dimension is out of range.
    #[error("table {name:?} has dim {dim}; choose 1 to 65536")]
    Dim {
        /// The table.
        name: String,
        /// The dim asked for.
        dim: u32,
    },
    /// The number of partitions is out of range.
    #[error("table {name:?} has {partitions} partitions; choose 1 to 65536")]
    Partitions {
        /// The table.
        name: String,
        /// The number asked for.
        partitions: u32,
    },
    /// A dense table needs rows, and no more than a partition can index.
    #[error(
        "dense table {name:?} has {rows} rows over {partitions} partitions; choose 1 to 2^31 rows a partition"
    )]
    Rows {
        /// The table.
        name: String,
        /// The rows asked for.
        rows: u64,
        /// The partitions asked for.
        partitions: u32,
    },
    /// The scale of the initial values is not usable.
    #[error("table {name:?} has initial scale {scale}; choose 0 or a positive normal number")]
    Scale {
        /// The table.
        name: String,
        /// The scale asked for.
        scale: f32,
    },
    /// The update rule is wrong.
    #[error("table {name:?}: {source}")]
    Rule {
        /// The table.
        name: String,
        /// Which of its numbers.
        #[source]
        source: RuleError,
    },
}

impl TableSchema {
    /// Checks every field. Errors name the table and the field; the caller reports them and creates nothing.
    pub fn validate(&self) -> Result<(), SchemaError> {
        let name = || self.name.clone();
        if self.name.is_empty() || self.name.len() > MAX_NAME_BYTES {
            return Err(SchemaError::Name { bytes: self.name.len() });
        }
        if self.dim == 0 || self.dim > MAX_DIM {
            return Err(SchemaError::Dim { name: name(), dim: self.dim });
        }
        if self.partitions == 0 || self.partitions > MAX_PARTITIONS {
            return Err(SchemaError::Partitions { name: name(), partitions: self.partitions });
        }
        if let TableKind::Dense { rows } = self.kind
            && (rows == 0 || rows.div_ceil(u64::from(self.partitions)) > 1 << 31)
        {
            return Err(SchemaError::Rows { name: name(), rows, partitions: self.partitions });
        }
        if let Init::Uniform { scale } = self.init
            && !(scale == 0.0 || (scale.is_normal() && scale > 0.0))
        {
            return Err(SchemaError::Scale { name: name(), scale });
        }
        self.rule.validate().map_err(|source| SchemaError::Rule { name: name(), source })
    }

    /// The partition a key belongs to. A dense row outside the table is placed in the last partition, which refuses it.
    pub fn partition_of(&self, key: u64) -> PartitionId {
        match self.kind {
            TableKind::Sparse => self.fold(kernels::hash_key(self.partition_seed(), key)),
            TableKind::Dense { .. } => self.block_of(key),
        }
    }

    /// The partitions of many keys.
    ///
    /// Shapes: `out` is as long as `keys`. Panics otherwise.
    pub fn partition_of_keys(&self, keys: &[u64], out: &mut [PartitionId]) {
        assert_eq!(keys.len(), out.len());
        if let TableKind::Dense { .. } = self.kind {
            for (key, partition) in keys.iter().zip(out) {
                *partition = self.block_of(*key);
            }
            return;
        }
        let isa = kernels::Isa::active();
        let mut hashes = [0; HASH_CHUNK];
        for (keys, out) in keys.chunks(HASH_CHUNK).zip(out.chunks_mut(HASH_CHUNK)) {
            let hashes = &mut hashes[..keys.len()];
            kernels::hash_keys(isa, self.partition_seed(), keys, hashes);
            for (hash, partition) in hashes.iter().zip(out) {
                *partition = self.fold(*hash);
            }
        }
    }

    /// Rows of a dense partition: a block of the table. Empty for partitions beyond the last row, and for sparse tables.
    pub fn dense_rows_of(&self, partition: PartitionId) -> std::ops::Range<u64> {
        let TableKind::Dense { rows } = self.kind else { return 0..0 };
        let block = self.rows_per_block(rows);
        let first = (u64::from(partition.0) * block).min(rows);
        first..(first + block).min(rows)
    }

    fn rows_per_block(&self, rows: u64) -> u64 {
        rows.div_ceil(u64::from(self.partitions)).max(1)
    }

    fn block_of(&self, row: u64) -> PartitionId {
        let TableKind::Dense { rows } = self.kind else { return PartitionId(0) };
        let block = row / self.rows_per_block(rows);
        PartitionId(block.min(u64::from(self.partitions) - 1) as u32)
    }

    fn partition_seed(&self) -> (u64, u64) {
        (self.seed, PARTITION_SEED)
    }

    /// Maps the high half of a hash to `0..partitions` by multiplication: no division, and the low half stays free.
    fn fold(&self, hash: u64) -> PartitionId {
        PartitionId((((hash >> 32) * u64::from(self.partitions)) >> 32) as u32)
    }
}
