//! `gradwire coordinator`.

use std::io::{self, Write};
use std::net::SocketAddr;

use super::args::CoordinatorArgs;
use super::complain;
use super::failure::Failure;
use super::signals::on_sigterm;
use crate::cluster::message::Timing;
use crate::server::coordinator::{CoordinatorConfig, CoordinatorProcess};

pub(super) fn run(args: &CoordinatorArgs) -> Result<(), Failure> {
    follow_parent(args.parent)?;
    if args.lease_ms < 2 * args.heartbeat_ms {
        return Err(Failure::usage(format!(
            "--lease-ms {} leaves no room for a lost heartbeat; give at least {}, two heartbeats",
            args.lease_ms,
            2 * args.heartbeat_ms
        )));
    }
    if args.worker_lease_ms < 2 * args.worker_heartbeat_ms {
        return Err(Failure::usage(format!(
            "--worker-lease-ms {} leaves no room for a lost heartbeat; give at least {}, two heartbeats",
            args.worker_lease_ms,
            2 * args.worker_heartbeat_ms
        )));
    }
    gradwire_ffi::process::raise_descriptor_limit();
    let config = CoordinatorConfig {
        listen: args.listen.clone(),
        store: args.store.clone(),
        partitions: args.partitions,
        replicas: args.replicas,
        timing: Timing {
            heartbeat_ms: args.heartbeat_ms,
            lease_ms: args.lease_ms,
            orphan_s: args.orphan_s,
            client_heartbeat_ms: args.worker_heartbeat_ms,
            client_lease_ms: args.worker_lease_ms,
        },
    };
    let process = CoordinatorProcess::start(&config)?;
    announce(process.address())?;
    complain(&format!(
        "coordinator of cluster {:016x}, term {}, store {}",
        process.cluster(),
        process.term(),
        args.store.display()
    ));
    let stop = process.stopper();
    on_sigterm(move || stop.stop());
    Ok(process.run(complain)?)
}

/// The bound address is the first line of standard output. Whoever listens to the world is warned.
pub(super) fn announce(address: SocketAddr) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{address}")?;
    out.flush()?;
    if !address.ip().is_loopback() {
        complain(&format!(
            "warning: {address} can be reached from other hosts and no key is configured; whoever reaches it can read \
             and change the model"
        ));
    }
    Ok(())
}

/// A process that `up` started ends with it.
pub(super) fn follow_parent(parent: Option<u32>) -> Result<(), Failure> {
    match parent {
        Some(parent) if !gradwire_ffi::process::end_with_parent(parent) => {
            Err(Failure::work(format!("process {parent}, which started this one, has ended; start it again")))
        }
        _ => Ok(()),
    }
}
