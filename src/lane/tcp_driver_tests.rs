use std::process::Command;

use gradwire_ffi::uring::deny_io_uring;

use super::*;
use crate::lane::{Fabric, Port};

/// Set for the process that denies itself io_uring.
const CHILD: &str = "GRADWIRE_TEST_WITHOUT_URING";

fn refused(errno: i32) -> MachineError {
    MachineError { call: "io_uring_setup", object: "a port's ring".to_owned(), errno }
}

#[test]
fn the_variable_names_uring_or_epoll_and_nothing_else() {
    let named = |name: &str| choose(Some(OsStr::new(name)));
    assert!(matches!(named("uring"), Ok(Choice::Uring)));
    assert!(matches!(named("epoll"), Ok(Choice::Epoll)));
    assert!(matches!(choose(None), Ok(DEFAULT)));
    for wrong in ["", "io_uring", "Uring", "epoll "] {
        let error = named(wrong).unwrap_err().to_string();
        assert!(
            error.contains(&format!("GRADWIRE_TCP={wrong}")) && error.contains("uring or epoll"),
            "{error}"
        );
    }
}

#[test]
fn whatever_stops_the_set_up_epoll_takes_over_and_says_why() {
    // EPERM, ENOSYS, ENOMEM, EINVAL, EMFILE.
    for errno in [1, 38, 12, 22, 24] {
        let (driver, said) = open_by(Choice::Uring, || Err(refused(errno))).unwrap();
        assert!(!driver.receives_by_itself());
        assert_eq!(said.name, "epoll");
        let reason = said.fallback.unwrap();
        assert!(reason.contains("io_uring_setup") && reason.contains("a port's ring"), "{reason}");
    }
}

#[test]
fn epoll_that_was_asked_for_is_no_fallback() {
    let (driver, said) = open_by(Choice::Epoll, || panic!("io_uring is not tried")).unwrap();
    assert!(!driver.receives_by_itself());
    assert_eq!(said, TcpDriver { name: "epoll", fallback: None });
}

#[test]
fn a_port_has_the_driver_that_the_environment_names() {
    let port = Port::new().unwrap();
    let driver = port.tcp_driver();
    if let Some(reason) = &driver.fallback {
        return println!("skipped: {reason}");
    }
    let named = std::env::var(TCP_VARIABLE);
    assert!(named.is_err() || named.as_deref() == Ok(driver.name), "{named:?}, {driver:?}");
}

/// The process that runs this alone, started by the test below.
#[test]
fn a_process_without_io_uring() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    deny_io_uring().unwrap();
    on_tcp_fallback(|line| eprintln!("told: {line}"));
    for port in [Port::new(), Port::pinned(), Port::new()] {
        let port = port.unwrap();
        let driver = port.tcp_driver();
        println!("driver: {} because {}", driver.name, driver.fallback.as_deref().unwrap_or("it was chosen"));
    }
}

#[test]
fn a_seccomp_filter_against_io_uring_means_epoll_and_one_line_for_the_process() {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "lane::tcp_driver::tests::a_process_without_io_uring", "--nocapture"])
        .env(CHILD, "1")
        .env(TCP_VARIABLE, "uring")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8(child.stdout).unwrap(), String::from_utf8(child.stderr).unwrap());
    assert!(child.status.success(), "{out}{err}");
    let drivers: Vec<&str> = out.lines().filter(|line| line.contains("driver: ")).collect();
    assert_eq!(drivers.len(), 3, "{out}");
    for driver in drivers {
        assert!(driver.contains("driver: epoll because io_uring_setup failed"), "{driver}");
        assert!(driver.contains("seccomp"), "{driver}");
    }
    assert_eq!(err.matches("told: tcp lanes use epoll").count(), 1, "{err}");
}
