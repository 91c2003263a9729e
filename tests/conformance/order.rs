//! L1: bytes arrive in order and whole, whatever the operations.

use std::collections::VecDeque;

use gradwire::lane::{Event, Fabric, LaneId, Port, WriteError, max_record_bytes};
use gradwire::wire::HEADER_BYTES;

use crate::{Dice, Pairing, content, record, sides};

const RING: usize = 64 << 10;
const OPERATIONS: usize = 40_000;

/// What one direction of one lane holds, by the oracle.
#[derive(Default)]
struct Direction {
    next: u64,
    /// Number and payload length of records written and not consumed.
    inside: VecDeque<(u64, usize)>,
    bytes: usize,
}

struct World {
    ports: [Port; 2],
    /// Per lane, its name at either port.
    lanes: Vec<[LaneId; 2]>,
    /// Per lane, by writer.
    directions: Vec<[Direction; 2]>,
    dice: Dice,
}

impl World {
    fn write(&mut self, lane: usize, from: usize, notify: bool) {
        let direction = &mut self.directions[lane][from];
        let longest = max_record_bytes(RING) - HEADER_BYTES;
        let mut records = Vec::new();
        for _ in 0..=self.dice.below(3) {
            let length = match self.dice.below(20) {
                0 => longest,
                1..=4 => self.dice.below(longest + 1),
                _ => self.dice.below(300),
            };
            records.push((direction.next + records.len() as u64, length));
        }
        let built: Vec<Vec<u8>> = records.iter().map(|&(number, length)| record(number, length)).collect();
        // Cut behind headers at any place, as a gather of header, keys, values and padding is.
        let mut parts: Vec<&[u8]> = Vec::new();
        for bytes in &built {
            let cut = HEADER_BYTES + self.dice.below(bytes.len() - HEADER_BYTES + 1);
            parts.extend([&bytes[..cut], &bytes[cut..]]);
        }
        let bytes: usize = built.iter().map(Vec::len).sum();
        let port = &mut self.ports[from];
        let credit = port.credit(self.lanes[lane][from]);
        match port.write(self.lanes[lane][from], &parts, notify) {
            Ok(()) => {
                direction.next += records.len() as u64;
                direction.inside.extend(records);
                direction.bytes += bytes;
                assert!(direction.bytes <= RING, "more is under way than the ring holds");
            }
            Err(WriteError::Full) => assert!(credit < bytes, "{bytes} refused at a credit of {credit}"),
            Err(WriteError::TooLarge { limit }) => assert!(bytes > limit),
            Err(WriteError::Down) => panic!("the lane went down"),
        }
    }

    fn drain(&mut self, lane: usize, from: usize, at_most: usize) {
        let reader = 1 - from;
        let id = self.lanes[lane][reader];
        for _ in 0..at_most {
            let port = &mut self.ports[reader];
            let Some(header) = port.peek(id) else { return };
            assert_eq!(port.peek(id), Some(header), "peeking again changes nothing");
            let direction = &mut self.directions[lane][from];
            let expected = direction.inside.pop_front();
            assert_eq!(expected, Some((header.flow, header.length as usize)));
            let length = header.length as usize;
            let start = self.dice.below(length + 1);
            let mut payload = vec![0; length - start];
            port.copy_payload(id, start, &mut payload);
            for (at, byte) in payload.iter().enumerate() {
                assert_eq!(*byte, content(header.flow, start + at));
            }
            port.consume(id);
            direction.bytes -= header.record_bytes();
        }
    }

    fn poll(&mut self, side: usize) {
        let mut events = Vec::new();
        self.ports[side].poll(&mut events);
        for event in events {
            assert!(matches!(event, Event::Arrived(_)), "{event:?}");
        }
    }
}

fn random_operations_keep_order_and_content(pairing: &dyn Pairing) {
    let mut ports = [Port::new().unwrap(), Port::new().unwrap()];
    let mut lanes = Vec::new();
    for _ in 0..3 {
        let (left, right) = pairing.lane(RING);
        lanes.push([ports[0].adopt(left).unwrap(), ports[1].adopt(right).unwrap()]);
    }
    let directions = lanes.iter().map(|_| Default::default()).collect();
    let mut world = World { ports, lanes, directions, dice: Dice(0x5eed) };
    for _ in 0..OPERATIONS {
        let (lane, side) = (world.dice.below(3), world.dice.below(2));
        match world.dice.below(8) {
            0..=2 => {
                let notify = world.dice.below(3) > 0;
                world.write(lane, side, notify);
            }
            3..=4 => {
                let at_most = world.dice.below(6);
                world.drain(lane, side, at_most);
            }
            5 => world.ports[side].flush(),
            _ => world.poll(side),
        }
    }
    // Everything written comes out once a notified write follows it.
    for lane in 0..3 {
        for from in 0..2 {
            let before = world.directions[lane][from].next;
            while world.directions[lane][from].next == before {
                world.write(lane, from, true);
                world.poll(from);
                world.poll(1 - from);
                world.drain(lane, from, usize::MAX);
            }
            while !world.directions[lane][from].inside.is_empty() {
                world.poll(from);
                world.poll(1 - from);
                world.drain(lane, from, usize::MAX);
            }
        }
    }
    let written: u64 = world.directions.iter().flatten().map(|direction| direction.next).sum();
    assert!(written > 3000, "the walk wrote only {written} records");
}

fn a_notified_write_brings_all_earlier_ones_and_an_event(pairing: &dyn Pairing) {
    let (mut left, mut right) = sides(pairing, RING);
    for number in 0..10 {
        left.write(number, 40, false).unwrap();
    }
    left.write(10, 0, true).unwrap();
    left.port.flush();
    right.poll_until(|right| right.arrived > 0);
    let seen: Vec<u64> = std::iter::from_fn(|| right.take()).collect();
    assert_eq!(seen, (0..=10).collect::<Vec<_>>());
}

fn what_was_told_can_be_peeked_at_any_later_time(pairing: &dyn Pairing) {
    let (mut left, mut right) = sides(pairing, RING);
    for number in 0..5 {
        left.write(number, 100, true).unwrap();
        left.port.flush();
    }
    right.poll_until(|right| right.port.peek(right.lane).is_some());
    for number in 0..5 {
        right.poll_until(|right| right.port.peek(right.lane).is_some());
        assert_eq!(right.take(), Some(number));
        right.poll();
    }
    assert_eq!(right.take(), None);
}

crate::on_every_fabric!(
    random_operations_keep_order_and_content,
    a_notified_write_brings_all_earlier_ones_and_an_event,
    what_was_told_can_be_peeked_at_any_later_time,
);
