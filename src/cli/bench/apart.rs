//! Both ends of a bench in processes of their own.

use std::thread;
use std::time::Duration;

use super::{config, waiting};
use crate::cli::args::BenchArgs;
use crate::cli::complain;
use crate::cli::coordinator::announce;
use crate::cli::failure::Failure;
use crate::cli::scratch::Scratch;
use crate::cli::signals::on_sigterm;
use crate::client::{Cluster, ConnectConfig};
use crate::cluster::message::Timing;
use crate::server::coordinator::{CoordinatorConfig, CoordinatorProcess};
use crate::server::{ServerConfig, ServerProcess};
use gradwire_kernels::Rule;

/// The server's end: a coordinator and one server thread, until it is stopped. Memory and waiting as the flags say.
pub(super) fn serve(listen: &str, args: &BenchArgs, rule: &Rule) -> Result<(), Failure> {
    let scratch = Scratch::new("bench");
    gradwire_ffi::process::raise_descriptor_limit();
    let coordinator = CoordinatorProcess::start(&CoordinatorConfig {
        listen: listen.to_owned(),
        store: scratch.path().to_owned(),
        partitions: Some(1),
        replicas: 1,
        timing: Timing::default(),
    })?;
    let address = coordinator.address();
    let sizes = config(args, rule);
    let server = ServerProcess::start(ServerConfig {
        coordinators: vec![address.to_string()],
        listen: std::net::SocketAddr::new(address.ip(), 0).to_string(),
        shards: 1,
        cores: vec![0],
        shm: true,
        memory_bytes: sizes.memory_bytes,
        ring_bytes: sizes.ring_bytes,
        spin: sizes.spin,
        connect_timeout: Duration::from_secs(30),
    })?;
    announce(address)?;
    let (stop, stop_server) = (coordinator.stopper(), server.stopper());
    let stop_both = stop.clone();
    on_sigterm(move || {
        stop_server.stop();
        stop_both.stop();
    });
    let serving = thread::Builder::new().name("bench-server".to_owned()).spawn(move || {
        let ended = server.run(complain);
        stop.stop();
        ended
    })?;
    coordinator.run(complain)?;
    serving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    Ok(())
}

/// The client's end.
pub(super) fn join(address: &str, args: &BenchArgs) -> Result<Cluster, Failure> {
    let config = ConnectConfig {
        fabric: args.fabric.into(),
        spin: waiting(args.wait).spin,
        ..ConnectConfig::default()
    };
    Ok(Cluster::connect_with(address, config)?)
}
