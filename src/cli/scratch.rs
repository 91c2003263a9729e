//! A directory of this process only.

use std::fs;
use std::path::{Path, PathBuf};

/// A directory under the system's temporary one; it goes with this value.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// One that is named after what it is for and this process. Nothing is made yet.
    pub(super) fn new(what: &str) -> Self {
        Self(std::env::temp_dir().join(format!("gradwire-{what}-{}", std::process::id())))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing in it is missed; what cannot be removed stays for the system to clear.
        fs::remove_dir_all(&self.0).ok();
    }
}
