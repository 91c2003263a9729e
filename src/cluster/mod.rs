//! cluster (being written)
