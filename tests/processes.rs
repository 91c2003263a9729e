//! Real processes: a coordinator, servers, and this process as their client. Every child dies with its test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::Command;
use std::time::{Duration, Instant};

use gradwire::cluster::ServerState;
use gradwire::{Add, Cluster, ConnectConfig, FabricChoice, Status};
use serde_json::Value;
use tempfile::TempDir;

mod program;

use program::{PROGRAM, Process, failed, run, texts};

/// What hangs is ended by this.
const WATCHDOG: Duration = Duration::from_secs(60);

/// A coordinator and its servers.
struct Running {
    servers: Vec<Process>,
    coordinator: Option<Process>,
    address: String,
    directory: TempDir,
}

impl Running {
    fn start(servers: usize) -> Self {
        Self::start_with(servers, &[])
    }

    fn start_with(servers: usize, flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut running =
            Self { servers: Vec::new(), coordinator: None, address: "127.0.0.1:0".into(), directory };
        running.start_coordinator("store", flags);
        (0..servers).for_each(|_| running.add_server());
        if servers > 0 {
            running.await_status(|status| status.complete && serving(status) == servers);
        }
        running
    }

    /// Starts a coordinator where the last one was, if there was one.
    fn start_coordinator(&mut self, store: &str, flags: &[&str]) {
        let store = format!("file:{}", self.directory.path().join(store).display());
        let mut args = vec!["coordinator", "--listen", &self.address, "--store", &store, "--partitions", "4"];
        args.extend(flags);
        let coordinator = Process::start(&args);
        self.address.clone_from(&coordinator.address);
        self.coordinator = Some(coordinator);
    }

    fn add_server(&mut self) {
        let args = ["server", "--coordinator", &self.address, "--listen", "127.0.0.1:0", "--memory", "256M"];
        self.servers.push(Process::start(&args));
    }

    fn status(&self) -> Status {
        Cluster::status_of(&self.address, WATCHDOG).unwrap()
    }

    fn await_status(&self, wanted: impl Fn(&Status) -> bool) -> Status {
        await_status(&self.address, wanted)
    }

    fn connect(&self, fabric: FabricChoice) -> Cluster {
        Cluster::connect_with(&self.address, ConnectConfig { fabric, ..ConnectConfig::default() }).unwrap()
    }
}

fn await_status(address: &str, wanted: impl Fn(&Status) -> bool) -> Status {
    let deadline = Instant::now() + WATCHDOG;
    loop {
        let status = Cluster::status_of(address, WATCHDOG).unwrap();
        if wanted(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "the cluster stays as {status:#?}");
        std::thread::yield_now();
    }
}

fn serving(status: &Status) -> usize {
    status.servers.iter().filter(|server| server.state == ServerState::Serving).count()
}

/// Runs the program to its end.
fn command(args: &[&str]) -> std::process::Output {
    run(Command::new(PROGRAM).args(args), b"", WATCHDOG)
}

#[test]
fn what_one_process_pushes_another_pulls() {
    let running = Running::start(2);
    for (fabric, name) in [(FabricChoice::Auto, "shm"), (FabricChoice::Tcp, "tcp")] {
        let cluster = running.connect(fabric);
        assert_eq!(cluster.fabric(), name, "{}", cluster.fabric_reason());
        let session = cluster.session().unwrap();
        let table = session.sparse(name, 1, Add).unwrap();
        let keys: Vec<u64> = (0..1000).collect();
        table.push(&keys, &[2.0; 1000]).unwrap().wait().unwrap();
        let other = running.connect(FabricChoice::Auto).session().unwrap();
        let pulled = other.sparse(name, 1, Add).unwrap().pull(&keys).unwrap().wait().unwrap();
        assert!(pulled.iter().all(|value| *value == 2.0));
    }
    let status = running.status();
    let rows: Vec<(&str, u64)> =
        status.tables.iter().map(|table| (table.name.as_str(), table.rows)).collect();
    assert_eq!(rows, [("shm", 1000), ("tcp", 1000)]);
    assert!(status.shards.iter().all(|shard| shard.pushes > 0), "both servers took part");
}

#[test]
fn a_server_without_a_door_is_reached_by_tcp_and_auto_says_so() {
    let mut running = Running::start(0);
    let args = ["server", "--coordinator", &running.address, "--listen", "127.0.0.1:0", "--fabric", "tcp"];
    running.servers.push(Process::start(&args));
    let cluster = running.connect(FabricChoice::Auto);
    assert_eq!(cluster.fabric(), "tcp");
    assert!(cluster.fabric_reason().contains("tcp only"), "{}", cluster.fabric_reason());
    let named = ConnectConfig { fabric: FabricChoice::Shm, ..ConnectConfig::default() };
    let error = Cluster::connect_with(&running.address, named).unwrap_err().to_string();
    assert!(error.contains("shm") && error.contains(&running.servers[0].address), "{error}");
}

#[test]
fn status_tells_what_is_missing_then_everything() {
    let mut running = Running::start_with(0, &["--lease-ms", "60000"]);
    let address = running.address.clone();
    let ask = ["status", "--cluster", &address, "--json"];
    let output = command(&ask);
    let (out, err) = texts(&output);
    assert_eq!((output.status.code(), err.as_str()), (Some(1), ""), "{out}");
    let status: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(status["complete"], false);
    assert_eq!(status["coordinators"][0], address.as_str());

    running.add_server();
    running.await_status(|status| status.complete);
    let session = running.connect(FabricChoice::Auto).session().unwrap();
    let table = session.sparse("w", 1, Add).unwrap();
    table.push(&[1, 2, 3], &[1.0; 3]).unwrap().wait().unwrap();
    session.clock().unwrap();
    session.flush().unwrap();
    let output = command(&ask);
    let (out, err) = texts(&output);
    assert_eq!((output.status.code(), err.as_str()), (Some(0), ""), "{out}");
    let status: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(status["servers"][0]["address"], running.servers[0].address.as_str());
    assert_eq!(status["servers"][0]["state"], "serving");
    assert_eq!(status["partitions"].as_array().unwrap().len(), 4);
    for partition in status["partitions"].as_array().unwrap() {
        assert_eq!(partition["chain"][0], running.servers[0].address.as_str());
        assert_eq!((&partition["lag"], &partition["epoch"]), (&Value::from(0), &Value::from(1)));
        assert!(partition["lsn"].as_u64().is_some_and(|lsn| lsn > 0));
    }
    assert_eq!(status["workers"][0]["clock"], 1);
    let (out, _) = texts(&command(&["status", "--cluster", &address]));
    assert!(out.contains("complete") && out.contains("serving") && out.contains("rows 3"), "{out}");
}

#[test]
fn a_restart_of_the_coordinator_is_noticed_by_nobody() {
    let mut running = Running::start_with(2, &["--lease-ms", "60000"]);
    let cluster = running.connect(FabricChoice::Auto);
    let session = cluster.session().unwrap();
    let table = session.sparse("w", 1, Add).unwrap();
    let keys: Vec<u64> = (0..100).collect();
    let push = |times: usize| {
        (0..times).for_each(|_| table.push(&keys, &[1.0; 100]).unwrap().wait().unwrap());
    };
    push(10);
    running.coordinator.take().unwrap().kill();
    push(10);
    let waiting = {
        let cluster = cluster.clone();
        // Asked while there is no coordinator, answered by the next.
        std::thread::spawn(move || cluster.session().unwrap().sparse("v", 1, Add).unwrap().len().unwrap())
    };
    running.start_coordinator("store", &["--lease-ms", "60000"]);
    push(10);
    assert_eq!(waiting.join().unwrap(), 0);
    let status = running.await_status(|status| status.complete);
    assert_eq!(status.term, 2);
    assert_eq!(status.tables.len(), 2);
    let again = cluster.session().unwrap();
    assert!(again.id() > session.id());
    let pulled = again.sparse("w", 1, Add).unwrap().pull(&keys).unwrap().wait().unwrap();
    assert!(pulled.iter().all(|value| *value == 30.0));
}

#[test]
fn servers_do_not_obey_the_coordinator_of_another_cluster() {
    let mut running = Running::start_with(1, &["--lease-ms", "60000"]);
    let cluster = running.connect(FabricChoice::Tcp);
    let session = cluster.session().unwrap();
    let table = session.sparse("w", 1, Add).unwrap();
    table.push(&[1], &[1.0]).unwrap().wait().unwrap();
    running.coordinator.take().unwrap().kill();
    running.start_coordinator("another", &[]);
    let stranger = running.status();
    assert!(stranger.servers.is_empty() && !stranger.complete);
    table.push(&[1], &[1.0]).unwrap().wait().unwrap();
    running.coordinator.take().unwrap().kill();
    running.start_coordinator("store", &["--lease-ms", "60000"]);
    running.await_status(|status| status.complete && status.cluster_id != stranger.cluster_id);
    assert_eq!(table.pull(&[1]).unwrap().wait().unwrap()[0], 2.0);
    running.servers.remove(0).signal("-TERM");
}

/// One of two servers is killed under a session.
fn a_killed_server_gives_errors(fabric: FabricChoice) {
    let mut running = Running::start(2);
    let config = ConnectConfig { fabric, deadline: Duration::from_secs(2), ..ConnectConfig::default() };
    let cluster = Cluster::connect_with(&running.address, config).unwrap();
    let session = cluster.session().unwrap();
    let table = session.sparse("w", 1, Add).unwrap();
    let keys: Vec<u64> = (0..1000).collect();
    table.push(&keys, &[1.0; 1000]).unwrap().wait().unwrap();
    let mut gone = running.servers.remove(0);
    let address = gone.address.clone();
    gone.kill();
    let error = table.push(&keys, &[1.0; 1000]).unwrap().wait().unwrap_err().to_string();
    assert!(error.contains("a push was not done"), "{error}");
    let status = running.await_status(|status| status.servers.iter().any(|s| s.state == ServerState::Gone));
    assert!(!status.complete);
    assert_eq!(status.chains.iter().filter(|chain| !chain.available).count(), 2);
    let error = table.pull(&keys).unwrap().wait().unwrap_err().to_string();
    assert!(error.contains(&address) && error.contains("gone"), "{error}");
    let refused = cluster.session().unwrap_err().to_string();
    assert!(refused.contains(&address) && refused.contains("C7"), "{refused}");
    failed(&command(&["status", "--cluster", &running.address]), 1, &[&address, "gone", "C7"]);
}

#[test]
fn a_killed_server_gives_errors_and_no_hang_over_shm() {
    a_killed_server_gives_errors(FabricChoice::Shm);
}

#[test]
fn a_killed_server_gives_errors_and_no_hang_over_tcp() {
    a_killed_server_gives_errors(FabricChoice::Tcp);
}

#[test]
fn a_session_that_is_dropped_is_no_worker_any_more() {
    let running = Running::start(1);
    let session = running.connect(FabricChoice::Auto).session().unwrap();
    assert_eq!(running.status().workers.len(), 1);
    drop(session);
    assert!(running.status().workers.is_empty());
}

#[test]
fn up_starts_a_whole_cluster_and_takes_it_down() {
    let up = Process::start(&["up", "--servers", "2", "--replicas", "1"]);
    let status = await_status(&up.address, |status| status.complete && serving(status) == 2);
    let servers: Vec<String> = status.servers.into_iter().map(|server| server.address).collect();
    let session = Cluster::connect(&up.address).unwrap().session().unwrap();
    session.sparse("w", 1, Add).unwrap().push(&[1], &[1.0]).unwrap().wait().unwrap();
    drop(session);
    up.signal("-TERM");
    let (coordinator, (code, words)) = (up.address.clone(), up.end());
    assert_eq!(code, Some(0), "{words}");
    for address in servers.iter().chain([&coordinator]) {
        assert!(std::net::TcpStream::connect(address).is_err(), "{address} is still there");
    }
}

#[test]
fn up_that_is_killed_leaves_no_process_behind() {
    let mut up = Process::start(&["up", "--servers", "1"]);
    let status = Cluster::status_of(&up.address, WATCHDOG).unwrap();
    let (coordinator, server) = (up.address.clone(), status.servers[0].address.clone());
    up.kill();
    let deadline = Instant::now() + WATCHDOG;
    for address in [coordinator, server] {
        while std::net::TcpStream::connect(&address).is_ok() {
            assert!(Instant::now() < deadline, "{address} is still there");
            std::thread::yield_now();
        }
    }
}

#[test]
fn coordinator_and_server_end_well_on_sigterm() {
    let mut running = Running::start(1);
    for process in [running.servers.remove(0), running.coordinator.take().unwrap()] {
        process.signal("-TERM");
        let (code, words) = process.end();
        assert_eq!(code, Some(0), "{words}");
    }
}

#[test]
fn what_cannot_start_says_why_in_one_line() {
    let running = Running::start(1);
    let taken = running.address.as_str();
    let store = |name: &str| format!("file:{}", running.directory.path().join(name).display());
    let (used, free, torn) = (store("store"), store("free"), store("torn"));
    std::fs::create_dir(running.directory.path().join("torn")).unwrap();
    std::fs::write(running.directory.path().join("torn/state"), "gradwire-coordinator crc32c=0").unwrap();
    let coordinator =
        |listen: &str, more: &[&str]| command(&[&["coordinator", "--listen", listen], more].concat());
    failed(&coordinator(taken, &["--store", &free]), 1, &[taken, "in use", "another"]);
    failed(&coordinator("127.0.0.1:0", &["--store", &used]), 1, &["store/lock", "another coordinator"]);
    failed(&coordinator("127.0.0.1:0", &["--store", &torn]), 1, &["torn/state", "new cluster"]);
    failed(
        &coordinator("127.0.0.1:0", &["--store", &free, "--replicas", "17"]),
        2,
        &["--replicas", "1 to 16"],
    );
    failed(&coordinator("127.0.0.1:0", &["--store", "etcd:http://here"]), 2, &["file:DIR"]);
    failed(&coordinator("127.0.0.1:0", &["--lease-ms", "20"]), 2, &["--lease-ms 20", "50"]);
    failed(&coordinator("nowhere", &[]), 2, &["HOST:PORT"]);

    let server = |coordinator: &str, more: &[&str]| {
        command(&[&["server", "--coordinator", coordinator, "--connect-timeout", "0.2"], more].concat())
    };
    let free_port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    failed(&server(taken, &["--listen", taken]), 1, &[taken, "in use"]);
    failed(&server(taken, &["--listen", "127.0.0.1:0", "--cores", "9999"]), 2, &["--cores 9999"]);
    failed(&server(taken, &["--listen", "127.0.0.1:0", "--memory", "many"]), 2, &["--memory"]);
    // It listens before it looks: the address is printed, then the failure.
    failed(&server(&free_port, &["--listen", "127.0.0.1:0"]), 1, &[&free_port, "gradwire coordinator"]);
    let status = ["status", "--connect-timeout", "0.2", "--cluster", &free_port];
    failed(&command(&status), 1, &[&free_port, "gradwire coordinator"]);
    // A server is no coordinator, and does not take half a minute to be found out.
    let status = ["status", "--connect-timeout", "0.2", "--cluster", &running.servers[0].address];
    failed(&command(&status), 1, &[&running.servers[0].address]);
}

#[test]
fn a_bench_runs_with_its_ends_apart_and_against_a_running_cluster() {
    let traffic = ["--keys", "10000", "--batch", "1000", "--seconds", "0.2"];
    let server = Process::start(&[&["bench", "push", "--listen", "127.0.0.1:0"], &traffic[..]].concat());
    let running = Running::start(1);
    for (flag, address) in [("--connect", &server.address), ("--cluster", &running.address)] {
        for fabric in ["shm", "tcp"] {
            let args = [&["bench", "push", flag, address, "--fabric", fabric], &traffic[..]].concat();
            let output = command(&args);
            let (out, err) = texts(&output);
            assert_eq!(output.status.code(), Some(0), "{flag} {fabric}: {err}");
            assert!(out.contains(&format!("over {fabric}")), "{out}");
        }
    }
    assert!(running.status().tables.is_empty(), "a bench clears its table away");
    failed(&command(&["bench", "push", "--connect", "a:1", "--cluster", "a:1"]), 2, &["--connect"]);
}
