//! Real processes: a coordinator, servers, and this process as their client. Every child dies with its test.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use gradwire::{Add, Cluster, ConnectConfig, FabricChoice, Status};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_gradwire");
/// What hangs is ended by this.
const WATCHDOG: Duration = Duration::from_secs(60);

/// A running program; killed when it is dropped.
struct Process {
    child: Child,
    address: String,
}

impl Process {
    /// Starts it and waits for its first line, the bound address.
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = child.stdout.take().unwrap();
        let (tell, line) = channel();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(out).lines();
            let first = lines.next().and_then(Result::ok);
            drop(tell.send(first));
            lines.for_each(drop);
        });
        let mut process = Self { child, address: String::new() };
        process.address = line.recv_timeout(WATCHDOG).unwrap().expect("it prints its address first");
        process
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A coordinator and its servers.
struct Running {
    servers: Vec<Process>,
    coordinator: Process,
    directory: TempDir,
}

impl Running {
    fn start(servers: usize, server_flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = format!("file:{}", directory.path().join("store").display());
        let coordinator = Process::start(&[
            "coordinator",
            "--listen",
            "127.0.0.1:0",
            "--store",
            &store,
            "--partitions",
            "3",
        ]);
        let mut running = Self { servers: Vec::new(), coordinator, directory };
        for _ in 0..servers {
            running.add_server(server_flags);
        }
        running.await_status(|status| status.complete && serving(status) == servers);
        running
    }

    fn address(&self) -> &str {
        &self.coordinator.address
    }

    fn add_server(&mut self, flags: &[&str]) {
        let mut args = vec![
            "server",
            "--coordinator",
            &self.coordinator.address,
            "--listen",
            "127.0.0.1:0",
            "--memory",
            "256M",
        ];
        args.extend(flags);
        let server = Process::start(&args);
        self.servers.push(server);
    }

    fn status(&self) -> Status {
        Cluster::status_of(self.address(), WATCHDOG).unwrap()
    }

    fn await_status(&self, wanted: impl Fn(&Status) -> bool) -> Status {
        let deadline = Instant::now() + WATCHDOG;
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "the cluster stays as {status:#?}");
            std::thread::yield_now();
        }
    }

    fn connect(&self, fabric: FabricChoice) -> Cluster {
        Cluster::connect_with(self.address(), ConnectConfig { fabric, ..ConnectConfig::default() }).unwrap()
    }
}

fn serving(status: &Status) -> usize {
    use gradwire::cluster::ServerState;
    status.servers.iter().filter(|server| server.state == ServerState::Serving).count()
}

#[test]
fn what_one_process_pushes_another_pulls() {
    let running = Running::start(2, &[]);
    for (fabric, name) in [(FabricChoice::Auto, "shm"), (FabricChoice::Tcp, "tcp")] {
        let cluster = running.connect(fabric);
        assert_eq!(cluster.fabric(), name);
        let session = cluster.session().unwrap();
        let table = session.sparse(name, 1, Add).unwrap();
        let keys: Vec<u64> = (0..1000).collect();
        table.push(&keys, &[2.0; 1000]).unwrap().wait().unwrap();
        let other = running.connect(FabricChoice::Auto);
        let pulled =
            other.session().unwrap().sparse(name, 1, Add).unwrap().pull(&keys).unwrap().wait().unwrap();
        assert!(pulled.iter().all(|value| *value == 2.0));
    }
    assert!(running.directory.path().exists());
}
