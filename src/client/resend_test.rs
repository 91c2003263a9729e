//! Lanes that die under way: nothing acknowledged is lost, nothing is applied twice.

use std::time::{Duration, Instant};

use super::{Cluster, ClusterConfig, Error, FabricChoice, KeyList, Pull, Push, Session};
use crate::Add;

impl Session {
    /// Closes every lane of this session, as a cut cable would; what is under way stays under way.
    fn cut_lanes(&self) {
        let mut engine = self.shared.engine();
        let lanes: Vec<_> = engine.links.iter().filter_map(|link| link.lane).collect();
        for lane in lanes {
            engine.close(lane, "cut by a test");
        }
    }
}

/// Keeps a session from opening lanes, or lets it again.
fn hold_lanes(session: &Session, held: bool) {
    let mut engine = session.shared.engine();
    for link in &mut engine.links {
        link.connect_at = held.then(|| Instant::now() + Duration::from_secs(3600));
    }
}

#[test]
fn a_full_window_ends_in_a_deadline_that_names_the_cause_and_nothing_is_lost() {
    let config = ClusterConfig { servers: 1, window: 2, ..ClusterConfig::default() };
    let session = Cluster::embedded(config).unwrap().session().unwrap();
    let table = session.sparse("counts", 1, Add).unwrap();
    table.push(&[1], &[1.0]).unwrap().wait().unwrap();
    session.cut_lanes();
    hold_lanes(&session, true);
    let short = Push { deadline: Some(Duration::from_millis(20)), ..Push::default() };
    let first = table.push_with(&[1], &[1.0], short).unwrap();
    table.push_with(&[1], &[1.0], short).unwrap();
    let refused = table.push_with(&[1], &[1.0], short).unwrap_err();
    assert!(matches!(refused, Error::Deadline { .. }), "{refused}");
    assert!(refused.to_string().contains("cut by a test"), "{refused}");
    assert!(matches!(first.wait_for(Duration::from_millis(20)), Err(Error::Deadline { .. })));
    let pull = Pull { deadline: Some(Duration::from_millis(20)), ..Pull::default() };
    assert!(matches!(table.pull_with(&[1], pull).unwrap().wait(), Err(Error::Deadline { .. })));
    hold_lanes(&session, false);
    first.wait().unwrap();
    session.flush().unwrap();
    assert_eq!(table.pull(&[1]).unwrap().wait().unwrap()[0], 3.0, "the refused push was never sent");
}

#[test]
fn a_push_that_is_never_heard_of_is_sent_again() {
    let session =
        Cluster::embedded(ClusterConfig { servers: 1, ..Default::default() }).unwrap().session().unwrap();
    let table = session.sparse("counts", 1, Add).unwrap();
    table.push(&[1], &[1.0]).unwrap().wait().unwrap();
    hold_lanes(&session, true);
    session.cut_lanes();
    hold_lanes(&session, true);
    let ticket = table.push(&[1], &[1.0]).unwrap();
    {
        // As if it had been written and lost with its lane intact, three seconds ago.
        let mut engine = session.shared.engine();
        engine.links[0].queue.clear();
        engine.routes[0].flow.mark_sent();
        engine.routes[0].heard = Instant::now().checked_sub(Duration::from_secs(3)).unwrap();
    }
    hold_lanes(&session, false);
    // Opens the lane. By itself it does not send the push; the look for what is overdue may do so at any moment.
    table.pull(&[1]).unwrap().wait().unwrap();
    ticket.wait().unwrap();
    assert_eq!(table.pull(&[1]).unwrap().wait().unwrap()[0], 2.0);
}

fn sums_are_exact_when_lanes_are_cut(fabric: FabricChoice) {
    let config = ClusterConfig {
        fabric,
        ring_bytes: 64 << 10,
        deadline: Duration::from_secs(60),
        ..Default::default()
    };
    let cluster = Cluster::embedded(config).unwrap();
    let session = cluster.session().unwrap();
    let table = session.sparse("counts", 1, Add).unwrap();
    let lists: Vec<KeyList> = (0..5u64)
        .map(|list| KeyList::new((0..400).map(|key| key * 5 + list).collect::<Vec<u64>>()).unwrap())
        .collect();
    let mut random = 88172645463325252u64;
    let mut expected = [0.0f32; 5];
    let mut pulls = Vec::new();
    for round in 0..600 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let list = (random % 5) as usize;
        table.push(&lists[list], &[1.0; 400]).unwrap();
        expected[list] += 1.0;
        if random.is_multiple_of(7) {
            pulls.push((list, expected[list], table.pull(&lists[list]).unwrap()));
        }
        if random.is_multiple_of(23) {
            session.cut_lanes();
        }
        if round % 100 == 99 {
            for (list, at_least, pull) in pulls.drain(..) {
                let rows = pull.wait().unwrap();
                assert!(
                    rows.iter().all(|value| *value >= at_least && *value <= expected[list]),
                    "round {round}"
                );
            }
        }
    }
    session.flush().unwrap();
    for (list, expected) in lists.iter().zip(expected) {
        let rows = table.pull(list).unwrap().wait().unwrap();
        assert!(rows.iter().all(|value| *value == expected));
    }
}

#[test]
fn every_push_counts_once_when_shm_lanes_are_cut() {
    sums_are_exact_when_lanes_are_cut(FabricChoice::Shm);
}

#[test]
fn every_push_counts_once_when_tcp_lanes_are_cut() {
    sums_are_exact_when_lanes_are_cut(FabricChoice::Tcp);
}
