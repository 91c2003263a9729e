//! The ledger finds what is done to its table behind its back.

use std::time::Duration;

use super::book::Verdict;
use super::traffic::{Plan, Traffic};
use crate::app::progress::Progress;
use crate::client::{Add, Cluster, ClusterConfig, SparseTable};

/// Runs a ledger of 300 pushes; `fault` is done to its table before it is read back.
fn audit(fault: impl FnOnce(&SparseTable)) -> Verdict {
    let config = ClusterConfig { partitions: Some(4), pin: false, ..ClusterConfig::default() };
    let cluster = Cluster::embedded(config).unwrap();
    let session = cluster.session().unwrap();
    let table = session.sparse("ledger", 2, Add).unwrap();
    let plan = Plan {
        keys: 500,
        batch: 40,
        inflight: 8,
        pushes: Some(300),
        duration: Duration::ZERO,
        patience: Duration::from_secs(30),
        trace: true,
    };
    let mut traffic = Traffic::new(&table, &plan).unwrap();
    let sent = traffic.send(&table, &Progress::default());
    assert!(sent.error.is_none());
    assert_eq!((sent.sent, sent.acked, sent.trace.len()), (300, 300, 300));
    assert!(sent.trace.iter().all(|(first, acked)| acked.is_some_and(|acked| acked >= *first)));
    let stall = sent.trace.iter().map(|(first, acked)| acked.unwrap() - *first).max().unwrap();
    assert_eq!(stall, sent.longest_stall);
    let intruder = cluster.session().unwrap();
    fault(&intruder.sparse("ledger", 2, Add).unwrap());
    intruder.flush().unwrap();
    traffic.read_back(&table, &Progress::default()).unwrap()
}

#[test]
fn a_ledger_to_which_nothing_is_done_balances() {
    assert_eq!(audit(|_| {}), Verdict::default());
}

#[test]
fn a_push_that_is_lost_is_found() {
    let verdict = audit(|table| drop(table.push(&[7, 8], &[-1.0, -3.0, -1.0, -3.0]).unwrap()));
    assert_eq!((verdict.lost, verdict.duplicated), (2, 0));
    assert_eq!(verdict.first_wrong.unwrap().key, 7);
}

#[test]
fn a_push_that_is_applied_twice_is_found() {
    let verdict = audit(|table| drop(table.push(&[9], &[1.0, 0.0]).unwrap()));
    assert_eq!((verdict.lost, verdict.duplicated), (0, 1));
}

#[test]
fn a_lost_push_and_a_double_one_do_not_make_up_for_each_other() {
    let verdict = audit(|table| drop(table.push(&[3], &[0.0, 2.0]).unwrap()));
    assert_eq!((verdict.lost, verdict.duplicated), (0, 1));
}

#[test]
fn rows_that_are_gone_are_lost_pushes() {
    let verdict = audit(|table| drop(table.erase(&[1, 2, 3]).unwrap()));
    assert!(verdict.lost > 0 && verdict.duplicated == 0, "{verdict:?}");
}
