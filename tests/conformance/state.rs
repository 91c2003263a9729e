//! State entries: newest wins, outside credit.

use std::collections::BTreeMap;

use gradwire::lane::{Fabric, StateEntry};
use gradwire::wire::ids::{Epoch, Lsn, PartitionId};

use crate::{Dice, Pairing, sides};

const RING: usize = 64 << 10;

fn entry(partition: u32, lsn: u64) -> StateEntry {
    StateEntry {
        partition: PartitionId(partition),
        epoch: Epoch(lsn + 1),
        acked_lsn: Lsn(lsn),
        confirmed_epoch: Epoch(lsn + 2),
    }
}

fn the_newest_entry_of_every_partition_arrives_and_none_is_older_than_one_before(pairing: &dyn Pairing) {
    let (mut left, mut right) = sides(pairing, RING);
    let mut dice = Dice(9);
    let mut published = BTreeMap::new();
    let mut seen: BTreeMap<PartitionId, StateEntry> = BTreeMap::new();
    for lsn in 0..20_000 {
        let fresh = entry(dice.below(500) as u32, lsn);
        left.port.publish(left.lane, fresh);
        published.insert(fresh.partition, fresh);
        if dice.below(40) == 0 {
            left.poll();
            right.poll();
        }
    }
    right.poll_until(|right| {
        left.poll();
        for got in right.entries.drain(..) {
            assert_eq!(got, entry(got.partition.0, got.acked_lsn.0), "a torn entry was accepted");
            let old = seen.insert(got.partition, got);
            assert!(old.is_none_or(|old| old.acked_lsn <= got.acked_lsn));
        }
        seen == published
    });
}

fn state_flows_while_both_rings_are_full(pairing: &dyn Pairing) {
    let (mut left, mut right) = sides(pairing, RING);
    for side in [&mut left, &mut right] {
        let mut number = 0;
        while side.write(number, 1000, true).is_ok() {
            number += 1;
        }
    }
    for lsn in 0..300 {
        left.port.publish(left.lane, entry(7, lsn));
        right.port.publish(right.lane, entry(8, lsn));
        left.poll_until(|left| {
            right.poll();
            left.entries.contains(&entry(8, lsn))
        });
        right.poll_until(|right| {
            left.poll();
            right.entries.contains(&entry(7, lsn))
        });
    }
    assert_eq!((left.take(), right.take()), (Some(0), Some(0)));
}

fn an_entry_wakes_a_sleeper(pairing: &dyn Pairing) {
    let (mut left, mut right) = sides(pairing, RING);
    let sleeper = std::thread::spawn(move || {
        while right.entries.is_empty() {
            right.port.wait(std::time::Duration::from_secs(200));
            right.poll();
        }
    });
    left.port.publish(left.lane, entry(1, 1));
    left.port.flush();
    sleeper.join().unwrap();
}

crate::on_every_fabric!(
    the_newest_entry_of_every_partition_arrives_and_none_is_older_than_one_before,
    state_flows_while_both_rings_are_full,
    an_entry_wakes_a_sleeper,
);
