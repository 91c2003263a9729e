//! Sleeping and waking: never a lost wake-up, no processor time while idle.

use std::thread;
use std::time::Duration;

use gradwire::lane::{Backoff, Fabric, Port, Waiting};

use crate::{Pairing, Side, sides};

const RING: usize = 64 << 10;
/// Far beyond the watchdog: a lost wake-up cannot hide behind a timeout.
const FOREVER: Duration = Duration::from_secs(3600);

fn answer(mut side: Side, rounds: u64) {
    for number in 0..rounds {
        while side.port.peek(side.lane).is_none() {
            side.port.wait(FOREVER);
            side.poll();
        }
        assert_eq!(side.take(), Some(number));
        side.write(number, 8, true).unwrap();
        side.port.flush();
    }
}

fn ask(mut side: Side, rounds: u64) {
    for number in 0..rounds {
        side.write(number, 8, true).unwrap();
        side.port.flush();
        while side.port.peek(side.lane).is_none() {
            side.port.wait(FOREVER);
            side.poll();
        }
        assert_eq!(side.take(), Some(number));
    }
}

fn two_threads_that_always_sleep_never_miss_each_other(pairing: &dyn Pairing) {
    let (left, right) = sides(pairing, RING);
    let other = thread::spawn(move || answer(right, 20_000));
    ask(left, 20_000);
    other.join().unwrap();
}

fn two_threads_that_poll_a_little_never_miss_each_other(pairing: &dyn Pairing) {
    let (left, right) = sides(pairing, RING);
    let run = |mut side: Side, first: bool| {
        // Sleeps begin just when answers come: the hardest time.
        let mut backoff = Backoff::new(Waiting { spin: Duration::from_micros(8) });
        let mut next = 0;
        if first {
            side.write(0, 8, true).unwrap();
        }
        while next < 20_000 {
            side.poll();
            if let Some(number) = side.take() {
                assert_eq!(number, next);
                next += 1;
                // The first side is one number ahead.
                if !first || next < 20_000 {
                    side.write(number + u64::from(first), 8, true).unwrap();
                }
                side.port.flush();
                backoff.busy();
            } else {
                backoff.idle(|| side.port.wait(FOREVER));
            }
        }
    };
    let other = thread::spawn(move || run(right, false));
    run(left, true);
    other.join().unwrap();
}

fn a_waker_ends_a_wait_whenever_it_is_used(pairing: &dyn Pairing) {
    let (mut left, right) = sides(pairing, RING);
    let waker = left.port.waker();
    waker.wake();
    left.port.wait(FOREVER);
    let other = thread::spawn(move || {
        for _ in 0..200 {
            waker.wake();
            thread::yield_now();
        }
        waker.wake();
        drop(right);
    });
    left.port.wait(FOREVER);
    other.join().unwrap();
    left.poll_until(|left| left.down.is_some());
}

crate::on_every_fabric!(
    two_threads_that_always_sleep_never_miss_each_other,
    two_threads_that_poll_a_little_never_miss_each_other,
    a_waker_ends_a_wait_whenever_it_is_used,
);

#[test]
fn a_wait_without_lanes_ends_at_its_timeout() {
    crate::watchdog(|| Port::new().unwrap().wait(Duration::from_millis(1)));
}
