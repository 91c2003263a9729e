//! `gradwire status`.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use super::args::StatusArgs;
use super::failure::Failure;
use crate::client::Cluster;
use crate::cluster::{ServerState, Status};

/// Between two looks of `--watch`.
const INTERVAL: Duration = Duration::from_secs(1);

pub(super) fn run(args: &StatusArgs) -> Result<(), Failure> {
    loop {
        let status = Cluster::status_of(&args.cluster, Duration::from_secs_f64(args.connect_timeout))?;
        let mut out = io::stdout().lock();
        if args.json {
            let text = serde_json::to_string(&status).map_err(Failure::work)?;
            writeln!(out, "{text}")?;
        } else {
            if args.watch && out.is_terminal() {
                // Home, and clear what was below.
                write!(out, "\x1b[H\x1b[J")?;
            }
            table(&mut out, &status)?;
        }
        out.flush()?;
        drop(out);
        if args.watch {
            std::thread::sleep(INTERVAL);
            continue;
        }
        return match status.incomplete {
            None => Ok(()),
            // Whoever reads JSON gets nothing else; it says what is missing.
            Some(_) if args.json => Err(Failure::told()),
            Some(missing) => Err(Failure::work(missing)),
        };
    }
}

fn table(out: &mut impl Write, status: &Status) -> io::Result<()> {
    writeln!(
        out,
        "cluster      {:016x}, term {}, map {}, {}",
        status.cluster_id,
        status.term,
        status.map_version,
        status.incomplete.as_deref().unwrap_or("complete")
    )?;
    writeln!(out, "coordinator  {}", status.coordinators.join(","))?;
    for server in &status.servers {
        let own = |shard| server.shards.contains(shard);
        let shards: Vec<_> = status.shards.iter().filter(|shard| own(&shard.shard)).collect();
        let held = status.partitions.iter().filter(|replica| own(&replica.shard)).count();
        writeln!(
            out,
            "server {:<5} {:<21} {:<8} threads {}, partitions {held}, lanes {}, pushes {}, pulls {}, {} MiB",
            server.server,
            server.address,
            state_name(server.state),
            server.shards.len(),
            shards.iter().map(|shard| shard.lanes).sum::<u64>(),
            shards.iter().map(|shard| shard.pushes).sum::<u64>(),
            shards.iter().map(|shard| shard.pulls).sum::<u64>(),
            shards.iter().map(|shard| shard.bytes_used).sum::<u64>() >> 20,
        )?;
    }
    let lag: u64 = status.chains.iter().filter_map(|chain| chain.lag).sum();
    let missing = status.chains.iter().filter(|chain| !chain.available).count();
    writeln!(out, "partitions   {}, unavailable {missing}, lag {lag}", status.chains.len())?;
    for chain in status.chains.iter().filter(|chain| !chain.available) {
        writeln!(
            out,
            "partition {:<2} unavailable (C7): its last copies were on {}",
            chain.partition,
            chain.chain.join(",")
        )?;
    }
    for table in &status.tables {
        writeln!(out, "table {:<6} {:<21} rows {}", table.table, table.name, table.rows)?;
    }
    for job in &status.jobs {
        writeln!(
            out,
            "job {:<8} {:<21} {:?}, epoch {} of {}, blocks {} of {}, examples {}, processes {}",
            job.job,
            job.name,
            job.phase,
            (job.epoch + 1).min(job.epochs),
            job.epochs,
            job.blocks_done,
            job.blocks,
            job.examples,
            job.processes
        )?;
    }
    for worker in &status.workers {
        let clock = worker.clock.map_or_else(|| "-".to_owned(), |clock| clock.to_string());
        writeln!(out, "worker {:<5} {:<21} clock {clock}", worker.session, worker.process)?;
    }
    Ok(())
}

fn state_name(state: ServerState) -> &'static str {
    match state {
        ServerState::Joining => "joining",
        ServerState::Serving => "serving",
        ServerState::Spare => "spare",
        ServerState::Draining => "draining",
        ServerState::Silent => "silent",
        ServerState::Gone => "gone",
    }
}
