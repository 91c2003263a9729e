//! From files to minibatches of labelled examples with 64-bit keys.
//!
//! Problem: training must start before a large file is read, must survive any input with one line that says what to mend,
//! and must see examples in an order that is random but repeatable. Idea: one thread cuts files into chunks of whole
//! records, some parse them into blocks ([`Stream`]); [`Training`] keeps them in memory when they fit, else passes them through a shuffle buffer.
//!
//! - D1 blocks arrive in file order; what is wrong arrives after every good row before it, then nothing more.
//! - D2 a key is never u64::MAX, a value is finite, a label is 0 or 1, a row repeats no index of a libsvm line.
//! - D3 the same seed, epoch and files give the same minibatches to one worker, whatever the machine.
//! - D4 each row is in exactly one minibatch of an epoch, whatever the number of workers.
//!
//! Absent on purpose: guessing a format, a delimiter or a column's type; hashing tricks into small spaces. A [`Stream`]
//! belongs to one thread; [`Epoch`] is shared by the workers.

mod blocks;
mod chunk;
mod csv;
mod dataset;
mod error;
mod examples;
mod flights;
pub mod fuzz;
mod keys;
mod label;
mod libsvm;
mod lines;
mod number;
mod parse;
mod plain;
mod record;
mod scan;
mod shuffle;
mod source;
mod spec;
mod stream;
#[cfg(test)]
mod testing;
mod training;

pub use blocks::{Block, Blocks, Mix, Pieces, SourceShape, block_bytes_for, describe};

pub use dataset::Dataset;
pub use error::DataError;
pub use examples::Examples;
pub use flights::{flights, flights_csv, flights_spec};
pub use label::{Comparison, LabelExpr, LabelTest, Operand};
pub use source::Source;
pub use spec::FeatureSpec;
pub use stream::{Format, Progress, Stream};
pub use training::{Epoch, Limits, Minibatches, Training, quarter_of_memory};
