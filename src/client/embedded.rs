//! Clusters in this process. The only place where the client knows the server: it assembles it.

use std::sync::Arc;

use super::cluster::{Cluster, ClusterConfig, FabricChoice};
use super::error::Error;
use super::session::MAX_DEADLINE;
use crate::lane::{FabricKind, MIN_RING_BYTES, shm};
use crate::server::{Embedded, EmbeddedConfig};

impl Cluster {
    /// Starts server threads in this process, joined to sessions by real lanes: shared memory, or TCP over the
    /// loopback address. Dropping the last clone, once its sessions are gone, ends them.
    ///
    /// # Errors
    /// [`Error::Control`] when a setting is out of range or the machine refuses threads, memory or descriptors.
    ///
    /// # Example
    /// ```
    /// use gradwire::{Cluster, ClusterConfig};
    /// let cluster = Cluster::embedded(ClusterConfig { servers: 2, ..ClusterConfig::default() })?;
    /// assert_eq!(cluster.fabric(), "shm");
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn embedded(config: ClusterConfig) -> Result<Self, Error> {
        let shards = u32::try_from(config.servers).unwrap_or(u32::MAX);
        let (fabric, reason) = match config.fabric {
            FabricChoice::Shm => (FabricKind::Shm, "asked for".to_owned()),
            FabricChoice::Tcp => (FabricKind::Tcp, "asked for".to_owned()),
            FabricChoice::Auto => choose(),
        };
        let embedded = Embedded::start(EmbeddedConfig {
            shards,
            partitions: config.partitions.unwrap_or(shards),
            fabric,
            memory_bytes: config.memory_bytes,
            ring_bytes: config.ring_bytes,
            // A record takes at most a quarter of its ring, an entry a quarter of its log.
            log_bytes: config.ring_bytes.saturating_mul(2),
            spin: config.spin,
            pin: config.pin,
            deadline: config.deadline.min(MAX_DEADLINE),
        })?;
        Ok(Self::over(Arc::new(embedded), config, reason))
    }
}

/// Shared memory when a lane of it can be made here, which a container's seccomp profile may forbid; else tcp.
fn choose() -> (FabricKind, String) {
    match shm::pair(MIN_RING_BYTES) {
        Ok(_) => (FabricKind::Shm, "workers and servers share this host".to_owned()),
        Err(error) => (FabricKind::Tcp, format!("shared memory failed: {error}")),
    }
}
