use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use gradwire_ffi::shared::PAGE_BYTES;
use gradwire_ffi::uring::Threading;

use super::*;

/// A driver, for each way of using one that this machine has.
fn drivers() -> Vec<UringDriver> {
    let rings = [Threading::Pinned, Threading::Shared].map(Uring::create);
    let drivers: Vec<_> = rings.into_iter().flatten().map(UringDriver::over).collect();
    if drivers.is_empty() {
        println!("skipped: this machine has no io_uring");
    }
    drivers
}

fn pair(listener: &TcpListener) -> (Arc<TcpStream>, TcpStream) {
    let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (Arc::new(here), listener.accept().unwrap().0)
}

fn wait_for(driver: &mut UringDriver, token: u64) -> Ready {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut ready = Vec::new();
    loop {
        driver.wait(Duration::from_secs(1), &mut ready);
        if let Some(found) = ready.iter().find(|report| report.token == token) {
            return *found;
        }
        assert!(Instant::now() < deadline, "nothing was reported");
    }
}

#[test]
fn a_detached_socket_takes_no_byte_though_a_receive_was_in_flight() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for mut driver in drivers() {
        let (here, mut there) = pair(&listener);
        let mut ring = PrivateRing::create(PAGE_BYTES).unwrap();
        let flow = driver.attach(here.clone(), 7).unwrap();
        driver.arm(flow, &mut ring, 0, 100);
        // Armed twice is armed once; nothing came yet.
        driver.arm(flow, &mut ring, 0, 100);
        driver.wait(Duration::ZERO, &mut Vec::new());
        assert_eq!((driver.in_flight(), driver.receive(flow, &mut ring, 0, 100)), (1, None));
        driver.detach(flow);
        assert_eq!((driver.in_flight(), Arc::strong_count(&here)), (0, 1));
        there.write_all(b"late").unwrap();
        let mut ready = Vec::new();
        driver.wait(Duration::ZERO, &mut ready);
        assert!(ready.is_empty() && ring.is_lent());
        // The bytes are still in the socket.
        let mut late = [0; 4];
        (&*here).read_exact(&mut late).unwrap();
    }
}

#[test]
fn a_detached_socket_ends_a_send_in_flight_and_others_keep_their_reports() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for mut driver in drivers() {
        let ((full, unread), (other, mut there)) = (pair(&listener), pair(&listener));
        let (mut outbox, mut inbox) =
            (PrivateRing::create(1 << 20).unwrap(), PrivateRing::create(PAGE_BYTES).unwrap());
        let flow = driver.attach(full.clone(), 1).unwrap();
        let second = driver.attach(other, 2).unwrap();
        driver.arm(second, &mut inbox, 0, 8);
        // Until the socket takes no more.
        loop {
            let outgoing = Outgoing { ring: &mut outbox, from: 0, bytes: 1 << 20, inserted: &[], before: 0 };
            if let Sending::Posted(_) = driver.send(flow, outgoing) {
                let mut ready = Vec::new();
                driver.wait(Duration::ZERO, &mut ready);
                if ready.is_empty() {
                    break;
                }
            }
        }
        assert_eq!(driver.send_now(flow, &[IoSlice::new(b"out of turn")]), Moved::WouldBlock);
        assert_eq!(driver.in_flight(), 2);
        there.write_all(b"x").unwrap();
        driver.detach(flow);
        assert_eq!(Arc::strong_count(&full), 1);
        assert!(wait_for(&mut driver, 2).readable);
        assert_eq!(driver.receive(second, &mut inbox, 0, 8), Some(Moved::Bytes(1)));
        assert_eq!(driver.in_flight(), 0);
        drop(unread);
    }
}

#[test]
fn state_alone_for_a_full_socket_is_posted_and_tells_when_it_went() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for mut driver in drivers() {
        let (here, mut there) = pair(&listener);
        let mut outbox = PrivateRing::create(PAGE_BYTES).unwrap();
        let flow = driver.attach(here, 1).unwrap();
        let mut sent = 0;
        while let Moved::Bytes(bytes) = driver.send_now(flow, &[IoSlice::new(&[7; 1 << 16])]) {
            sent += bytes;
        }
        let state = [9; 48];
        let mut send = |driver: &mut UringDriver| {
            driver.send(flow, Outgoing { ring: &mut outbox, from: 0, bytes: 0, inserted: &state, before: 0 })
        };
        assert_eq!(send(&mut driver), Sending::Posted(0));
        assert_eq!(driver.send_now(flow, &[IoSlice::new(b"out of turn")]), Moved::WouldBlock);
        let reader = std::thread::spawn(move || {
            let mut all = vec![0; sent + 48];
            there.read_exact(&mut all).map(|()| all)
        });
        assert!(wait_for(&mut driver, 1).writable);
        assert_eq!(send(&mut driver), Sending::Done(Moved::Bytes(48)));
        let all = reader.join().unwrap().unwrap();
        assert!(all[..sent].iter().all(|byte| *byte == 7) && all[sent..] == state);
        assert_eq!(driver.in_flight(), 0);
    }
}

#[test]
fn a_direct_driver_posts_only_what_a_full_socket_does_not_take() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for mut driver in drivers() {
        let (here, mut there) = pair(&listener);
        let (mut outbox, mut inbox) =
            (PrivateRing::create(1 << 20).unwrap(), PrivateRing::create(PAGE_BYTES).unwrap());
        let flow = driver.attach(here, 1).unwrap();
        driver.set_direct(true);
        // Nothing is posted, so receiving is tried at once.
        assert_eq!(driver.receive(flow, &mut inbox, 0, 100), Some(Moved::WouldBlock));
        there.write_all(b"now").unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while driver.receive(flow, &mut inbox, 0, 100) != Some(Moved::Bytes(3)) {
            assert!(Instant::now() < deadline, "three bytes did not come");
        }
        assert_eq!(inbox.slice(0, 3), b"now");
        let (mut sent, mut posted) = (0, 0);
        while posted == 0 {
            assert_eq!(driver.in_flight(), 0);
            let outgoing =
                Outgoing { ring: &mut outbox, from: 0, bytes: 1 << 20, inserted: b"##", before: 7 };
            match driver.send(flow, outgoing) {
                Sending::Done(Moved::Bytes(bytes)) => sent += bytes,
                Sending::Posted(bytes) => posted = bytes,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((posted, driver.in_flight()), (1 << 20, 1));
        let reader = std::thread::spawn(move || {
            let mut all = vec![0; sent + 9];
            there.read_exact(&mut all).map(|()| all)
        });
        assert!(wait_for(&mut driver, 1).writable);
        let all = reader.join().unwrap().unwrap();
        assert_eq!((&all[7..9], &all[sent + 7..]), (&b"##"[..], &b"##"[..]));
        driver.detach(flow);
        assert_eq!(driver.in_flight(), 0);
    }
}

#[test]
fn a_peer_that_dies_ends_the_receive_in_flight() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for mut driver in drivers() {
        let (here, there) = pair(&listener);
        let mut ring = PrivateRing::create(PAGE_BYTES).unwrap();
        let flow = driver.attach(here, 3).unwrap();
        driver.arm(flow, &mut ring, 0, 100);
        driver.wait(Duration::ZERO, &mut Vec::new());
        drop(there);
        assert!(wait_for(&mut driver, 3).readable);
        assert_eq!(driver.receive(flow, &mut ring, 0, 100), Some(Moved::End));
        driver.detach(flow);
        assert_eq!(driver.in_flight(), 0);
    }
}

#[test]
fn thousands_of_sockets_come_and_go_and_leave_neither_descriptor_nor_operation() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for mut driver in drivers() {
        let mut kept = Vec::new();
        for number in 0..3000u64 {
            let (here, mut there) = pair(&listener);
            let mut ring = PrivateRing::create(PAGE_BYTES).unwrap();
            let flow = driver.attach(here.clone(), number).unwrap();
            driver.arm(flow, &mut ring, 0, 100);
            match number % 4 {
                // Never submitted, in flight, completed and not taken.
                0 => {}
                1 => driver.wait(Duration::ZERO, &mut Vec::new()),
                _ => {
                    there.write_all(b"x").unwrap();
                    wait_for(&mut driver, number);
                }
            }
            if number % 4 == 3 {
                assert_eq!(driver.receive(flow, &mut ring, 0, 100), Some(Moved::Bytes(1)));
            }
            kept.push((flow, here, there, ring));
            if kept.len() == 50 {
                for (flow, here, _, _) in kept.drain(..) {
                    driver.detach(flow);
                    assert_eq!(Arc::strong_count(&here), 1, "a descriptor is held on to");
                }
                assert_eq!(driver.in_flight(), 0);
            }
        }
        assert!(driver.flows.len() <= 50, "{} places for 50 sockets", driver.flows.len());
    }
}
