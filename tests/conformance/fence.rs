//! L5: after a fence nothing remote lands.

use gradwire::lane::{Fabric, FabricKind, FenceError, WriteError};

use crate::{Pairing, sides};

const RING: usize = 64 << 10;

fn after_a_fence_at_any_step_late_writes_go_nowhere(pairing: &dyn Pairing) {
    for step in 0..8 {
        let (mut left, mut right) = sides(pairing, RING);
        let grant = right.port.grant(right.lane, 4096).unwrap();
        let told = right.port.describe(right.lane, grant).unwrap();
        let mut done = 0;
        let mut before = |wanted: usize| {
            done += 1;
            wanted < step
        };
        if before(0) {
            left.write(0, 100, false).unwrap();
        }
        if before(1) {
            left.write(1, 100, true).unwrap();
        }
        if before(2) {
            left.port.place(left.lane, told, 0, &[&[1; 4096]]).unwrap();
        }
        if before(3) {
            left.port.flush();
        }
        if before(4) {
            right.poll_until(|right| right.port.peek(right.lane).is_some());
        }
        if before(5) {
            right.port.consume(right.lane);
        }
        if before(6) {
            right.write(0, 100, true).unwrap();
        }
        assert_eq!(right.port.fence(right.lane), Ok(()));
        assert_eq!(right.port.fence(right.lane), Err(FenceError::Closed));
        assert_eq!(right.port.kind(right.lane), None);
        assert_eq!(right.port.peek(right.lane), None);
        assert_eq!(right.write(9, 1, true), Err(WriteError::Down));
        assert_eq!(right.port.credit(right.lane), 0);

        // A new lane takes the place of the old one; what the late writer does must not show in it.
        let (mut new_left, new_right) = sides(pairing, RING);
        drop(new_right);
        let (end, other) = pairing.lane(RING);
        let new_lane = right.port.adopt(end).unwrap();
        assert_ne!(new_lane, right.lane);
        let fresh = right.port.grant(new_lane, 4096).unwrap();
        for number in 0..20 {
            let _ = left.write(number, 2000, true);
            let _ = left.port.place(left.lane, told, 0, &[&[0xff; 4096]]);
            left.port.flush();
        }
        right.lane = new_lane;
        for _ in 0..2000 {
            right.poll();
        }
        let mut memory = [7; 4096];
        right.port.read_granted(new_lane, fresh, 0, &mut memory).unwrap();
        assert_eq!(memory, [0; 4096], "a late write landed after step {step}");
        assert_eq!((right.take(), right.down.take()), (None, None));
        // The late writer learns of its end.
        left.poll_until(|left| left.down.is_some());
        new_left.poll_until(|left| left.down.is_some());
        drop(other);
    }
}

fn a_fenced_lane_leaves_others_alone(pairing: &dyn Pairing) {
    let (mut left, mut right) = sides(pairing, RING);
    let (end, peer) = pairing.lane(RING);
    let second = right.port.adopt(end).unwrap();
    assert!(matches!(right.port.kind(second), Some(FabricKind::Shm | FabricKind::Tcp)));
    right.port.fence(second).unwrap();
    drop(peer);
    for number in 0..100 {
        left.poll_until(|left| left.write(number, 500, true).is_ok());
        left.port.flush();
        right.poll_until(|right| right.port.peek(right.lane).is_some());
        assert_eq!(right.take(), Some(number));
    }
}

crate::on_every_fabric!(after_a_fence_at_any_step_late_writes_go_nowhere, a_fenced_lane_leaves_others_alone,);
