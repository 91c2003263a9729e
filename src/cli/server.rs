//! `gradwire server`.

use std::time::Duration;

use super::args::{ServerArgs, ServerFabric};
use super::complain;
use super::coordinator::{announce, follow_parent};
use super::failure::Failure;
use super::signals::on_sigterm;
use crate::server::{ServerConfig, ServerProcess};

pub(super) fn run(args: &ServerArgs) -> Result<(), Failure> {
    follow_parent(args.parent)?;
    let usable = gradwire_ffi::affinity::usable_cores();
    if let Some(core) = args.cores.iter().find(|core| **core >= usable) {
        return Err(Failure::usage(format!(
            "--cores {core}: this process may use {usable} cores; name some from 0 to {}",
            usable - 1
        )));
    }
    gradwire_ffi::process::raise_descriptor_limit();
    let process = ServerProcess::start(ServerConfig {
        coordinators: args.coordinator.split(',').map(|address| address.trim().to_owned()).collect(),
        listen: args.listen.clone(),
        shards: args.cores.len().max(1) as u32,
        cores: args.cores.clone(),
        shm: args.fabric == ServerFabric::Auto,
        memory_bytes: args.memory,
        ring_bytes: 4 << 20,
        spin: Duration::from_micros(50),
        connect_timeout: Duration::from_secs_f64(args.connect_timeout),
    })?;
    announce(process.address())?;
    let stop = process.stopper();
    on_sigterm(move || stop.stop());
    Ok(process.run(complain)?)
}
