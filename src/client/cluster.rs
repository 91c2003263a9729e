//! A cluster as its users hold it.

use std::sync::Arc;
use std::time::Duration;

use super::error::Error;
use super::session::Session;
use crate::cluster::Status;
use crate::control::ControlPlane;

/// What carries the lanes.
///
/// # Example
/// ```
/// use gradwire::{Cluster, ClusterConfig, FabricChoice};
/// let over_tcp = ClusterConfig { fabric: FabricChoice::Tcp, ..ClusterConfig::default() };
/// assert_eq!(Cluster::embedded(over_tcp)?.fabric(), "tcp");
/// # Ok::<(), gradwire::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FabricChoice {
    /// Shared memory where it can be had, else tcp; [`Cluster::fabric_reason`] says why.
    #[default]
    Auto,
    /// Shared memory.
    Shm,
    /// TCP.
    Tcp,
}

/// How a cluster is built. The defaults work on a laptop.
///
/// # Example
/// ```
/// use gradwire::{Cluster, ClusterConfig};
/// let cluster = Cluster::embedded(ClusterConfig { servers: 1, ..ClusterConfig::default() })?;
/// assert_eq!(cluster.status()?.shards.len(), 1);
/// # Ok::<(), gradwire::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Server threads.
    pub servers: usize,
    /// Partitions of every table; as many as server threads when absent.
    pub partitions: Option<u32>,
    /// What carries the lanes.
    pub fabric: FabricChoice,
    /// Memory budget of each server thread, in bytes.
    pub memory_bytes: u64,
    /// Bytes of each lane's ring, each way; a power of two from 64 KiB.
    pub ring_bytes: usize,
    /// How long any wait may last; at most a day.
    pub deadline: Duration,
    /// Pushes that may be unresolved at once, each partition; at most 256.
    pub window: usize,
    /// How long a wait polls before it blocks.
    pub spin: Duration,
    /// Whether server threads are pinned to cores.
    pub pin: bool,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            servers: 2,
            partitions: None,
            fabric: FabricChoice::Auto,
            memory_bytes: 4 << 30,
            ring_bytes: 4 << 20,
            deadline: Duration::from_secs(30),
            window: 64,
            spin: Duration::from_micros(30),
            pin: true,
        }
    }
}

/// A cluster: servers, their tables, and the way to them. Clones share it; the last one to go stops it, once its
/// sessions are gone.
///
/// # Example
/// ```
/// use gradwire::{Add, Cluster, ClusterConfig};
/// let cluster = Cluster::embedded(ClusterConfig::default())?;
/// std::thread::scope(|scope| {
///     let workers: Vec<_> = (0..4)
///         .map(|_| scope.spawn(|| cluster.session()?.sparse("hits", 1, Add)?.push(&[7], &[1.0])?.wait()))
///         .collect();
///     workers.into_iter().try_for_each(|worker| worker.join().unwrap_or(Ok(())))
/// })?;
/// let hits = cluster.session()?.sparse("hits", 1, Add)?;
/// assert_eq!(hits.pull(&[7])?.wait()?[0], 4.0);
/// # Ok::<(), gradwire::Error>(())
/// ```
#[derive(Clone)]
pub struct Cluster {
    control: Arc<dyn ControlPlane>,
    config: Arc<ClusterConfig>,
    fabric_reason: Arc<str>,
}

impl Cluster {
    /// A cluster behind a control plane.
    pub(crate) fn over(control: Arc<dyn ControlPlane>, config: ClusterConfig, fabric_reason: String) -> Self {
        Self { control, config: Arc::new(config), fabric_reason: fabric_reason.into() }
    }

    pub(super) fn control(&self) -> &Arc<dyn ControlPlane> {
        &self.control
    }

    /// Opens a session: one for each worker thread.
    ///
    /// # Errors
    /// [`Error::Control`] when a server does not answer, [`Error::Port`] when the machine has no descriptors left.
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Cluster, ClusterConfig};
    /// let cluster = Cluster::embedded(ClusterConfig::default())?;
    /// let session = cluster.session()?;
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn session(&self) -> Result<Session, Error> {
        Session::open(Arc::clone(&self.control), &self.config)
    }

    /// Every partition, server thread and table as it stands.
    ///
    /// # Errors
    /// [`Error::Control`] when a server does not answer.
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Cluster, ClusterConfig};
    /// let cluster = Cluster::embedded(ClusterConfig { partitions: Some(4), ..ClusterConfig::default() })?;
    /// assert_eq!(cluster.status()?.partitions.len(), 4);
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    pub fn status(&self) -> Result<Status, Error> {
        Ok(self.control.status()?)
    }

    /// What carries the lanes: `shm` or `tcp`.
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Cluster, ClusterConfig, FabricChoice};
    /// let config = ClusterConfig { fabric: FabricChoice::Tcp, ..ClusterConfig::default() };
    /// assert_eq!(Cluster::embedded(config)?.fabric(), "tcp");
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    #[must_use]
    pub fn fabric(&self) -> &'static str {
        self.control.fabric().name()
    }

    /// Why it is that one.
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Cluster, ClusterConfig, FabricChoice};
    /// let config = ClusterConfig { fabric: FabricChoice::Shm, ..ClusterConfig::default() };
    /// assert_eq!(Cluster::embedded(config)?.fabric_reason(), "asked for");
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    #[must_use]
    pub fn fabric_reason(&self) -> &str {
        &self.fabric_reason
    }

    /// How this cluster was built.
    ///
    /// # Example
    /// ```
    /// # use gradwire::{Cluster, ClusterConfig};
    /// assert_eq!(Cluster::embedded(ClusterConfig::default())?.config().servers, 2);
    /// # Ok::<(), gradwire::Error>(())
    /// ```
    #[must_use]
    pub fn config(&self) -> &ClusterConfig {
        &self.config
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("fabric", &self.fabric()).field("config", &self.config).finish()
    }
}
