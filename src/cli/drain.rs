//! `gradwire drain`.

use std::time::{Duration, Instant};

use super::args::DrainArgs;
use super::complain;
use super::failure::Failure;
use crate::cluster::message::{
    ClientHello, Failure as Refusal, FromCoordinator, Reply, Request, ToCoordinator,
};
use crate::cluster::{ServerState, Status};
use crate::control::connection::{Allegiance, Connection, Inbox};
use crate::control::random;
use crate::wire::ids::ServerId;

/// Between two looks at how much is left, and between two signs of life.
const LOOK: Duration = Duration::from_secs(1);
/// A request of this number is the drain; those above it ask for the status.
const DRAIN: u64 = 1;

pub(super) fn run(args: &DrainArgs) -> Result<(), Failure> {
    let server = ServerId(args.server);
    let addresses: Vec<String> = args.cluster.split(',').map(|one| one.trim().to_owned()).collect();
    let patience = Duration::from_secs_f64(args.connect_timeout);
    let connection = Connection::open(&addresses, Instant::now() + patience).map_err(Failure::work)?;
    let mut inbox = Inbox::default();
    let mut allegiance = Allegiance::default();
    let process = format!("drain {}", std::process::id());
    let hello = ClientHello { client: random(), process, sessions: Vec::new() };
    connection.send(0, 0, &ToCoordinator::Client(hello)).map_err(Failure::work)?;
    let deadline_ms = Duration::from_secs_f64(args.timeout).as_millis() as u64;
    let drain = Request::Drain { server };
    let mut asked = DRAIN;
    let mut look = Instant::now();
    let mut said = None;
    let mut welcome = false;
    loop {
        let now = Instant::now();
        if welcome && now >= look {
            look = now + LOOK;
            asked += 1;
            let status = ToCoordinator::Request { id: asked, deadline_ms: 5000, request: Request::Status };
            connection.send(allegiance.cluster, allegiance.term, &status).map_err(Failure::work)?;
        } else if !welcome && now >= look + patience {
            return Err(Failure::work(format!("{} does not answer; see whether it runs", args.cluster)));
        }
        let Some(received) = connection.receive(&mut inbox, LOOK / 4).map_err(Failure::work)? else {
            continue;
        };
        allegiance.admit(received.cluster, received.term).map_err(Failure::work)?;
        match received.message {
            FromCoordinator::Welcome(_) => {
                welcome = true;
                let request = ToCoordinator::Request { id: DRAIN, deadline_ms, request: drain.clone() };
                connection.send(allegiance.cluster, allegiance.term, &request).map_err(Failure::work)?;
            }
            FromCoordinator::Refused { reason } => return Err(Failure::work(reason)),
            FromCoordinator::Answer { id: DRAIN, result } => {
                return match result {
                    Ok(_) => {
                        complain(&format!("server {server} holds nothing any more; it can be stopped"));
                        Ok(())
                    }
                    Err(Refusal::Other { message }) => Err(Failure::work(message)),
                    Err(Refusal::Deadline { what }) => Err(Failure::work(format!(
                        "not done within {} s: it waits for {what}; see how far it is with status",
                        args.timeout
                    ))),
                    Err(other) => Err(Failure::work(format!("{other:?}"))),
                };
            }
            FromCoordinator::Answer { result: Ok(Reply::Status(status)), .. } => {
                let left = left(&status, server);
                if said != Some(left) {
                    said = Some(left);
                    complain(&format!("server {server}: {left} partitions are still on it"));
                }
            }
            _ => {}
        }
    }
}

/// Chains that a server is a member of.
fn left(status: &Status, server: ServerId) -> usize {
    let drained = status.servers.iter().find(|known| known.server == server);
    let drained = drained.filter(|known| known.state != ServerState::Gone);
    let Some(address) = drained.map(|known| &known.address) else { return 0 };
    status.chains.iter().filter(|chain| chain.chain.contains(address)).count()
}
