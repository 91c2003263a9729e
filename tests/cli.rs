//! The built program as a user meets it: exit codes, one line for every mistake, reports, files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

mod program;

use program::{PROGRAM, failed, run, texts};

/// No command of these tests works longer; one that hangs is killed and fails.
const WATCHDOG: Duration = Duration::from_secs(120);

fn gradwire(arguments: &[&str], input: &[u8]) -> Output {
    run(Command::new(PROGRAM).args(arguments), input, WATCHDOG)
}

/// Runs a command that must succeed; its standard output.
fn works(arguments: &[&str]) -> String {
    let output = gradwire(arguments, b"");
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {err}");
    out
}

/// Runs a command that must fail with `code` and one line that has every word of `words`.
#[track_caller]
fn fails(code: i32, arguments: &[&str], words: &[&str]) -> String {
    failed(&gradwire(arguments, b""), code, words)
}

/// A folder with a small csv and the same rows as libsvm.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let (mut csv, mut svm) = (String::from("late,colour,size\n"), String::new());
        for row in 0..600 {
            let (late, colour, size) = (u32::from(row % 3 == 0), row % 5, row % 7);
            csv.push_str(&format!("{late},c{colour},{size}\n"));
            svm.push_str(&format!("{late} {colour}:1 {}:{size}\n", 100 + row % 3));
        }
        fs::write(folder.path("rows.csv"), csv).unwrap();
        fs::write(folder.path("rows.svm"), svm).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn train(&self, more: &[&str]) -> Vec<String> {
        let mut arguments: Vec<String> = ["train", "lr", "--train"].map(str::to_owned).to_vec();
        arguments.push(self.text("rows.svm"));
        arguments.extend(more.iter().map(|word| (*word).to_owned()));
        arguments
    }
}

fn strs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn the_version_names_the_commit_and_help_succeeds() {
    let version = works(&["--version"]);
    assert!(version.starts_with(concat!("gradwire ", env!("CARGO_PKG_VERSION"), " (")), "{version}");
    for command in [vec!["--help"], vec!["train", "lr", "--help"], vec!["bench", "push", "--help"]] {
        assert!(works(&command).contains("Usage: gradwire"));
    }
    assert_eq!(gradwire(&[], b"").status.code(), Some(2));
}

#[test]
fn wrong_usage_exits_2_with_one_line() {
    let folder = Folder::new();
    let (rows, csv) = (folder.text("rows.svm"), folder.text("rows.csv"));
    let train = |more: &[&'static str]| [&["train", "lr", "--train", &rows], more].concat();
    fails(2, &["fly"], &["fly", "--help"]);
    fails(2, &["train", "lr"], &["--train"]);
    fails(2, &train(&["--alpha", "-1"]), &["--alpha", "above 0"]);
    fails(2, &train(&["--l2", "nan"]), &["--l2"]);
    fails(2, &train(&["--workers", "0"]), &["--workers"]);
    fails(2, &train(&["--minibatch", "0"]), &["--minibatch"]);
    fails(2, &train(&["--staleness", "some"]), &["--staleness", "inf"]);
    fails(2, &train(&["--solver", "newton"]), &["newton", "ftrl"]);
    fails(2, &train(&["--lr", "0.1"]), &["--lr", "ftrl"]);
    fails(2, &train(&["--solver", "sgd", "--l1", "1"]), &["--l1", "sgd"]);
    fails(2, &train(&["--format", "libsvm", "--label", "y"]), &["--label", "libsvm"]);
    fails(2, &train(&["--replicas", "2"]), &["--replicas"]);
    fails(2, &["train", "lr", "--train", &csv], &["--label"]);
    fails(2, &["train", "lr", "--train", &csv, "--label", "late"], &["--categorical"]);
    fails(2, &["train", "lr", "--train", "-", "--epochs", "2"], &["standard input", "--epochs 1"]);
    fails(2, &["bench", "push", "--dim", "0"], &["--dim"]);
    fails(2, &["bench", "push", "--keys", "10", "--batch", "11"], &["--batch 11", "--keys 10"]);
    fails(2, &["bench", "push", "--optimizer", "magic"], &["magic", "adagrad"]);
    fails(2, &["bench", "ledger", "--batches", "266306"], &["266306", "2^24", "266305"]);
    fails(2, &["bench", "ledger", "--batch", "3"], &["--batch 3", "4 partitions"]);
    fails(2, &["bench", "ledger", "--keys", "4", "--batch", "5"], &["--batch 5", "--keys 4"]);
}

#[test]
fn work_that_fails_exits_1_with_one_line_that_names_the_file() {
    let folder = Folder::new();
    let rows = folder.text("rows.svm");
    let bad = |name: &str, bytes: &[u8]| {
        fs::write(folder.path(name), bytes).unwrap();
        folder.text(name)
    };
    fails(1, &["train", "lr", "--train", "no/such/file"], &["no/such/file", "check the path"]);
    fails(1, &["train", "lr", "--train", &bad("empty", b"")], &["empty"]);
    fails(1, &["train", "lr", "--train", &bad("words", b"1 3:1\nhello\n")], &["words:2:"]);
    fails(1, &["train", "lr", "--train", &bad("binary", b"\0\x01\x02\xff")], &["binary:1:"]);
    fails(1, &["train", "lr", "--train", &rows, "--test", "no/test"], &["no/test"]);
    let columns = ["--label", "late", "--categorical", "shape"];
    let csv = folder.text("rows.csv");
    fails(1, &[&["train", "lr", "--train", &csv][..], &columns].concat(), &["shape", "colour"]);
    fails(
        1,
        &["train", "lr", "--train", &rows, "--model-out", "no/such/model"],
        &["no/such/model", "folder"],
    );
    let model = bad("model", b"no model at all");
    fails(1, &["train", "lr", "--train", &rows, "--model-in", &model], &["model", "--model-out"]);
    let out = folder.text("out");
    fails(1, &["predict", "--model", &model, "--data", &rows, "--out", &out], &["not a usable model"]);
    fails(1, &["predict", "--model", "no/model", "--data", &rows, "--out", &out], &["no/model"]);
    assert!(!folder.path("out").exists());
}

#[test]
fn train_reports_every_field_of_its_contract() {
    let folder = Folder::new();
    let (report, rows) = (folder.text("report.json"), folder.text("rows.svm"));
    let arguments = folder.train(&[
        "--test",
        &rows,
        "--epochs",
        "2",
        "--workers",
        "3",
        "--servers",
        "1",
        "--fabric",
        "tcp",
        "--minibatch",
        "50",
        "--staleness",
        "2",
        "--report",
        &report,
    ]);
    let said = works(&strs(&arguments));
    assert!(said.contains("test AUC"), "{said}");
    let found = json(Path::new(&report));
    for field in [
        "schema",
        "version",
        "commit",
        "machine",
        "examples",
        "seconds",
        "examples_per_s",
        "train_logloss",
        "test_logloss",
        "test_auc",
        "nonzeros",
        "epochs",
        "fabric",
        "servers",
        "replicas",
        "recoveries",
    ] {
        assert!(!found[field].is_null(), "the report lacks {field}: {found}");
    }
    assert_eq!(
        (&found["examples"], &found["epochs"], &found["fabric"], &found["servers"]),
        (&1200.into(), &2.into(), &"tcp".into(), &1.into())
    );
    assert!(found["test_logloss"].as_f64().unwrap() < 0.6365, "better than the base rate: {found}");
}

#[test]
fn csv_is_trained_on_saved_resumed_and_predicted() {
    let folder = Folder::new();
    let (csv, model, more, out) =
        (folder.text("rows.csv"), folder.text("m1"), folder.text("m2"), folder.text("out"));
    let columns =
        ["--label", "late == 1", "--categorical", "colour", "--numeric", "size", "--cross", "colour:size"];
    let train = ["train", "lr", "--train", &csv, "--workers", "1", "--minibatch", "100"];
    works(&[&train[..], &columns, &["--model-out", &model]].concat());
    // The columns come from the model.
    works(&[&train[..], &["--model-in", &model, "--model-out", &more]].concat());
    assert_ne!(fs::read(&model).unwrap(), fs::read(&more).unwrap());
    fails(2, &[&train[..], &["--model-in", &model, "--solver", "sgd"]].concat(), &["sgd", "ftrl"]);

    // New data has no label column, in another order.
    fs::write(folder.path("new.csv"), "size,colour\n3,c0\n,c1\n6,unseen\n").unwrap();
    let said = works(&["predict", "--model", &more, "--data", &folder.text("new.csv"), "--out", &out]);
    assert!(said.contains("wrote 3 probabilities"), "{said}");
    let lines = fs::read_to_string(&out).unwrap();
    let probabilities: Vec<f32> = lines.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(probabilities.len(), 3);
    assert!(probabilities.iter().all(|p| (0.0..=1.0).contains(p)), "{lines}");
    assert_eq!(folder.names(), ["m1", "m2", "new.csv", "out", "rows.csv", "rows.svm"]);
}

#[test]
fn a_stream_is_trained_on_from_standard_input() {
    let folder = Folder::new();
    let rows = fs::read(folder.path("rows.svm")).unwrap();
    let report = folder.text("report.json");
    let output = gradwire(&["train", "lr", "--train", "-", "--report", &report], &rows);
    assert_eq!(output.status.code(), Some(0), "{}", texts(&output).1);
    assert_eq!(json(Path::new(&report))["examples"], 600);
}

#[test]
fn a_full_disk_gives_one_line_and_leaves_nothing() {
    let folder = Folder::new();
    let (model, out) = (folder.text("model"), folder.text("out"));
    works(&strs(&folder.train(&["--model-out", &model])));
    // A limit on the size of files is the full disk that a test may have; the signal it sends is ignored.
    let rows = folder.text("rows.svm");
    let command = format!(
        "trap '' XFSZ; ulimit -f 1; exec {} predict --model {model} --data {rows} --out {out}",
        PROGRAM
    );
    let output = Command::new("bash").args(["-c", &command]).output().unwrap();
    let (_, err) = texts(&output);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.lines().count() == 1 && err.contains("out") && err.contains("free some space"), "{err}");
    assert_eq!(folder.names(), ["model", "rows.csv", "rows.svm"]);
}

#[test]
fn results_into_a_closed_pipe_are_no_panic() {
    let folder = Folder::new();
    let command = format!("{} train lr --train {} | true", PROGRAM, folder.text("rows.svm"));
    let output = Command::new("bash").args(["-c", &command]).output().unwrap();
    let (_, err) = texts(&output);
    assert!(!err.contains("internal error") && !err.contains("panicked"), "{err}");
}

#[test]
fn ctrl_c_exits_130_and_leaves_no_file() {
    let folder = Folder::new();
    let model = folder.text("model");
    let mut child = Command::new(PROGRAM)
        .args(["train", "lr", "--train", "-", "--model-out", &model])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The reader asks for more than a pipe holds, so when all of this is taken the training is under way.
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all("1 3:1\n".repeat(200_000).as_bytes()).unwrap();
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let (ended, watch) = mpsc::channel::<()>();
    let watchdog = thread::spawn(move || {
        if watch.recv_timeout(WATCHDOG) == Err(mpsc::RecvTimeoutError::Timeout) {
            Command::new("kill").args(["-9", &pid]).status().unwrap();
        }
    });
    let status = child.wait().unwrap();
    drop((ended, stdin));
    watchdog.join().unwrap();
    assert_eq!(status.code(), Some(130));
    assert_eq!(folder.names(), ["rows.csv", "rows.svm"]);
}

#[test]
fn bench_reports_every_field_of_its_contract() {
    let folder = Folder::new();
    let small = ["--keys", "20000", "--batch", "1000", "--seconds", "0.2"];
    let runs: [(&str, &[&str]); 4] = [
        ("push", &["--fabric", "tcp"]),
        ("push", &["--fresh-keys", "--no-key-cache", "--optimizer", "ftrl"]),
        ("pull", &["--fabric", "shm", "--dim", "4", "--optimizer", "adagrad"]),
        ("latency", &["--wait", "poll"]),
    ];
    for (index, (op, more)) in runs.into_iter().enumerate() {
        let report = folder.text(&format!("bench{index}.json"));
        works(&[&["bench", op, "--report", &report][..], &small, more].concat());
        let found = json(Path::new(&report));
        assert_eq!(found["op"], op);
        for field in ["schema", "version", "commit", "machine", "fabric"] {
            assert!(!found[field].is_null(), "the report lacks {field}: {found}");
        }
        for field in ["keys_per_s", "bytes_per_s", "p50_us", "p99_us", "p999_us"] {
            assert!(found[field].as_f64().unwrap() > 0.0, "{field}: {found}");
        }
    }
}

#[test]
fn bench_latency_stands_beside_the_raw_limit_of_its_run() {
    let folder = Folder::new();
    for fabric in ["shm", "tcp"] {
        let report = folder.text(&format!("{fabric}.json"));
        works(&["bench", "latency", "--fabric", fabric, "--seconds", "0.2", "--report", &report]);
        let found = json(Path::new(&report));
        assert_eq!(found["fabric"], fabric);
        for field in ["raw_p50_us", "raw_p99_us"] {
            assert!(found["workload"][field].as_f64().unwrap() > 0.0, "{field}: {found}");
        }
    }
}

#[test]
fn bench_ledger_balances_and_traces_every_push() {
    let folder = Folder::new();
    let (report, trace) = (folder.text("ledger.json"), folder.text("trace.csv"));
    let out = works(&["bench", "ledger", "--batches", "500", "--report", &report, "--trace", &trace]);
    assert!(out.contains("sent 500, acked 500, unknown 0"), "{out}");
    assert!(out.contains("lost 0, duplicated 0"), "{out}");
    let found = json(Path::new(&report));
    for (field, value) in [("sent", 500), ("acked", 500), ("unknown", 0), ("lost", 0), ("duplicated", 0)] {
        assert_eq!(found[field], value, "{found}");
    }
    assert_eq!(found["op"], "ledger");
    for field in ["keys_per_s", "bytes_per_s", "p50_us", "p99_us", "p999_us", "longest_stall_ms"] {
        assert!(found[field].as_f64().unwrap() > 0.0, "{field}: {found}");
    }
    let trace = fs::read_to_string(trace).unwrap();
    assert_eq!(trace.lines().next(), Some("push,sent_us,acked_us"));
    for (push, line) in trace.lines().skip(1).enumerate() {
        let fields: Vec<u64> = line.split(',').map(|field| field.parse().unwrap()).collect();
        assert!(fields[0] == push as u64 && fields[2] >= fields[1], "{line}");
    }
    assert_eq!(trace.lines().count(), 501);
    works(&["bench", "ledger", "--fabric", "tcp", "--seconds", "0.2"]);
}

#[test]
fn bench_without_key_cache_stands_beside_the_store_alone() {
    let folder = Folder::new();
    let run = |name: &str, more: &[&str]| {
        let report = folder.text(name);
        let common =
            ["--keys", "20000", "--batch", "500", "--dim", "2", "--seconds", "0.1", "--report", &report];
        works(&[more, &common].concat());
        json(Path::new(&report))["workload"]["bare_keys_per_s"].as_f64()
    };
    for (index, op) in ["push", "pull"].into_iter().enumerate() {
        for (at, more) in
            [&["--no-key-cache"][..], &["--no-key-cache", "--fresh-keys"]].into_iter().enumerate()
        {
            let bare = run(&format!("bare{index}{at}.json"), &[&["bench", op], more].concat());
            assert!(bare.unwrap() > 0.0, "{op} {more:?}");
        }
        assert_eq!(run(&format!("cached{index}.json"), &["bench", op]), None);
    }
}

#[test]
fn bench_lane_reports_bytes_and_round_trips() {
    let folder = Folder::new();
    let runs: [&[&str]; 3] =
        [&["--fabric", "shm"], &["--fabric", "tcp", "--bytes", "100"], &["--wait", "poll"]];
    for (index, more) in runs.into_iter().enumerate() {
        let report = folder.text(&format!("lane{index}.json"));
        works(&[&["bench", "lane", "--seconds", "0.2", "--report", &report][..], more].concat());
        let found = json(Path::new(&report));
        assert_eq!(found["op"], "lane");
        for field in ["keys_per_s", "bytes_per_s", "p50_us", "p99_us", "p999_us"] {
            assert!(found[field].as_f64().unwrap() > 0.0, "{field}: {found}");
        }
        assert!(found["workload"]["records_per_s"].as_f64().unwrap() > 0.0, "{found}");
    }
}

#[test]
fn bench_kernels_sets_every_rule_against_the_bandwidth() {
    let folder = Folder::new();
    let report = folder.text("kernels.json");
    works(&["bench", "kernels", "--seconds", "0.1", "--bytes", "2097152", "--report", &report]);
    let found = json(Path::new(&report));
    assert!(found["workload"]["axpy_bytes_per_s"].as_f64().unwrap() > 0.0);
    let cases = found["workload"]["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 36);
    assert!(cases.iter().all(|case| case["fraction_of_bandwidth"].as_f64().unwrap() > 0.0));
}

#[test]
fn a_driver_of_tcp_that_there_is_not_is_wrong_usage_and_both_there_are_work() {
    let bench = |driver: &str| {
        let arguments = ["bench", "latency", "--fabric", "tcp", "--keys", "100", "--seconds", "0.1"];
        run(Command::new(PROGRAM).args(arguments).env("GRADWIRE_TCP", driver), b"", WATCHDOG)
    };
    failed(&bench("iocp"), 2, &["GRADWIRE_TCP=iocp", "uring or epoll"]);
    for driver in ["uring", "epoll"] {
        assert_eq!(bench(driver).status.code(), Some(0), "{driver}");
    }
}
