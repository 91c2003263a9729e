//! L6: a dead peer is noticed, whatever it was doing; what it sent whole can be read.

use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gradwire::lane::{DownReason, Fabric, LaneConfig, LaneEnd, shm, tcp};

use crate::pairing::{CLUSTER, PATIENCE, hello};
use crate::{Pairing, Side, sides, watchdog};

const RING: usize = 64 << 10;
/// Names the fabric and address for the child.
const CHILD: &str = "GRADWIRE_CONFORMANCE_CHILD";

fn wait_for_down(side: &mut Side) {
    while side.down.is_none() {
        side.port.wait(Duration::from_secs(3600));
        side.poll();
    }
}

fn a_peer_that_goes_at_any_step_is_noticed_and_its_whole_records_stay(pairing: &dyn Pairing) {
    for step in 0..7 {
        let (mut left, mut right) = sides(pairing, RING);
        let mut whole = 0;
        for number in 0..step {
            right.write(number, 700, true).unwrap();
            whole += 1;
        }
        right.port.flush();
        if step % 2 == 1 {
            // One more that is never notified need not arrive.
            right.write(step, 700, false).unwrap();
            // And something the dead will never read.
            left.write(0, 700, true).unwrap();
        }
        if step % 3 == 1 {
            right.poll();
        }
        drop(right);
        wait_for_down(&mut left);
        assert!(
            matches!(left.down, Some(DownReason::PeerClosed | DownReason::PeerReset)),
            "{:?} at step {step}",
            left.down
        );
        let seen: Vec<u64> = std::iter::from_fn(|| left.take()).collect();
        assert!(seen.len() as u64 >= whole && seen.iter().copied().eq(0..seen.len() as u64), "{seen:?}");
        assert!(left.write(1, 1, true).is_err());
        assert_eq!(left.port.fence(left.lane), Ok(()));
    }
}

crate::on_every_fabric!(a_peer_that_goes_at_any_step_is_noticed_and_its_whole_records_stay);

/// Starts this test program again as a peer that sends numbered records until it is killed.
fn child(fabric: &str, address: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "death::the_peer_in_another_process", "--nocapture"])
        .env(CHILD, format!("{fabric} {address}"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn the_peer_in_another_process() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let (fabric, address) = order.split_once(' ').unwrap();
    let end = match fabric {
        "tcp" => tcp::connect(address, &hello(RING), Instant::now() + PATIENCE).unwrap(),
        _ => shm::offer(UnixStream::connect(address).unwrap(), LaneConfig { ring_bytes: RING }).unwrap(),
    };
    let mut side = Side::new(end);
    let mut number = 0;
    while side.down.is_none() {
        match side.write(number, 900, true) {
            Ok(()) => number += 1,
            Err(_) => side.port.wait(PATIENCE),
        }
        side.poll();
        side.take();
    }
}

/// Kills the child after so many records; checks that the rest is whole and the end is told.
fn kill_after(mut child: Child, end: LaneEnd, records: u64) {
    let mut side = Side::new(end);
    let mut next = 0;
    while next < records {
        side.poll();
        match side.take() {
            Some(number) => {
                assert_eq!(number, next);
                next += 1;
                if number % 3 == 0 {
                    let _ = side.write(number, 300, true);
                }
            }
            None => side.port.wait(Duration::from_secs(3600)),
        }
    }
    child.kill().unwrap();
    wait_for_down(&mut side);
    while let Some(number) = side.take() {
        assert_eq!(number, next);
        next += 1;
    }
    assert!(matches!(side.down, Some(DownReason::PeerClosed | DownReason::PeerReset)), "{:?}", side.down);
    child.wait().unwrap();
}

#[test]
fn a_killed_process_over_tcp_is_noticed_and_its_whole_records_stay() {
    watchdog(|| {
        for records in [0, 1, 5, 200, 3000] {
            let listener = tcp::Listener::bind("127.0.0.1:0").unwrap();
            let child = child("tcp", &listener.address().to_string());
            let incoming = listener.accept(PATIENCE).unwrap().unwrap();
            let deadline = Instant::now() + PATIENCE;
            let (end, _) = incoming.welcome(CLUSTER, LaneConfig { ring_bytes: RING }, deadline).unwrap();
            kill_after(child, end, records);
        }
    });
}

#[test]
fn a_killed_process_over_shared_memory_is_noticed_and_its_whole_records_stay() {
    watchdog(|| {
        for records in [0, 1, 5, 200, 3000] {
            let path = std::env::temp_dir().join(format!("gradwire-{}-{records}", std::process::id()));
            let _ = std::fs::remove_file(&path);
            let listener = UnixListener::bind(&path).unwrap();
            let child = child("shm", path.to_str().unwrap());
            let (socket, _) = listener.accept().unwrap();
            std::fs::remove_file(&path).unwrap();
            let end = shm::accept(socket, LaneConfig { ring_bytes: RING }, PATIENCE).unwrap();
            kill_after(child, end, records);
        }
    });
}

#[test]
fn connecting_where_nobody_listens_fails_at_once_and_says_so() {
    watchdog(|| {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let error = tcp::connect(&address, &hello(RING), Instant::now() + PATIENCE).unwrap_err();
        assert!(error.to_string().contains(&address), "{error}");
    });
}
