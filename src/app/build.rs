//! What this build calls itself, in `--version`, reports and model files.

/// The crate's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from; `unknown` outside a repository.
pub const COMMIT: &str = env!("GRADWIRE_COMMIT");
