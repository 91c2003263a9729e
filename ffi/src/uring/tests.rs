use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use super::*;
use crate::event::EventFd;
use crate::private_ring::PrivateRing;
use crate::shared::PAGE_BYTES;

const LONG: Duration = Duration::from_secs(20);

/// Rings in every mode that this kernel has.
fn rings() -> Vec<Uring> {
    let modes = [SetupMode::Deferred, SetupMode::Cooperative, SetupMode::Plain];
    let rings: Vec<Uring> = modes.iter().filter_map(|mode| Uring::create_as(*mode).ok()).collect();
    if rings.is_empty() {
        println!("skipped: this machine has no io_uring");
    }
    rings
}

fn pair() -> (Arc<TcpStream>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (Arc::new(here), listener.accept().unwrap().0)
}

/// Waits for the next completion.
fn next(uring: &mut Uring) -> Completed {
    let mut completed = Vec::new();
    let deadline = Instant::now() + LONG;
    while completed.is_empty() {
        assert!(Instant::now() < deadline, "no completion came");
        uring.wait(LONG, &mut completed);
    }
    assert_eq!(completed.len(), 1, "{completed:?}");
    completed.remove(0)
}

#[test]
fn bytes_land_in_the_lent_part_of_a_ring_and_nowhere_else() {
    for mut uring in rings() {
        let (here, mut there) = pair();
        let mut ring = PrivateRing::create(PAGE_BYTES).unwrap();
        let at = PAGE_BYTES as u64 - 3;
        uring.receive(here.clone(), ring.lend(at, 6, true), 9);
        there.write_all(b"abcdefgh").unwrap();
        let Completed::Received { key: 9, loan, moved: Moved::Bytes(6) } = next(&mut uring) else {
            panic!("six bytes fit");
        };
        ring.take_back(loan);
        assert_eq!(ring.slice(at - 1, 8), b"\0abcdef\0");
        uring.receive(here.clone(), ring.lend(0, 64, true), 9);
        assert!(matches!(next(&mut uring), Completed::Received { moved: Moved::Bytes(2), .. }));
        drop(there);
        let mut other = PrivateRing::create(PAGE_BYTES).unwrap();
        uring.receive(here, other.lend(0, 64, true), 1);
        assert!(matches!(next(&mut uring), Completed::Received { key: 1, moved: Moved::End, .. }));
        assert_eq!(uring.in_flight(), 0);
    }
}

#[test]
fn a_send_goes_in_order_with_what_is_put_in_between() {
    for mut uring in rings() {
        let (here, mut there) = pair();
        let mut ring = PrivateRing::create(PAGE_BYTES).unwrap();
        ring.slice_mut(0, 8).copy_from_slice(b"abcdefgh");
        for (before, inserted, expected) in
            [(0, "", "abcdefgh"), (0, "12", "12abcdefgh"), (3, "12", "abc12defgh")]
        {
            uring.send(here.clone(), ring.lend(0, 8, false), inserted.as_bytes(), before, 4);
            let Completed::Sent { key: 4, loan: Some(loan), moved: Moved::Bytes(bytes) } = next(&mut uring)
            else {
                panic!("a send of a few bytes goes at once");
            };
            ring.take_back(loan);
            assert_eq!(bytes, expected.len());
            let mut got = vec![0; bytes];
            there.read_exact(&mut got).unwrap();
            assert_eq!(got, expected.as_bytes());
        }
    }
}

#[test]
fn a_send_into_a_full_socket_waits_and_one_to_a_dead_peer_fails() {
    for mut uring in rings() {
        let (here, mut there) = pair();
        let mut ring = PrivateRing::create(1 << 20).unwrap();
        let mut sent = 0;
        // Until the kernel takes no more.
        loop {
            uring.send(here.clone(), ring.lend(0, 1 << 20, false), &[], 0, 0);
            let mut completed = Vec::new();
            uring.poll(&mut completed);
            let Some(Completed::Sent { loan: Some(loan), moved: Moved::Bytes(bytes), .. }) = completed.pop()
            else {
                break;
            };
            ring.take_back(loan);
            sent += bytes;
        }
        let mut rest = vec![0; sent];
        there.read_exact(&mut rest).unwrap();
        let Completed::Sent { loan: Some(loan), moved: Moved::Bytes(_), .. } = next(&mut uring) else {
            panic!("there is room")
        };
        ring.take_back(loan);
        drop(there);
        for last in [false, true] {
            uring.send(here.clone(), ring.lend(0, 1, false), &[], 0, 0);
            let Completed::Sent { loan: Some(loan), moved, .. } = next(&mut uring) else {
                panic!("one send")
            };
            ring.take_back(loan);
            assert!(!last || matches!(moved, Moved::Failed(_)), "{moved:?}");
        }
    }
}

#[test]
fn every_ring_of_a_watched_bell_is_told_until_it_is_cancelled() {
    for mut uring in rings() {
        let bell = Arc::new(EventFd::create().unwrap());
        let id = uring.watch(bell.clone(), 5);
        for _ in 0..100 {
            let mut completed = Vec::new();
            uring.poll(&mut completed);
            assert!(completed.is_empty());
            bell.ring();
            assert!(matches!(next(&mut uring), Completed::Stirred { key: 5, hung_up: false }));
        }
        uring.cancel(id);
        let mut completed = Vec::new();
        assert!(uring.settle(&[id], &mut completed));
        bell.ring();
        uring.poll(&mut completed);
        assert!(matches!(completed[..], [Completed::Unwatched { key: 5 }]), "{completed:?}");
        assert_eq!((uring.in_flight(), Arc::strong_count(&bell)), (0, 1));
    }
}

#[test]
fn a_cancelled_receive_gives_its_memory_back_and_takes_no_byte() {
    for mut uring in rings() {
        let (here, mut there) = pair();
        let mut ring = PrivateRing::create(PAGE_BYTES).unwrap();
        let id = uring.receive(here.clone(), ring.lend(0, 64, true), 0);
        let mut completed = Vec::new();
        uring.poll(&mut completed);
        uring.cancel(id);
        assert!(uring.settle(&[id], &mut completed));
        there.write_all(b"late").unwrap();
        let Some(Completed::Received { loan, moved: Moved::WouldBlock, .. }) = completed.pop() else {
            panic!("it was cancelled: {completed:?}");
        };
        ring.take_back(loan);
        assert_eq!(ring.slice(0, 64), [0; 64]);
        // A number that is over is nobody's.
        uring.cancel(id);
        uring.receive(here, ring.lend(0, 64, true), 0);
        assert!(matches!(next(&mut uring), Completed::Received { moved: Moved::Bytes(4), .. }));
    }
}

#[test]
fn a_dropped_ring_ends_what_is_in_flight_before_its_memory_goes() {
    for mut uring in rings() {
        let mut pairs: Vec<_> = (0..300).map(|_| pair()).collect();
        let mut rings = Vec::new();
        for (here, _) in &pairs {
            let mut ring = PrivateRing::create(PAGE_BYTES).unwrap();
            uring.receive(here.clone(), ring.lend(0, PAGE_BYTES, true), 0);
            rings.push(ring);
        }
        uring.watch(Arc::new(EventFd::create().unwrap()), 0);
        uring.poll(&mut Vec::new());
        assert_eq!(uring.in_flight(), 301);
        drop(uring);
        for ((here, there), ring) in pairs.iter_mut().zip(&mut rings) {
            there.write_all(b"nobody receives this").unwrap();
            // All loans are gone, none was given back: the bytes stay out of reach, the sockets are free.
            assert!(ring.is_lent());
            assert_eq!(Arc::strong_count(here), 1);
            let mut byte = [0];
            (&**here).read_exact(&mut byte).unwrap();
            assert_eq!(&byte, b"n");
        }
    }
}

#[test]
fn operations_of_a_thread_that_ended_are_over_at_the_next_event_and_lose_nothing() {
    let mut uring = match Uring::create(Threading::Shared) {
        Ok(uring) => uring,
        Err(error) => return println!("skipped: {error}"),
    };
    assert_ne!(uring.mode(), SetupMode::Deferred);
    let (here, mut there) = pair();
    let mut ring = PrivateRing::create(PAGE_BYTES).unwrap();
    let bell = Arc::new(EventFd::create().unwrap());
    let loan = ring.lend(0, 64, true);
    let (socket, rung) = (here.clone(), bell.clone());
    let mut uring = std::thread::spawn(move || {
        uring.watch(rung, 1);
        uring.receive(socket, loan, 2);
        uring.poll(&mut Vec::new());
        uring
    })
    .join()
    .unwrap();
    // The kernel ends what the thread had posted when something happens to it, without doing it.
    there.write_all(b"x").unwrap();
    bell.ring();
    let (mut stirred, mut came) = (0, false);
    while stirred < 2 || !came {
        let mut completed = Vec::new();
        uring.wait(LONG, &mut completed);
        assert!(!completed.is_empty(), "nothing came in time");
        for done in completed {
            match done {
                Completed::Stirred { key: 1, hung_up: false } => {
                    stirred += 1;
                    // The watch goes on.
                    bell.ring();
                }
                Completed::Received { key: 2, loan, moved } => {
                    ring.take_back(loan);
                    came |= moved == Moved::Bytes(1);
                    if !came {
                        assert_eq!(moved, Moved::WouldBlock);
                        uring.receive(here.clone(), ring.lend(0, 64, true), 2);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(ring.slice(0, 2), b"x\0");
}

#[test]
fn nothing_due_is_no_system_call_and_many_operations_are_one() {
    for mut uring in rings() {
        let mut completed = Vec::new();
        for _ in 0..100 {
            uring.poll(&mut completed);
        }
        assert_eq!(uring.enters(), 0);
        let pairs: Vec<_> = (0..50).map(|_| pair()).collect();
        let mut rings: Vec<_> = pairs.iter().map(|_| PrivateRing::create(PAGE_BYTES).unwrap()).collect();
        for (ring, (here, _)) in rings.iter_mut().zip(&pairs) {
            uring.receive(here.clone(), ring.lend(0, 8, true), 0);
        }
        uring.poll(&mut completed);
        assert_eq!((uring.enters(), completed.len()), (1, 0));
        assert!(!uring.has_news());
    }
}
