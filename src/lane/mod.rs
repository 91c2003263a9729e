//! lane (being written)
