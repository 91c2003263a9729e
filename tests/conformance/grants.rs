//! L4: bulk goes only where it was granted.

use gradwire::lane::{Fabric, GrantError, PeerGrant, PlaceError};

use crate::{Pairing, Side, sides};

const RING: usize = 64 << 10;

fn placed_bytes_are_there_before_a_record_written_after_them(pairing: &dyn Pairing) {
    let (mut left, mut right) = sides(pairing, RING);
    let grant = right.port.grant(right.lane, 200_000).unwrap();
    let told = right.port.describe(right.lane, grant).unwrap();
    assert_eq!(told.bytes, 200_000);
    let piece: Vec<u8> = (0..10_000u32).map(|at| (at * 3) as u8).collect();
    for number in 0..20 {
        let offset = number as usize * 10_000;
        left.poll_until(|left| {
            let placed = left.port.place(left.lane, told, offset, &[&piece[..77], &piece[77..]]);
            right.poll();
            match placed {
                Ok(()) => true,
                Err(error) => {
                    assert_eq!(error, PlaceError::Full);
                    false
                }
            }
        });
        left.write(number, 8, true).unwrap();
        left.port.flush();
        right.poll_until(|right| {
            left.poll();
            right.port.peek(right.lane).is_some()
        });
        assert_eq!(right.take(), Some(number));
        let mut got = vec![0; 10_000];
        right.port.read_granted(right.lane, grant, offset, &mut got).unwrap();
        assert_eq!(got, piece);
    }
    let outside = right.port.read_granted(right.lane, grant, 199_999, &mut [0; 2]);
    assert!(matches!(outside, Err(GrantError::OutOfBounds { granted: 200_000, .. })));
}

fn bulk_needs_no_credit(pairing: &dyn Pairing) {
    let (mut left, mut right) = sides(pairing, RING);
    let mut number = 0;
    while left.write(number, 1000, true).is_ok() {
        number += 1;
    }
    let grant = right.port.grant(right.lane, 16_000).unwrap();
    let told = right.port.describe(right.lane, grant).unwrap();
    for round in 0..50u8 {
        left.poll_until(|left| {
            right.poll();
            left.port.place(left.lane, told, 0, &[&[round; 16_000]]).is_ok()
        });
        let mut got = [0; 2];
        right.poll_until(|right| {
            left.poll();
            right.port.read_granted(right.lane, grant, 15_998, &mut got).unwrap();
            got == [round; 2]
        });
    }
    assert_eq!(right.take(), Some(0));
}

fn a_place_outside_its_grant_or_in_none_is_refused(pairing: &dyn Pairing) {
    let (mut left, mut right) = sides(pairing, RING);
    let grant = right.port.grant(right.lane, 100).unwrap();
    let told = right.port.describe(right.lane, grant).unwrap();
    let place =
        |left: &mut Side, grant, offset, bytes: &[u8]| left.port.place(left.lane, grant, offset, &[bytes]);
    assert!(matches!(place(&mut left, told, 99, b"xy"), Err(PlaceError::OutOfBounds { .. })));
    assert!(matches!(place(&mut left, told, usize::MAX, b"xy"), Err(PlaceError::OutOfBounds { .. })));
    let long = vec![0; RING];
    assert!(matches!(place(&mut left, told, 0, &long), Err(PlaceError::TooLarge { .. })));
    assert_eq!(place(&mut left, told, 98, b"xy"), Ok(()));
    let mut got = [0; 2];
    right.poll_until(|right| {
        left.poll();
        right.port.read_granted(right.lane, grant, 98, &mut got).unwrap();
        &got == b"xy"
    });
    // One who lies about the grant is cut, or refused at once; memory beside the grant is not touched.
    let lie = PeerGrant { bytes: u64::MAX, ..told };
    if place(&mut left, lie, 99, b"xy").is_ok() {
        right.poll_until(|right| {
            left.poll();
            right.down.is_some()
        });
    }
}

fn a_released_grant_takes_nothing_and_harms_nobody(pairing: &dyn Pairing) {
    let (mut left, mut right) = sides(pairing, RING);
    let grant = right.port.grant(right.lane, 100).unwrap();
    let told = right.port.describe(right.lane, grant).unwrap();
    left.port.place(left.lane, told, 0, &[b"early"]).unwrap();
    right.port.release_grant(right.lane, grant);
    assert_eq!(right.port.describe(right.lane, grant), None);
    // Whether the peer knows yet depends on the fabric; the late piece goes nowhere, and the lane lives.
    let _ = left.port.place(left.lane, told, 0, &[b"late"]);
    left.write(1, 10, true).unwrap();
    left.port.flush();
    right.poll_until(|right| {
        left.poll();
        right.port.peek(right.lane).is_some()
    });
    assert_eq!(right.take(), Some(1));
    assert!(right.port.read_granted(right.lane, grant, 0, &mut [0]).is_err());
    assert_eq!((left.down, right.down), (None, None));
}

fn a_snapshot_is_read_and_never_written(pairing: &dyn Pairing) {
    let (mut left, mut right) = sides(pairing, RING);
    let snapshot: Vec<u8> = (0..40_000u32).map(|at| (at ^ (at >> 8)) as u8).collect();
    let shared = right.port.share(right.lane, &snapshot).unwrap();
    let told = right.port.describe(right.lane, shared).unwrap();
    let into = left.port.grant(left.lane, 40_000).unwrap();
    for offset in (0..40_000).step_by(10_000) {
        left.port.read(left.lane, told, offset, into, offset, 10_000).unwrap();
    }
    left.poll_until(|left| {
        right.poll();
        left.reads == 4
    });
    let mut got = vec![0; 40_000];
    left.port.read_granted(left.lane, into, 0, &mut got).unwrap();
    assert_eq!(got, snapshot);
    // Writing to it: refused here, or the writer is cut there.
    if left.port.place(left.lane, told, 0, &[b"no"]).is_ok() {
        right.poll_until(|right| {
            left.poll();
            right.down.is_some()
        });
    }
    let mut kept = [0; 2];
    right.port.read_granted(right.lane, shared, 0, &mut kept).unwrap();
    assert_eq!(kept, snapshot[..2]);
}

crate::on_every_fabric!(
    placed_bytes_are_there_before_a_record_written_after_them,
    bulk_needs_no_credit,
    a_place_outside_its_grant_or_in_none_is_refused,
    a_released_grant_takes_nothing_and_harms_nobody,
    a_snapshot_is_read_and_never_written,
);
