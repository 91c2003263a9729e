//! Sparse matrices of examples, and the two products that training needs.
//!
//! Problem: a minibatch names features by 64-bit keys, arithmetic wants small dense indices, and a run must give the
//! same bits whatever the number of threads. Idea: [`Csr<u64>`](Csr) holds rows as read; [`Localized`] replaces the keys by
//! positions in the sorted list of the minibatch's distinct keys, which is also the list that is pulled and pushed; the
//! products of [`LocalMatrix`] then run over dense vectors.
//!
//! - N1 a product's sums have one order: a row is summed left to right, a column in row order, each by one thread.
//! - N2 `keys` is strictly increasing, and every local column is below `keys.len()`.
//! - N3 localizing and multiplying into given buffers allocates nothing in steady state, below the threading threshold.
//!
//! Absent on purpose: general linear algebra, f64, dense blocks. Any thread may call; large products run on rayon's pool.

mod csr;
mod localize;
mod product;

pub use csr::{Csr, CsrError, Row};
pub(crate) use csr::{Room, sort_entries};
pub use localize::{Localized, Localizer};
pub use product::LocalMatrix;
