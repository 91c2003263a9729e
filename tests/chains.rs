//! Replicated clusters of real processes: servers are killed, stopped, added and drained while the ledger runs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use gradwire::cluster::ServerState;
use gradwire::{Add, Cluster, ConnectConfig, Pull, Status};
use serde_json::Value;
use tempfile::TempDir;

mod program;

use program::{PROGRAM, Process, failed, run, texts};

/// What hangs is ended by this.
const WATCHDOG: Duration = Duration::from_secs(100);
/// A busy machine pauses processes for longer than the default lease; a test is about what happens then, not when.
const PATIENT: [&str; 4] = ["--lease-ms", "400", "--heartbeat-ms", "50"];

/// A coordinator with chains of two, and its servers.
struct Running {
    servers: Vec<Process>,
    coordinator: Option<Process>,
    address: String,
    directory: TempDir,
}

impl Running {
    fn start(servers: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = "127.0.0.1:0".to_owned();
        let mut running = Self { servers: Vec::new(), coordinator: None, address, directory };
        running.start_coordinator();
        (0..servers).for_each(|_| running.add_server());
        // All of them, before there is anything to be held: so each gets its share.
        running.await_status(|status| status.complete && serving(status) == servers);
        running
    }

    fn start_coordinator(&mut self) {
        let store = format!("file:{}", self.directory.path().join("store").display());
        let mut args = vec!["coordinator", "--listen", &self.address, "--store", &store];
        args.extend(["--replicas", "2", "--partitions", "8"]);
        args.extend(PATIENT);
        let coordinator = Process::start(&args);
        self.address.clone_from(&coordinator.address);
        self.coordinator = Some(coordinator);
    }

    fn add_server(&mut self) {
        let args = ["server", "--coordinator", &self.address, "--listen", "127.0.0.1:0", "--memory", "256M"];
        self.servers.push(Process::start(&args));
    }

    fn await_status(&self, wanted: impl Fn(&Status) -> bool) -> Status {
        let deadline = Instant::now() + WATCHDOG;
        loop {
            let status = Cluster::status_of(&self.address, WATCHDOG).unwrap();
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "the cluster stays as {status:#?}");
            thread::yield_now();
        }
    }

    /// Runs the ledger for some seconds, and `meanwhile` once it has a good part of them behind it.
    fn ledger(&mut self, meanwhile: impl FnOnce(&mut Self)) -> Value {
        let report = self.directory.path().join("ledger.json");
        let path = report.to_str().unwrap().to_owned();
        let address = self.address.clone();
        let before = self.pushes();
        let ledger = thread::spawn(move || {
            let args = ["bench", "ledger", "--cluster", &address, "--seconds", "3", "--report", &path];
            run(Command::new(PROGRAM).args(args), b"", WATCHDOG)
        });
        // It pushes: whatever happens now happens to it.
        let deadline = Instant::now() + WATCHDOG;
        while self.pushes() < before + 200 {
            assert!(Instant::now() < deadline && !ledger.is_finished(), "the ledger does not push");
        }
        meanwhile(self);
        let output: Output = ledger.join().unwrap();
        assert!(output.status.success(), "{:?}", texts(&output));
        let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
        for (field, wanted) in [("lost", 0), ("duplicated", 0), ("unknown", 0)] {
            assert_eq!(report[field], wanted, "{report}");
        }
        assert_eq!(report["sent"], report["acked"], "{report}");
        assert!(report["acked"].as_u64().unwrap() > 200, "{report}");
        report
    }

    fn pushes(&self) -> u64 {
        let status = Cluster::status_of(&self.address, WATCHDOG).unwrap();
        status.shards.iter().map(|shard| shard.pushes).sum()
    }
}

fn serving(status: &Status) -> usize {
    status.servers.iter().filter(|server| server.state == ServerState::Serving).count()
}

#[test]
fn any_server_may_be_killed_and_nothing_is_lost_or_counted_twice() {
    let mut running = Running::start(3);
    for round in 0..3 {
        running.ledger(|running| running.servers.remove(round % running.servers.len()).kill());
        // Copies are made again, by those who stay and by who comes.
        running.add_server();
        running.await_status(|status| status.complete);
    }
}

#[test]
fn a_server_that_is_stopped_and_wakes_does_no_harm() {
    let mut running = Running::start(3);
    running.ledger(|running| {
        running.servers[0].signal("-STOP");
        running.await_status(|status| serving(status) == 2);
        running.servers[0].signal("-CONT");
    });
    running.await_status(|status| status.complete && serving(status) == 3);
    running.ledger(|_| ());
}

#[test]
fn a_coordinator_that_is_killed_and_started_again_is_not_noticed_by_pushes() {
    let mut running = Running::start(2);
    let epochs = |status: &Status| status.chains.iter().map(|chain| chain.epoch).collect::<Vec<_>>();
    let before = epochs(&running.await_status(|status| status.complete));
    running.ledger(|running| {
        running.coordinator.take().unwrap().kill();
        running.start_coordinator();
    });
    let after = epochs(&running.await_status(|status| status.complete));
    assert_eq!(before, after, "no chain changes because of it");
}

#[test]
fn a_server_that_comes_gets_its_share_and_one_that_is_drained_loses_it() {
    let mut running = Running::start(2);
    running.ledger(Running::add_server);
    let status = running.await_status(|status| status.complete && serving(status) == 3);
    let first = status.servers[0].server.0.to_string();
    running.ledger(|running| {
        let args = ["drain", &first, "--cluster", &running.address];
        let drained = run(Command::new(PROGRAM).args(args), b"", WATCHDOG);
        assert!(drained.status.success(), "{:?}", texts(&drained));
    });
    let status = running.await_status(|status| status.complete);
    let address = status.servers.iter().find(|server| server.server.0.to_string() == first).unwrap();
    assert!(status.chains.iter().all(|chain| !chain.chain.contains(&address.address)), "{status:#?}");
    // Two are left, and each copy needs its own.
    let second = status.servers.iter().find(|server| server.server.0.to_string() != first).unwrap();
    let args = ["drain", &second.server.0.to_string(), "--cluster", &running.address];
    failed(&run(Command::new(PROGRAM).args(args), b"", WATCHDOG), 1, &["cop"]);
}

#[test]
fn a_strong_pull_sees_what_is_acknowledged_also_after_the_tail_is_gone() {
    let mut running = Running::start(3);
    let session = Cluster::connect(&running.address).unwrap().session().unwrap();
    let table = session.sparse("w", 1, Add).unwrap();
    let keys: Vec<u64> = (0..500).collect();
    for round in 1..=4 {
        table.push(&keys, &[1.0; 500]).unwrap().wait().unwrap();
        let strong = Pull { strong: true, ..Pull::default() };
        let pulled = table.pull_with(&keys, strong).unwrap().wait().unwrap();
        assert!(pulled.iter().all(|value| *value == round as f32), "round {round}: {:?}", &pulled[..4]);
        if round == 2 {
            running.servers.remove(0).kill();
        }
    }
}

#[test]
fn when_every_copy_is_gone_it_is_said_and_nothing_is_made_up() {
    let mut running = Running::start(2);
    // Nobody answers a push to what is gone: its wait ends here.
    let config = ConnectConfig { deadline: Duration::from_secs(3), ..ConnectConfig::default() };
    let cluster = Cluster::connect_with(&running.address, config).unwrap();
    let session = cluster.session().unwrap();
    let table = session.sparse("w", 1, Add).unwrap();
    table.push(&[1], &[1.0]).unwrap().wait().unwrap();
    running.servers.drain(..).for_each(|mut server| server.kill());
    running.add_server();
    running.add_server();
    let status = running.await_status(|status| {
        status.incomplete.as_ref().is_some_and(|line| line.contains("C7")) && status.servers.len() == 4
    });
    assert!(!status.complete && status.chains.iter().any(|chain| !chain.available), "{status:#?}");
    let pushed = table.push(&[1], &[1.0]).and_then(|ticket| ticket.wait());
    assert!(pushed.is_err(), "a push to what is gone is not acknowledged");
}

/// Processes that this one started and whose command line has the word.
fn children_of(parent: u32, word: &str) -> Vec<String> {
    let stat = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let parent_of = |pid: &str| stat(pid).rsplit(')').next()?.split_whitespace().nth(1)?.parse::<u32>().ok();
    let words = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let all =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    all.filter(|pid| parent_of(pid) == Some(parent) && words(pid).split('\0').any(|own| own == word))
        .collect()
}

#[test]
fn up_with_copies_replaces_a_server_that_is_killed() {
    let up = Process::start(&["up", "--servers", "3", "--replicas", "2"]);
    let running = Running {
        servers: Vec::new(),
        coordinator: None,
        address: up.address.clone(),
        directory: tempfile::tempdir().unwrap(),
    };
    let before = running.await_status(|status| status.complete && serving(status) == 3);
    // One that ends as soon as it has started is not started again.
    let born = Instant::now();
    let session = Cluster::connect(&up.address).unwrap().session().unwrap();
    let table = session.sparse("w", 1, Add).unwrap();
    let mut pushed = 0.0;
    while born.elapsed() < Duration::from_secs(3) {
        table.push(&[1, 2, 3], &[1.0; 3]).unwrap().wait().unwrap();
        pushed += 1.0;
    }
    let servers = children_of(up.child.0.id(), "server");
    assert_eq!(servers.len(), 3);
    assert!(Command::new("kill").args(["-9", &servers[1]]).status().unwrap().success());
    table.push(&[1, 2, 3], &[1.0; 3]).unwrap().wait().unwrap();
    let known: Vec<_> = before.servers.iter().map(|server| server.server).collect();
    let fresh = |status: &Status| status.servers.iter().any(|server| !known.contains(&server.server));
    running.await_status(|status| status.complete && serving(status) == 3 && fresh(status));
    let strong = Pull { strong: true, ..Pull::default() };
    let rows = table.pull_with(&[1, 2, 3], strong).unwrap().wait().unwrap();
    assert!(rows.iter().all(|value| *value == pushed + 1.0), "{:?} after {pushed} pushes", &rows[..]);
}
