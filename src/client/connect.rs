//! Clusters of other processes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cluster::{Cluster, ClusterConfig, FabricChoice};
use super::error::Error;
use super::remote::{Remote, RemoteConfig};
use super::session::MAX_DEADLINE;
use crate::cluster::Status;
use crate::control::ControlPlane;
use crate::lane::MIN_RING_BYTES;

/// How to join a cluster of other processes.
///
/// # Example
/// ```
/// use gradwire::{Cluster, ConnectConfig};
/// use std::time::Duration;
/// let config = ConnectConfig { connect_timeout: Duration::from_millis(50), ..ConnectConfig::default() };
/// let nobody = Cluster::connect_with("127.0.0.1:1", config);
/// assert!(nobody.is_err_and(|error| error.to_string().contains("127.0.0.1:1")));
/// ```
#[derive(Clone, Debug)]
pub struct ConnectConfig {
    /// What carries the lanes. One named here never falls back.
    pub fabric: FabricChoice,
    /// Bytes of each lane's ring, each way; at most what the servers have.
    pub ring_bytes: usize,
    /// How long any wait may last, for enough servers too; at most a day.
    pub deadline: Duration,
    /// Pushes that may be unresolved at once, each partition; at most 256.
    pub window: usize,
    /// How long a wait polls before it blocks.
    pub spin: Duration,
    /// How long to look for a coordinator.
    pub connect_timeout: Duration,
}

impl Default for ConnectConfig {
    fn default() -> Self {
        let ClusterConfig { fabric, ring_bytes, deadline, window, spin, .. } = ClusterConfig::default();
        Self { fabric, ring_bytes, deadline, window, spin, connect_timeout: Duration::from_secs(5) }
    }
}

impl Cluster {
    /// Joins the cluster of a coordinator: HOST:PORT, or several of them with commas between. Waits until enough servers
    /// have joined it. What works on an embedded cluster works on this one.
    ///
    /// # Errors
    /// [`Error::Control`] when no coordinator answers within 5 s, or no servers join it in 30 s.
    ///
    /// # Example
    /// ```no_run
    /// use gradwire::{Add, Cluster};
    /// let cluster = Cluster::connect("127.0.0.1:7070")?;
    /// let hits = cluster.session()?.sparse("hits", 1, Add)?;
    /// hits.push(&[7], &[1.0])?.wait()?;
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn connect(addresses: &str) -> Result<Self, Error> {
        Self::connect_with(addresses, ConnectConfig::default())
    }

    /// As [`Cluster::connect`], with settings.
    ///
    /// # Errors
    /// As [`Cluster::connect`]; also when a fabric that was named cannot be had.
    ///
    /// # Example
    /// ```no_run
    /// use gradwire::{Cluster, ConnectConfig, FabricChoice};
    /// let over_tcp = ConnectConfig { fabric: FabricChoice::Tcp, ..ConnectConfig::default() };
    /// let cluster = Cluster::connect_with("10.0.0.1:7070,10.0.0.2:7070", over_tcp)?;
    /// assert_eq!(cluster.fabric(), "tcp");
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn connect_with(addresses: &str, config: ConnectConfig) -> Result<Self, Error> {
        let deadline = config.deadline.min(MAX_DEADLINE);
        let addresses = list(addresses);
        let remote = Remote::connect(RemoteConfig {
            addresses,
            fabric: config.fabric,
            ring_bytes: config.ring_bytes,
            deadline,
            connect_timeout: config.connect_timeout.min(MAX_DEADLINE),
        })?;
        let reason = remote.join(Instant::now() + deadline)?;
        let map = remote.map();
        let cluster = ClusterConfig {
            servers: map.shards.len(),
            partitions: Some(map.partition_count()),
            fabric: config.fabric,
            memory_bytes: ClusterConfig::default().memory_bytes,
            ring_bytes: remote.ring_bytes(),
            deadline,
            window: config.window,
            spin: config.spin,
            pin: false,
        };
        Ok(Self::over(Arc::new(remote), cluster, reason))
    }

    /// How a cluster stands, without joining it: it may have no servers, or have lost some.
    ///
    /// # Errors
    /// [`Error::Control`] when no coordinator answers in time.
    ///
    /// # Example
    /// ```no_run
    /// use gradwire::Cluster;
    /// let status = Cluster::status_of("127.0.0.1:7070", std::time::Duration::from_secs(5))?;
    /// println!("{} servers, complete: {}", status.servers.len(), status.complete);
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn status_of(addresses: &str, connect_timeout: Duration) -> Result<Status, Error> {
        let connect_timeout = connect_timeout.min(MAX_DEADLINE);
        let remote = Remote::connect(RemoteConfig {
            addresses: list(addresses),
            fabric: FabricChoice::Auto,
            ring_bytes: MIN_RING_BYTES,
            deadline: connect_timeout,
            connect_timeout,
        })?;
        Ok(remote.status()?)
    }
}

fn list(addresses: &str) -> Vec<String> {
    addresses.split(',').map(|address| address.trim().to_owned()).collect()
}
