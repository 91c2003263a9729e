//! The program on a machine that grants little: no locked memory, no huge pages, few descriptors.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::process::Command;
use std::time::Duration;

mod program;

use program::{PROGRAM, failed, run, texts};

const WATCHDOG: Duration = Duration::from_secs(120);
/// CAP_IPC_LOCK: whoever has it is above the limit on locked memory.
const IPC_LOCK: u64 = 1 << 14;
const TRAFFIC: [&str; 8] = ["bench", "push", "--seconds", "0.2", "--keys", "50000", "--batch", "1000"];

fn own_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

/// A command with no locked memory: limit 0, and without the capability that would lift it.
fn without_locked_memory(command: &[&str]) -> Command {
    let mut words = vec!["prlimit", "--memlock=0:0", "--"];
    if own_capabilities() & IPC_LOCK != 0 {
        words.extend(["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock", "--"]);
    }
    words.extend(command);
    let mut limited = Command::new(words[0]);
    limited.args(&words[1..]);
    limited
}

#[test]
fn no_locked_memory_is_really_none() {
    let script = "ulimit -l; grep CapEff /proc/self/status";
    let (out, err) = texts(&run(&mut without_locked_memory(&["sh", "-c", script]), b"", WATCHDOG));
    let (limit, capabilities) = out.split_once('\n').unwrap_or_else(|| panic!("{out}{err}"));
    assert_eq!(limit, "0", "{err}");
    let bits = u64::from_str_radix(capabilities.trim_start_matches("CapEff:").trim(), 16).unwrap();
    assert_eq!(bits & IPC_LOCK, 0, "{capabilities}");
}

#[test]
fn traffic_runs_without_locked_memory_over_either_fabric() {
    for fabric in ["shm", "tcp"] {
        let words = [&[PROGRAM][..], &TRAFFIC, &["--fabric", fabric]].concat();
        let output = run(&mut without_locked_memory(&words), b"", WATCHDOG);
        let (out, err) = texts(&output);
        assert_eq!(output.status.code(), Some(0), "{fabric}: {err}");
        assert!(out.contains("keys/s"), "{out}");
    }
}

/// The setting belongs to the process that starts others and is inherited through `exec`.
#[test]
fn traffic_runs_without_huge_pages() {
    rustix::thread::disable_transparent_huge_pages(true).unwrap();
    let output = run(Command::new(PROGRAM).args(TRAFFIC), b"", WATCHDOG);
    let status = run(Command::new("grep").args(["THP_enabled", "/proc/self/status"]), b"", WATCHDOG);
    rustix::thread::disable_transparent_huge_pages(false).unwrap();
    assert!(texts(&status).0.trim_end().ends_with('0'), "huge pages were not off: {status:?}");
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(out.contains("keys/s"), "{out}");
}

#[test]
fn too_few_descriptors_are_one_line_and_no_hang() {
    let mut few = Command::new("prlimit");
    few.args(["--nofile=8:8", "--", PROGRAM]).args(TRAFFIC);
    failed(&run(&mut few, b"", WATCHDOG), 1, &["limit"]);
}
