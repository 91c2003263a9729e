//! Jobs of real processes: a coordinator, two servers, and trainers that come, go and are killed. Every child dies with
//! its test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use gradwire::Cluster;
use gradwire::cluster::job::JobStatus;
use tempfile::TempDir;

mod program;

use program::{Guarded, PROGRAM, Process, failed, run, texts};

/// What hangs is ended by this.
const WATCHDOG: Duration = Duration::from_secs(120);
/// Lines of the training data: some twenty blocks.
const ROWS: usize = 30_000;
/// Figures that all processes of a job report alike.
const SHARED: [&str; 12] = [
    "job",
    "examples",
    "seconds",
    "train_logloss",
    "test_logloss",
    "test_auc",
    "test_examples",
    "nonzeros",
    "epochs",
    "workers",
    "servers",
    "processes",
];

/// A cluster and some data.
struct Running {
    coordinator: Process,
    _servers: [Process; 2],
    folder: TempDir,
}

impl Running {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let coordinator = start_coordinator(&folder, "127.0.0.1:0");
        let server = || {
            let coordinator = ["--coordinator", &coordinator.address, "--listen", "127.0.0.1:0"];
            Process::start(&[&["server", "--memory", "256M"], &coordinator[..]].concat())
        };
        let running = Self { _servers: [server(), server()], coordinator, folder };
        fs::write(running.path("train.svm"), lines(0, ROWS)).unwrap();
        fs::write(running.path("test.svm"), lines(ROWS, ROWS + 4000)).unwrap();
        running
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// `train lr` on the data, as `name`, which is where its report goes.
    fn command(&self, name: &str, more: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        let (train, test) = (self.text("train.svm"), self.text("test.svm"));
        command.args(["train", "lr", "--train", &train, "--test", &test, "--report", &self.text(name)]);
        command.args(more);
        command
    }

    fn in_job(&self, name: &str, more: &[&str]) -> Command {
        let mut command = self.command(name, more);
        command.args(["--cluster", &self.coordinator.address]);
        command
    }

    fn report(&self, name: &str) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }

    /// Waits until the job is as wanted.
    fn await_job(&self, name: &str, wanted: impl Fn(&JobStatus) -> bool) {
        let deadline = Instant::now() + WATCHDOG;
        loop {
            let status = Cluster::status_of(&self.coordinator.address, WATCHDOG).unwrap();
            if status.jobs.iter().any(|job| job.name == name && wanted(job)) {
                return;
            }
            assert!(Instant::now() < deadline, "the jobs stay as {:#?}", status.jobs);
            thread::yield_now();
        }
    }
}

fn start_coordinator(folder: &TempDir, listen: &str) -> Process {
    let store = format!("file:{}", folder.path().join("store").display());
    Process::start(&["coordinator", "--listen", listen, "--store", &store, "--partitions", "3"])
}

/// Rows of three of 60 keys; each key has its own pull towards a label.
fn lines(from: usize, to: usize) -> String {
    let mut text = String::new();
    for row in from..to {
        let mix = |salt: u64| {
            let mut z =
                (row as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ salt.wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 29)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 32)
        };
        let keys = [mix(1) % 20, 20 + mix(2) % 20, 40 + mix(3) % 20];
        let positive = mix(4) % 100 < 10 + keys.iter().map(|key| key % 20).sum::<u64>();
        text.push_str(&format!("{} {}:1 {}:1 {}:1\n", u8::from(positive), keys[0], keys[1], keys[2]));
    }
    text
}

/// Runs a command on a thread of its own.
fn running(mut command: Command) -> thread::JoinHandle<Output> {
    thread::spawn(move || run(&mut command, b"", WATCHDOG))
}

#[track_caller]
fn worked(output: &Output) -> String {
    let (out, err) = texts(output);
    assert_eq!(output.status.code(), Some(0), "{err}");
    out
}

/// Both ran to the end and say the same; the first one's report.
#[track_caller]
fn agree(running: &Running, names: [&str; 2]) -> serde_json::Value {
    let [one, two] = names.map(|name| running.report(name));
    for field in SHARED {
        assert!(!one[field].is_null() && one[field] == two[field], "{field}: {one} and {two}");
    }
    one
}

#[test]
fn processes_of_a_job_report_the_same_figures_and_those_of_an_embedded_run() {
    let cluster = Running::start();
    worked(&run(&mut cluster.command("alone", &["--epochs", "20"]), b"", WATCHDOG));
    let alone = cluster.report("alone");
    for (job, fabric) in [("a", "shm"), ("b", "tcp")] {
        let flags = ["--epochs", "20", "--job", job, "--fabric", fabric];
        let one = running(cluster.in_job("one", &flags));
        cluster.await_job(job, |status| status.examples > 0);
        worked(&run(&mut cluster.in_job("two", &flags), b"", WATCHDOG));
        worked(&one.join().unwrap());
        let report = agree(&cluster, ["one", "two"]);
        assert_eq!((&report["examples"], &report["test_examples"]), (&(20 * ROWS).into(), &4000.into()));
        assert_eq!((&report["fabric"], &report["job"]), (&fabric.into(), &job.into()));
        for field in ["test_logloss", "train_logloss"] {
            let difference = report[field].as_f64().unwrap() - alone[field].as_f64().unwrap();
            assert!(difference.abs() < 0.002, "{field} over {fabric}: {report} and {alone}");
        }
    }
}

#[test]
fn who_joins_a_finished_job_gets_its_report_and_its_model() {
    let cluster = Running::start();
    let said = worked(&run(&mut cluster.in_job("one", &["--job", "done"]), b"", WATCHDOG));
    assert!(said.contains("job          done; processes: 1"), "{said}");
    let model = cluster.text("model");
    worked(&run(&mut cluster.in_job("two", &["--job", "done", "--model-out", &model]), b"", WATCHDOG));
    agree(&cluster, ["one", "two"]);
    let (data, out) = (cluster.text("test.svm"), cluster.text("probabilities"));
    let mut predict = Command::new(PROGRAM);
    predict.args(["predict", "--model", &model, "--data", &data, "--out", &out]);
    worked(&run(&mut predict, b"", WATCHDOG));
    assert_eq!(fs::read_to_string(out).unwrap().lines().count(), 4000);

    // On from there, in a job that gets a name of its own: better than from nothing.
    let output = run(&mut cluster.in_job("three", &["--model-in", &model]), b"", WATCHDOG);
    worked(&output);
    let (first, third) = (cluster.report("one"), cluster.report("three"));
    let name = third["job"].as_str().unwrap();
    assert!(texts(&output).1.contains(&format!("this is job {name}")), "{}", texts(&output).1);
    assert!(third["train_logloss"].as_f64().unwrap() < first["train_logloss"].as_f64().unwrap());
}

#[test]
fn other_settings_and_other_data_are_refused_with_the_flag_that_differs() {
    let cluster = Running::start();
    worked(&run(&mut cluster.in_job("one", &["--job", "j", "--minibatch", "500"]), b"", WATCHDOG));
    let refused = |flags: &[&str], words: &[&str]| {
        failed(&run(&mut cluster.in_job("two", flags), b"", WATCHDOG), 1, words);
    };
    refused(&["--job", "j"], &["\"j\"", "--minibatch 500", "1000", "another --job"]);
    refused(&["--job", "j", "--minibatch", "500", "--seed", "9"], &["--seed 0", "given 9"]);
    refused(&["--job", "j", "--minibatch", "500", "--part", "1/2"], &["--part none", "given I/2"]);
    fs::write(cluster.path("train.svm"), lines(1, ROWS + 1)).unwrap();
    refused(&["--job", "j", "--minibatch", "500"], &["--train with a file of", "checksum"]);
    fs::write(cluster.path("train.svm"), "1 1:1\n1 nonsense\n").unwrap();
    refused(&["--job", "bad"], &["train.svm:2:3:"]);
    refused(&["--job", "bad"], &["train.svm:2:3:"]);
}

#[test]
fn fixed_shares_are_trained_to_one_end() {
    let cluster = Running::start();
    let part = |part: &'static str| ["--epochs", "3", "--job", "shares", "--part", part];
    let one = running(cluster.in_job("one", &part("1/2")));
    let two = running(cluster.in_job("two", &part("2/2")));
    worked(&one.join().unwrap());
    worked(&two.join().unwrap());
    let report = agree(&cluster, ["one", "two"]);
    assert_eq!((&report["examples"], &report["processes"]), (&(3 * ROWS).into(), &2.into()));
}

#[test]
fn wrong_usage_and_a_coordinator_that_is_not_there_are_told_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("train.svm");
    fs::write(&data, "1 1:1\n0 2:1\n").unwrap();
    let train = |more: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(["train", "lr", "--train", data.to_str().unwrap()]).args(more);
        run(&mut command, b"1 1:1\n", WATCHDOG)
    };
    // Port 1 is nobody's.
    let cluster = ["--cluster", "127.0.0.1:1"];
    let with = |more: &[&'static str]| train(&[&cluster[..], more].concat());
    for part in ["0/0", "3/2", "0/2", "1", "x/2"] {
        failed(&train(&["--cluster", "127.0.0.1:1", "--job", "j", "--part", part]), 2, &["--part", "I/N"]);
    }
    failed(&with(&["--part", "1/2"]), 2, &["--job"]);
    failed(&train(&["--job", "j"]), 2, &["--cluster"]);
    failed(&with(&["--servers", "2"]), 2, &["--servers", "--cluster"]);
    failed(&with(&["--job", ""]), 2, &["1 to 128"]);
    let mut stdin = Command::new(PROGRAM);
    stdin.args(["train", "lr", "--train", "-", "--cluster", "127.0.0.1:1"]);
    failed(&run(&mut stdin, b"1 1:1\n", WATCHDOG), 2, &["standard input", "files"]);
    failed(&with(&["--connect-timeout", "0.2"]), 1, &["127.0.0.1:1", "gradwire coordinator"]);
}

/// Longer than five seconds, since a lost process is lost after five.
mod slow {
    use super::*;

    /// Epochs that take longer than it takes to kill a process.
    const EPOCHS: usize = 200;

    #[test]
    fn a_killed_process_s_blocks_are_learnt_from_by_the_other() {
        let cluster = Running::start();
        let epochs = EPOCHS.to_string();
        for (job, staleness) in [("free", "inf"), ("bound", "8")] {
            let flags = ["--epochs", &epochs, "--job", job, "--staleness", staleness];
            let mut command = cluster.in_job("lost", &flags);
            let lost = Guarded(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
            cluster.await_job(job, |status| status.examples > 0);
            let other = running(cluster.in_job("other", &flags));
            cluster.await_job(job, |status| status.processes == 2 && status.epoch >= 3);
            drop(lost);
            worked(&other.join().unwrap());
            let report = cluster.report("other");
            assert_eq!(report["examples"], EPOCHS * ROWS, "{report}");
            assert_eq!(report["processes"], 2, "{report}");
            assert!(report["handed_on"].as_u64().unwrap() > 0, "{report}");
            assert!(!cluster.path("lost").exists());
        }
    }

    #[test]
    fn a_job_goes_on_under_the_next_coordinator() {
        let mut cluster = Running::start();
        let epochs = EPOCHS.to_string();
        let flags = ["--epochs", &epochs, "--job", "long"];
        let one = running(cluster.in_job("one", &flags));
        cluster.await_job("long", |status| status.epoch >= 3);
        let two = running(cluster.in_job("two", &flags));
        cluster.await_job("long", |status| status.processes == 2);
        cluster.coordinator.kill();
        let address = cluster.coordinator.address.clone();
        cluster.coordinator = start_coordinator(&cluster.folder, &address);
        cluster.await_job("long", |status| status.epoch > 0);
        worked(&one.join().unwrap());
        worked(&two.join().unwrap());
        assert_eq!(agree(&cluster, ["one", "two"])["examples"], EPOCHS * ROWS);
    }

    /// The figures that the project promises: flights, 20 epochs, the second process a second after the first.
    #[test]
    fn twenty_epochs_of_flights_by_two_processes_end_as_by_one() {
        let cluster = Running::start();
        let folder = cluster.text("flights");
        worked(&run(Command::new(PROGRAM).args(["quickstart", "--save-data", &folder]), b"", WATCHDOG));
        let files = ["train.csv", "test.csv"].map(|name| format!("{folder}/{name}"));
        let flags = |name: &str, more: &[&str]| {
            let mut command = Command::new(PROGRAM);
            command.args([
                "train", "lr", "--train", &files[0], "--test", &files[1], "--epochs", "20", "--seed", "1",
            ]);
            command.args(["--label", "arr_delay > 15", "--report", &cluster.text(name)]);
            command.args(["--categorical", "month,weekday,hour,carrier,origin,dest,tailnum"]);
            command
                .args(["--cross", "carrier:flight,origin:dest,carrier:dest,dest:hour,month:day"])
                .args(more);
            command
        };
        worked(&run(&mut flags("alone", &[]), b"", WATCHDOG));
        let job = ["--cluster", &cluster.coordinator.address, "--job", "flights"];
        let one = running(flags("one", &job));
        // Not to wait for anything: a second apart is what is promised.
        thread::sleep(Duration::from_secs(1));
        worked(&run(&mut flags("two", &job), b"", WATCHDOG));
        worked(&one.join().unwrap());
        let (report, alone) = (agree(&cluster, ["one", "two"]), cluster.report("alone"));
        assert_eq!(report["examples"], alone["examples"]);
        let difference = report["test_logloss"].as_f64().unwrap() - alone["test_logloss"].as_f64().unwrap();
        assert!(difference.abs() <= 0.002, "{report} and {alone}");
    }
}
