//! What a process says of itself: where it runs, and numbers that nobody else has.

use std::hash::{BuildHasher, Hasher, RandomState};

use crate::cluster::message::HostIdentity;

/// A number nobody outside can guess and nobody else has: the standard library seeds its hash maps from the system.
#[must_use]
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish().max(1)
}

/// This host, as far as shared memory reaches. Empty where the system does not tell, which equals no other.
#[must_use]
pub fn this_host() -> HostIdentity {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let network = std::fs::read_link("/proc/self/ns/net").unwrap_or_default();
    HostIdentity { boot: boot.trim().to_owned(), network: network.to_string_lossy().into_owned() }
}
