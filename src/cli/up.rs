//! `gradwire up`: a coordinator and servers as child processes of this one. With copies of everything, a server that ends
//! is replaced; otherwise all end with it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use super::args::UpArgs;
use super::complain;
use super::failure::Failure;
use super::scratch::Scratch;
use super::signals::on_signal;
use crate::client::Cluster;
use crate::cluster::ServerState;

/// How long all of it may take to start.
const START: Duration = Duration::from_secs(30);
/// Between two looks at the status while it starts.
const LOOK: Duration = Duration::from_millis(20);
/// A server that ends so soon is not started again.
const SHORT_LIFE: Duration = Duration::from_secs(2);

/// What its children and its signals tell the main thread.
enum News {
    /// A child's first line.
    Address(usize, String),
    /// A child's standard output ended: it did, or soon will.
    Ended(usize),
    /// Ctrl-C or SIGTERM.
    Stop(i32),
}

/// One child. Dropping it ends it.
struct Process {
    name: String,
    child: Child,
    started: Instant,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub(super) fn run(args: &UpArgs) -> Result<(), Failure> {
    if u64::from(args.replicas) > args.servers {
        return Err(Failure::usage(format!(
            "--replicas {} needs as many servers, each has one copy of a partition; give --servers {0} or more",
            args.replicas
        )));
    }
    let scratch = Scratch::new("up");
    let directory = args.dir.as_deref().unwrap_or(scratch.path());
    let store = directory.join("coordinator");
    // The servers of an earlier run are gone, and with them all that its store speaks of.
    forget(&store)?;
    let (tell, news) = channel();
    let signals = tell.clone();
    on_signal(move |signal| drop(signals.send(News::Stop(signal))));

    let program = std::env::current_exe()?;
    let mut processes = Vec::new();
    let store_flag = format!("file:{}", store.display());
    let replicas = args.replicas.to_string();
    let flags = ["coordinator", "--listen", "127.0.0.1:0", "--store", &store_flag, "--replicas", &replicas];
    processes.push(start(&program, "coordinator".to_owned(), &flags, 0, &tell)?);
    let deadline = Instant::now() + START;
    let coordinator = await_address(&news, &mut processes, 0, deadline)?;
    let server_flags = ["server", "--coordinator", &coordinator, "--listen", "127.0.0.1:0"];
    for server in 1..=args.servers as usize {
        processes.push(start(&program, format!("server {server}"), &server_flags, server, &tell)?);
    }
    await_complete(&news, &mut processes, &coordinator, args.servers as usize, deadline)?;
    {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{coordinator}")?;
        out.flush()?;
    }
    complain(&format!(
        "{} servers are up; stop them with Ctrl-C, see them with: gradwire status --cluster {coordinator}",
        args.servers
    ));
    loop {
        match news.recv() {
            Ok(News::Ended(which)) => {
                let lived = processes.get(which).map_or(Duration::ZERO, |process| process.started.elapsed());
                // With copies elsewhere nothing is lost. One that ends as soon as it starts would only do so again.
                if which == 0 || args.replicas < 2 || lived < SHORT_LIFE {
                    return Err(ended(&mut processes, which));
                }
                let name = processes[which].name.clone();
                complain(&format!("{name} ended; another takes its place, and copies are made again"));
                processes[which] = start(&program, name, &server_flags, which, &tell)?;
            }
            Ok(News::Address(..)) => {}
            Ok(News::Stop(signal_hook::consts::SIGINT)) => return Err(Failure::interrupted()),
            Ok(News::Stop(_)) | Err(_) => return Ok(()),
        }
    }
}

/// Removes the store of an earlier run, unless someone uses it.
fn forget(store: &Path) -> Result<(), Failure> {
    let open = crate::cluster::store_file::FileStore::open(store).map_err(Failure::work)?;
    match fs::remove_file(store.join("state")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Failure::work(format!(
            "cannot remove {}: {error}; check its owner",
            store.join("state").display()
        ))),
        _ => {
            drop(open);
            Ok(())
        }
    }
}

fn start(
    program: &Path,
    name: String,
    flags: &[&str],
    which: usize,
    tell: &Sender<News>,
) -> Result<Process, Failure> {
    let parent = std::process::id().to_string();
    let spawned = Command::new(program)
        .args(flags)
        .args(["--parent", &parent])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn();
    let mut child = spawned.map_err(|error| {
        Failure::work(format!("cannot start {}: {error}; check that it may be run", program.display()))
    })?;
    let out = child.stdout.take();
    let process = Process { name, child, started: Instant::now() };
    let tell = tell.clone();
    std::thread::Builder::new().name("up".to_owned()).spawn(move || {
        let mut lines = out.into_iter().flat_map(|out| BufReader::new(out).lines()).map_while(Result::ok);
        if let Some(line) = lines.next() {
            drop(tell.send(News::Address(which, line)));
        }
        lines.for_each(drop);
        drop(tell.send(News::Ended(which)));
    })?;
    Ok(process)
}

/// The line that says how a child ended; its own words are on standard error.
fn ended(processes: &mut [Process], which: usize) -> Failure {
    let Some(process) = processes.get_mut(which) else {
        return Failure::work("a child process ended");
    };
    let how = process.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
    Failure::work(format!(
        "{} ended ({how}); see its own message above, the other processes were stopped",
        process.name
    ))
}

/// How a start ends that was interrupted.
fn stopped(signal: i32) -> Failure {
    match signal {
        signal_hook::consts::SIGINT => Failure::interrupted(),
        _ => Failure::work("stopped while it started; start it again"),
    }
}

fn await_address(
    news: &Receiver<News>,
    processes: &mut [Process],
    which: usize,
    deadline: Instant,
) -> Result<String, Failure> {
    match news.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(News::Address(who, address)) if who == which => Ok(address),
        Ok(News::Ended(who)) => Err(ended(processes, who)),
        Ok(News::Stop(signal)) => Err(stopped(signal)),
        Ok(News::Address(..)) => Err(Failure::work("a process gave its address twice")),
        Err(_) => Err(Failure::work(format!(
            "{} did not start in {START:?}; see whether this machine is overloaded",
            processes[which].name
        ))),
    }
}

/// Waits until every server serves.
fn await_complete(
    news: &Receiver<News>,
    processes: &mut [Process],
    coordinator: &str,
    servers: usize,
    deadline: Instant,
) -> Result<(), Failure> {
    loop {
        match news.recv_timeout(LOOK) {
            Ok(News::Ended(who)) => return Err(ended(processes, who)),
            Ok(News::Stop(signal)) => return Err(stopped(signal)),
            Ok(News::Address(..)) | Err(_) => {}
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let status = Cluster::status_of(coordinator, left)?;
        let serving = status.servers.iter().filter(|server| server.state == ServerState::Serving).count();
        if status.complete && serving == servers {
            return Ok(());
        }
        if left.is_zero() {
            let missing =
                status.incomplete.unwrap_or_else(|| format!("{serving} of {servers} servers serve"));
            return Err(Failure::work(format!("the cluster was not complete after {START:?}: {missing}")));
        }
    }
}
