//! Runs the built program, or a command around it, under a watchdog.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
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

/// How long a process may take for its first line, and to end when it is told to.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running program that prints its address first; killed when it is dropped.
pub(crate) struct Process {
    pub(crate) child: Guarded,
    /// Where it listens: its first line.
    pub(crate) address: String,
    /// What it said on standard error, once it has ended.
    words: Receiver<String>,
    /// Its temporary files: one that is killed clears nothing away.
    _scratch: tempfile::TempDir,
}

impl Process {
    /// Starts it and waits for its first line, the bound address.
    pub(crate) fn start(args: &[&str]) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let mut child = Command::new(PROGRAM)
            .args(args)
            .env("TMPDIR", scratch.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (tell, line) = mpsc::channel();
        thread::spawn(move || {
            let mut lines = BufReader::new(out).lines();
            let first = lines.next().and_then(Result::ok);
            drop(tell.send(first));
            lines.for_each(drop);
        });
        let (say, words) = mpsc::channel();
        thread::spawn(move || {
            let mut text = String::new();
            drop(err.read_to_string(&mut text));
            drop(say.send(text));
        });
        let mut process = Self { child: Guarded(child), address: String::new(), words, _scratch: scratch };
        match line.recv_timeout(PATIENCE).unwrap() {
            Some(address) => process.address = address,
            None => panic!("{args:?} prints no address: {}", process.words.recv().unwrap()),
        }
        process
    }

    /// Kills it and waits for its end.
    pub(crate) fn kill(&mut self) {
        self.child.0.kill().unwrap();
        self.child.0.wait().unwrap();
    }

    /// Sends a signal, such as `-TERM`.
    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.0.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits for its end; the exit code and what it said.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let words = self.words.recv_timeout(PATIENCE).expect("it ends");
        (self.child.0.wait().unwrap().code(), words)
    }
}

/// A child; killed when it is dropped.
pub(crate) struct Guarded(pub(crate) Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
