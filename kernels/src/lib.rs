//! The arithmetic of gradwire: in-place sparse updates, index probing, dense vectors, number formats, checksums.
//!
//! Problem: every replica of a partition applies the same updates on its own CPU and must hold the same bits. Idea:
//! each kernel is written once over sixteen lanes of operations that IEEE 754 defines exactly, and compiled for each
//! instruction set; the caller passes the [`Isa`] (usually [`Isa::active`]). Invariants: results never depend on the
//! `Isa`; each operation is rounded, none fused; sums have one fixed tree; a stored NaN is 0x7fc00000; denormals are
//! kept. Bounds are checked once per call, and their violation is an assertion: offsets are our own. Absent on
//! purpose: IO, allocation, threads, libm, anything random. Called by the shard thread that owns the memory, which
//! has called [`set_float_control`]; the functions over slices may run anywhere.

#[cfg(not(all(target_endian = "little", target_pointer_width = "64")))]
compile_error!("rows, records and offsets are laid out for 64-bit little-endian machines");

mod bucket;
mod codec;
mod compiled;
mod control;
mod dense;
mod hash;
mod isa;
mod layout;
mod prefetch;
mod read;
mod rule;
mod sorted;
mod text;
mod update;
mod vector;
mod walk;
mod write;

pub use bucket::{LINE_WORDS, Line, MAX_LANES, stored_form};
pub use codec::{bf16_to_f32, crc32c, f16_to_f32, f32_to_bf16, f32_to_f16, f32_to_int8, int8_to_f32};
pub use compiled::{Plain, Prober, run_compiled};
pub use control::{assert_float_control, set_float_control};
pub use dense::{axpy, dot, gather, norm_inf, norm1, norm2_squared};
pub use hash::{hash_key, hash_keys};
pub use isa::{Isa, IsaError, SIMD_VARIABLE};
pub use layout::RowLayout;
pub use prefetch::{prefetch_item, prefetch_line_of, prefetch_word};
pub use read::read_rows;
pub use rule::{Dtype, Rule, RuleError};
pub use sorted::first_unsorted;
pub use text::Positions;
pub use update::update_rows;
pub use walk::{BLOCK, CHUNK, MAX_SEGMENT, SEGMENT_PAGES, Walk, segment_of_spot, spot};
pub use write::write_values;

/// Raised by any change of results; replicas of a chain must agree on it.
pub const KERNEL_VERSION: u32 = 1;

/// In place of an offset: the row does not exist, and a read leaves its output alone.
pub const MISSING: u32 = u32::MAX;
