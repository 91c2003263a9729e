//! The README's first command: what it must reach, that it repeats itself, and that its next commands work.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

mod program;

use program::{PROGRAM, run};

/// The longest run here takes seconds when optimised and a minute or two when not.
const WATCHDOG: Duration = Duration::from_secs(400);

/// Runs a command line in `folder`; its standard output.
fn shell(folder: &Path, line: &str) -> String {
    let mut bash = Command::new("bash");
    let output = run(bash.args(["-c", &format!("exec {line}")]).current_dir(folder), b"", WATCHDOG);
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{line}: {err}");
    String::from_utf8(output.stdout).unwrap()
}

fn quickstart(folder: &Path, flags: &str) -> (String, serde_json::Value) {
    let line = format!("{} quickstart {flags} --report report.json", PROGRAM);
    let said = shell(folder, &line);
    let report = serde_json::from_slice(&fs::read(folder.join("report.json")).unwrap()).unwrap();
    (said, report)
}

fn figures(report: &serde_json::Value) -> (f64, f64) {
    (report["test_logloss"].as_f64().unwrap(), report["test_auc"].as_f64().unwrap())
}

#[test]
fn one_epoch_and_three_reach_what_the_readme_promises() {
    let folder = tempfile::tempdir().unwrap();
    let (said, report) = quickstart(folder.path(), "");
    let (loss, auc) = figures(&report);
    assert!(loss <= 0.4600 && auc >= 0.766, "one epoch: {loss} / {auc}");
    assert_eq!(
        (&report["examples"], &report["test_examples"], &report["workers"], &report["servers"]),
        (&294_611.into(), &32_735.into(), &2.into(), &2.into())
    );
    for word in ["base rate", "0.5487", "this run", "reference", "0.4576", "rate", "Next"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let (_, report) = quickstart(folder.path(), "--epochs 3");
    let (loss, auc) = figures(&report);
    assert!(loss <= 0.4575 && auc >= 0.768, "three epochs: {loss} / {auc}");
}

#[test]
fn one_worker_gives_the_same_bits_twice() {
    let folder = tempfile::tempdir().unwrap();
    let (_, first) = quickstart(folder.path(), "--workers 1 --model-out first");
    let (_, second) = quickstart(folder.path(), "--workers 1 --model-out second");
    let same = ["train_logloss", "test_logloss", "test_auc", "nonzeros"];
    assert!(same.iter().all(|field| first[field] == second[field]), "{first} {second}");
    let read = |name| fs::read(folder.path().join(name)).unwrap();
    assert!(read("first") == read("second"), "the model files differ");
}

#[test]
fn the_next_commands_work_as_they_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let (said, _) = quickstart(folder.path(), "");
    let shown: Vec<&str> =
        said.lines().skip_while(|l| !l.starts_with("Next")).skip(1).map(str::trim).collect();
    assert_eq!(shown.len(), 3, "{said}");
    for command in shown {
        shell(folder.path(), command);
    }
    let lines = fs::read_to_string(folder.path().join("flights/probabilities.txt")).unwrap();
    assert_eq!(lines.lines().count(), 32_735);
}
