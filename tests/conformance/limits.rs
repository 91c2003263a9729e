//! L3: credit, sizes, full rings.

use std::thread;
use std::time::Duration;

use gradwire::lane::{Fabric, WriteError};
use gradwire::wire::HEADER_BYTES;

use crate::{Pairing, Side, sides};

const RING: usize = 64 << 10;

fn the_largest_record_passes_and_one_byte_more_is_refused(pairing: &dyn Pairing) {
    let (mut left, mut right) = sides(pairing, RING);
    let limit = left.port.max_record(left.lane);
    assert_eq!(limit, RING / 4);
    for number in 0..20 {
        left.poll_until(|left| {
            right.poll();
            left.write(number, limit - HEADER_BYTES, true).is_ok()
        });
        left.port.flush();
        right.poll_until(|right| right.port.peek(right.lane).is_some());
        assert_eq!(right.take(), Some(number));
    }
    let refused = left.write(20, limit - HEADER_BYTES + 1, true);
    assert_eq!(refused, Err(WriteError::TooLarge { limit }));
}

fn a_full_ring_refuses_and_accepts_again_when_it_is_drained(pairing: &dyn Pairing) {
    let (mut left, mut right) = sides(pairing, RING);
    let (mut next, mut expected) = (0, 0);
    for _ in 0..50 {
        let first = next;
        while left.write(next, 1000, true).is_ok() {
            next += 1;
            assert!(next - expected <= (RING / 1080) as u64, "more than the ring holds was accepted");
        }
        assert!(left.port.credit(left.lane) < 1080);
        assert!(next > first);
        while expected < next {
            left.poll();
            right.poll();
            if right.take().is_some_and(|number| number == expected) {
                expected += 1;
            }
        }
        left.poll_until(|left| {
            right.poll();
            left.port.credit(left.lane) >= RING / 4
        });
    }
    assert!(next > 1000);
}

fn small_records_are_bounded_by_their_number(pairing: &dyn Pairing) {
    let (mut left, mut right) = sides(pairing, RING);
    let mut written = 0;
    while left.write(written, 0, true).is_ok() {
        written += 1;
        left.poll();
        right.poll();
    }
    assert!((200..=RING as u64 / 128).contains(&written), "{written}");
    assert!(left.port.credit(left.lane) >= HEADER_BYTES, "bytes alone would have allowed more");
    for number in 0..written {
        right.poll_until(|right| right.port.peek(right.lane).is_some());
        assert_eq!(right.take(), Some(number));
    }
    left.poll_until(|left| {
        right.poll();
        left.write(written, 0, true).is_ok()
    });
}

/// Sends as long as it may and takes only when it may not, so that both rings are full again and again.
fn stubborn(mut side: Side, records: u64) -> u64 {
    let (mut sent, mut taken) = (0, 0);
    while sent < records || taken < records {
        if sent < records {
            match side.write(sent, 9000, true) {
                Ok(()) => {
                    sent += 1;
                    continue;
                }
                Err(error) => assert_eq!(error, WriteError::Full),
            }
        }
        side.poll();
        // The other side may finish first, and only when it has everything.
        assert!(side.down.is_none() || sent == records, "{:?}", side.down);
        match side.take() {
            Some(number) => {
                assert_eq!(number, taken);
                taken += 1;
            }
            None => side.port.wait(Duration::from_secs(5)),
        }
    }
    side.port.wait(Duration::ZERO);
    taken
}

fn two_full_rings_in_a_cycle_make_progress(pairing: &dyn Pairing) {
    let (left, right) = sides(pairing, RING);
    let other = thread::spawn(move || stubborn(right, 2000));
    assert_eq!(stubborn(left, 2000), 2000);
    assert_eq!(other.join().unwrap(), 2000);
}

fn a_sender_that_sleeps_for_credit_is_woken(pairing: &dyn Pairing) {
    let (mut left, mut right) = sides(pairing, RING);
    let reader = thread::spawn(move || {
        for number in 0..3000 {
            right.poll();
            while right.port.peek(right.lane).is_none() {
                right.port.wait(Duration::from_secs(60));
                right.poll();
            }
            assert_eq!(right.take(), Some(number));
        }
        right.port.flush();
        right
    });
    for number in 0..3000 {
        while left.write(number, 5000, true).is_err() {
            // A lost wake-up would sleep into the watchdog.
            left.port.wait(Duration::from_secs(200));
            left.poll();
            assert_eq!(left.down, None);
        }
    }
    left.port.flush();
    while !reader.is_finished() {
        left.poll();
        left.port.wait(Duration::from_millis(1));
    }
    reader.join().unwrap();
}

crate::on_every_fabric!(
    the_largest_record_passes_and_one_byte_more_is_refused,
    a_full_ring_refuses_and_accepts_again_when_it_is_drained,
    small_records_are_bounded_by_their_number,
    two_full_rings_in_a_cycle_make_progress,
    a_sender_that_sleeps_for_credit_is_woken,
);
