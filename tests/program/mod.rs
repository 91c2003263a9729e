//! Runs the built program, or a command around it, under a watchdog.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// The built program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_gradwire");

/// Runs a command with `input` as its standard input to its end; one that takes longer than `patience` is killed, and
/// then has no exit code.
pub(crate) fn run(command: &mut Command, input: &[u8], patience: Duration) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A command that ends early closes its end: that is its right.
    let feeder = thread::spawn(move || drop(stdin.write_all(&input)));
    let pid = child.id().to_string();
    let (ended, watch) = mpsc::channel::<()>();
    let watchdog = thread::spawn(move || {
        if watch.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Timeout) {
            Command::new("kill").args(["-9", &pid]).status().unwrap();
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(ended);
    watchdog.join().unwrap();
    feeder.join().unwrap();
    output
}

/// Standard output and standard error.
pub(crate) fn texts(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into(), String::from_utf8_lossy(&output.stderr).into())
}

/// Asserts that a command failed with `code` and one line that has every word of `words`; the line.
#[track_caller]
pub(crate) fn failed(output: &Output, code: i32, words: &[&str]) -> String {
    let (_, err) = texts(output);
    assert_eq!(output.status.code(), Some(code), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
    assert!(err.starts_with("gradwire: ") && !err.contains("internal error"), "{err}");
    for word in words {
        assert!(err.contains(word), "no {word:?} in: {err}");
    }
    err
}
