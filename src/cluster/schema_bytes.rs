//! A table's schema as logs, checkpoints and control messages carry it.
//!
//! Version 1, little-endian: version u16, kind u8, dtype u8, init u8, rule u8, name bytes u16, dim u32, partitions u32,
//! seed u64, rows u64 (0 if sparse), scale f32 (0 if zero), four f32 of the rule (unused ones 0), the name.

use gradwire_kernels::{Dtype, Rule};
use thiserror::Error;

use crate::store::{Init, SchemaError, TableKind, TableSchema};

/// Version of the layout.
const VERSION: u16 = 1;
/// Bytes before the name.
const FIXED: usize = 52;

/// Why bytes are no schema.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum SchemaBytesError {
    /// A version this build does not know.
    #[error("schema version {found}, this build reads {VERSION}; upgrade the older side")]
    Version {
        /// The version found.
        found: u16,
    },
    /// Too short, too long, or a number that stands for nothing.
    #[error("the {what} of a table's schema cannot be read; the bytes are damaged")]
    Field {
        /// What could not be read.
        what: &'static str,
    },
    /// Readable, and not allowed.
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

/// The bytes of a schema.
#[must_use]
pub fn encode_schema(schema: &TableSchema) -> Vec<u8> {
    let (rule, numbers) = match schema.rule {
        Rule::Sgd { lr } => (0u8, [lr, 0.0, 0.0, 0.0]),
        Rule::Momentum { lr, momentum } => (1, [lr, momentum, 0.0, 0.0]),
        Rule::Nesterov { lr, momentum } => (2, [lr, momentum, 0.0, 0.0]),
        Rule::Adagrad { lr, epsilon } => (3, [lr, epsilon, 0.0, 0.0]),
        Rule::RowAdagrad { lr, epsilon } => (4, [lr, epsilon, 0.0, 0.0]),
        Rule::Adam { lr, beta1, beta2, epsilon } => (5, [lr, beta1, beta2, epsilon]),
        Rule::Ftrl { alpha, beta, l1, l2 } => (6, [alpha, beta, l1, l2]),
        Rule::Add => (7, [0.0; 4]),
        Rule::Assign => (8, [0.0; 4]),
        Rule::Max => (9, [0.0; 4]),
    };
    let (kind, rows) = match schema.kind {
        TableKind::Sparse => (0, 0),
        TableKind::Dense { rows } => (1, rows),
    };
    let (init, scale) = match schema.init {
        Init::Zero => (0, 0.0),
        Init::Uniform { scale } => (1, scale),
    };
    let dtype = match schema.dtype {
        Dtype::F32 => 0,
        Dtype::Bf16 => 1,
    };
    let mut bytes = Vec::with_capacity(FIXED + schema.name.len());
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[kind, dtype, init, rule]);
    bytes.extend_from_slice(&(schema.name.len() as u16).to_le_bytes());
    bytes.extend_from_slice(&schema.dim.to_le_bytes());
    bytes.extend_from_slice(&schema.partitions.to_le_bytes());
    bytes.extend_from_slice(&schema.seed.to_le_bytes());
    bytes.extend_from_slice(&rows.to_le_bytes());
    bytes.extend_from_slice(&scale.to_le_bytes());
    for number in numbers {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    assert!(bytes.len() == FIXED, "the fixed part has {} bytes", bytes.len());
    bytes.extend_from_slice(schema.name.as_bytes());
    bytes
}

/// Reads and validates a schema.
///
/// # Errors
/// [`SchemaBytesError`] for anything that [`encode_schema`] does not make of a valid schema.
pub fn decode_schema(bytes: &[u8]) -> Result<TableSchema, SchemaBytesError> {
    let field = |what| SchemaBytesError::Field { what };
    let mut rest = bytes;
    let version = u16::from_le_bytes(take(&mut rest)?);
    if version != VERSION {
        return Err(SchemaBytesError::Version { found: version });
    }
    let [kind, dtype, init, rule] = take(&mut rest)?;
    let name_bytes = u16::from_le_bytes(take(&mut rest)?);
    let dim = u32::from_le_bytes(take(&mut rest)?);
    let partitions = u32::from_le_bytes(take(&mut rest)?);
    let seed = u64::from_le_bytes(take(&mut rest)?);
    let rows = u64::from_le_bytes(take(&mut rest)?);
    let scale = f32::from_le_bytes(take(&mut rest)?);
    let mut numbers = [0.0f32; 4];
    for number in &mut numbers {
        *number = f32::from_le_bytes(take(&mut rest)?);
    }
    if rest.len() != usize::from(name_bytes) {
        return Err(field("name"));
    }
    let name = std::str::from_utf8(rest).map_err(|_| field("name"))?.to_owned();
    let [a, b, c, d] = numbers;
    let schema = TableSchema {
        name,
        kind: match kind {
            0 => TableKind::Sparse,
            1 => TableKind::Dense { rows },
            _ => return Err(field("kind")),
        },
        dim,
        dtype: match dtype {
            0 => Dtype::F32,
            1 => Dtype::Bf16,
            _ => return Err(field("value type")),
        },
        rule: match rule {
            0 => Rule::Sgd { lr: a },
            1 => Rule::Momentum { lr: a, momentum: b },
            2 => Rule::Nesterov { lr: a, momentum: b },
            3 => Rule::Adagrad { lr: a, epsilon: b },
            4 => Rule::RowAdagrad { lr: a, epsilon: b },
            5 => Rule::Adam { lr: a, beta1: b, beta2: c, epsilon: d },
            6 => Rule::Ftrl { alpha: a, beta: b, l1: c, l2: d },
            7 => Rule::Add,
            8 => Rule::Assign,
            9 => Rule::Max,
            _ => return Err(field("rule")),
        },
        init: match init {
            0 => Init::Zero,
            1 => Init::Uniform { scale },
            _ => return Err(field("initial value")),
        },
        seed,
        partitions,
    };
    schema.validate()?;
    // Bits that no field reads would make two byte forms of one schema.
    if encode_schema(&schema) != bytes {
        return Err(field("unused part"));
    }
    Ok(schema)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], SchemaBytesError> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(SchemaBytesError::Field { what: "fixed part" })?;
    *rest = tail;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules() -> impl Strategy<Value = Rule> {
        prop_oneof![
            Just(Rule::Sgd { lr: 0.5 }),
            Just(Rule::Momentum { lr: 0.1, momentum: 0.9 }),
            Just(Rule::Nesterov { lr: 0.1, momentum: 0.9 }),
            Just(Rule::Adagrad { lr: 0.1, epsilon: 1e-8 }),
            Just(Rule::RowAdagrad { lr: 0.2, epsilon: 1e-7 }),
            Just(Rule::Adam { lr: 0.001, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }),
            Just(Rule::Ftrl { alpha: 0.1, beta: 1.0, l1: 0.25, l2: 1.5 }),
            Just(Rule::Add),
            Just(Rule::Assign),
            Just(Rule::Max),
        ]
    }

    fn schemas() -> impl Strategy<Value = TableSchema> {
        let kind =
            prop_oneof![Just(TableKind::Sparse), (1u64..1 << 30).prop_map(|rows| TableKind::Dense { rows })];
        let init = prop_oneof![Just(Init::Zero), Just(Init::Uniform { scale: 0.25 })];
        let dtype = prop_oneof![Just(Dtype::F32), Just(Dtype::Bf16)];
        ("[a-zé]{1,20}", kind, 1u32..100, dtype, rules(), init, any::<u64>(), 1u32..64).prop_map(
            |(name, kind, dim, dtype, rule, init, seed, partitions)| TableSchema {
                name,
                kind,
                dim,
                dtype,
                rule,
                init,
                seed,
                partitions,
            },
        )
    }

    proptest! {
        #[test]
        fn a_schema_reads_back_as_it_was_written(schema in schemas()) {
            prop_assert_eq!(decode_schema(&encode_schema(&schema)).unwrap(), schema);
        }

        #[test]
        fn a_cut_schema_is_refused(schema in schemas(), cut in 0usize..100) {
            let bytes = encode_schema(&schema);
            let cut = cut % bytes.len();
            prop_assert!(decode_schema(&bytes[..cut]).is_err());
        }

        #[test]
        fn a_changed_schema_is_refused_or_another_valid_one(schema in schemas(), at in any::<usize>(), bit in 0u8..8) {
            let mut bytes = encode_schema(&schema);
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok(other) = decode_schema(&bytes) {
                prop_assert_ne!(&other, &schema);
                prop_assert_eq!(encode_schema(&other), bytes);
            }
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = decode_schema(&bytes);
        }
    }
}
