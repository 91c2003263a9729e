//! What a peer with write access to the shared memory may do wrong.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;

use gradwire::lane::shm::Layout;
use gradwire::lane::{DownReason, Fabric, LaneConfig, SetupError, shm};
use gradwire::wire::WireError;
use gradwire::wire::ids::{Epoch, Lsn, PartitionId};
use gradwire_ffi::event::EventFd;
use gradwire_ffi::shared::{RingBytes, SharedArray, SharedMemory};
use gradwire_ffi::socket::{receive_fds, send_fds};
use gradwire_ffi::sync::{ReceiverLine, SenderLine, StateSlot, Tally};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::pairing::PATIENCE;
use crate::{Dice, Side, record, watchdog};

const RING: usize = 64 << 10;

/// The far end of a lane, with its hands on the memory itself.
struct Scribbler {
    ring: RingBytes,
    senders: SharedArray<SenderLine>,
    receivers: SharedArray<ReceiverLine>,
    dirty: SharedArray<AtomicU64>,
    slots: SharedArray<StateSlot>,
    socket: UnixStream,
    memory: SharedMemory,
}

impl Scribbler {
    /// A lane whose far end scribbles; it writes direction 1.
    fn new() -> (Side, Self) {
        let (left, right) = UnixStream::pair().unwrap();
        let side = Side::new(shm::offer(left, LaneConfig { ring_bytes: RING }).unwrap());
        let mut message = [0; 16];
        let (_, mut fds) = receive_fds(&right, &mut message).unwrap();
        let layout = Layout::new(RING);
        let memory = SharedMemory::open(fds.remove(0), layout.bytes()).unwrap();
        let slots = (layout.bytes() - layout.state_slots()) / size_of::<StateSlot>();
        let scribbler = Self {
            ring: memory.ring(layout.ring(1), RING).unwrap(),
            senders: memory.array(layout.sender_lines(), 2).unwrap(),
            receivers: memory.array(layout.receiver_lines(), 2).unwrap(),
            dirty: memory.array(layout.dirty_bits(), slots / 64).unwrap(),
            slots: memory.array(layout.state_slots(), slots).unwrap(),
            socket: right,
            memory,
        };
        (side, scribbler)
    }

    fn publish(&self, bytes: u64, records: u64) {
        self.senders[1].publish(Tally { bytes, records });
    }

    /// Puts a good record first.
    fn good(&self) -> u64 {
        let bytes = record(0, 100);
        self.ring.copy_in(0, &bytes);
        self.publish(bytes.len() as u64, 1);
        bytes.len() as u64
    }
}

/// Lets the scribbler act after one good record; gives the reason of the cut.
fn cut_by(act: impl FnOnce(&Scribbler, u64)) -> DownReason {
    let (mut side, scribbler) = Scribbler::new();
    let end = scribbler.good();
    side.poll_until(|side| side.arrived > 0);
    act(&scribbler, end);
    assert_eq!(side.take(), Some(0));
    side.poll_until(|side| {
        side.port.peek(side.lane);
        side.down.is_some()
    });
    side.down.unwrap()
}

#[test]
fn counters_that_cannot_be_cut_the_lane() {
    watchdog(|| {
        let beyond = cut_by(|peer, end| peer.publish(end + RING as u64 + 8, 2));
        assert_eq!(beyond, DownReason::CreditExceeded { unit: "bytes" });
        let backwards = cut_by(|peer, end| peer.publish(end - 80, 1));
        assert!(matches!(backwards, DownReason::Impossible { .. }));
        let many = cut_by(|peer, end| peer.publish(end + 80, 1 << 40));
        assert_eq!(many, DownReason::CreditExceeded { unit: "records" });
        let odd = cut_by(|peer, end| peer.publish(end + 3, 2));
        assert!(matches!(odd, DownReason::Impossible { .. }));
    });
}

#[test]
fn ring_bytes_that_are_no_record_cut_the_lane() {
    watchdog(|| {
        let zeroes = cut_by(|peer, end| peer.publish(end + 80, 2));
        assert!(matches!(zeroes, DownReason::BadRecord(WireError::Magic { .. })));
        let cut_short = cut_by(|peer, end| {
            peer.ring.copy_in(end as usize, &record(1, 100));
            peer.publish(end + 88, 2);
        });
        assert!(matches!(cut_short, DownReason::Impossible { .. }));
        let too_large = cut_by(|peer, end| {
            peer.ring.copy_in(end as usize, &record(1, 20_000));
            peer.publish(end + 20_080, 2);
        });
        assert!(matches!(too_large, DownReason::RecordTooLarge { .. }));
        let uncounted = cut_by(|peer, end| {
            peer.ring.copy_in(end as usize, &record(1, 0));
            peer.publish(end + 80, 1);
        });
        assert_eq!(uncounted, DownReason::CreditExceeded { unit: "records" });
        let lane_kind = cut_by(|peer, end| {
            let header = gradwire::wire::Header::new(gradwire::wire::Kind::State, 0);
            peer.ring.copy_in(end as usize, &header.to_bytes());
            peer.publish(end + 80, 2);
        });
        assert!(matches!(lane_kind, DownReason::BadRecord(WireError::Kind { .. })));
    });
}

#[test]
fn credit_that_was_never_used_cannot_come_back() {
    watchdog(|| {
        let (mut side, peer) = Scribbler::new();
        // The lines of direction 0 are the scribbler's to write as its receiver.
        peer.receivers[0].release(Tally { bytes: 1 << 50, records: 1 << 40 });
        let mut number = 0;
        while side.write(number, 1000, true).is_ok() {
            number += 1;
            assert!(number * 1080 <= RING as u64, "invented credit was used");
        }
        side.poll_until(|side| side.down.is_some());
        assert!(matches!(side.down, Some(DownReason::Impossible { .. })));
    });
}

#[test]
fn a_torn_entry_is_read_again_and_never_accepted() {
    watchdog(|| {
        let (mut side, peer) = Scribbler::new();
        let slot = &peer.slots[peer.slots.len() / 2];
        let dirty = &peer.dirty[peer.dirty.len() / 2];
        slot.write(1, &[3, 1, 10, 1]);
        slot.plant_torn(&[3, 1, 99, 1]);
        dirty.fetch_or(1, Ordering::Release);
        peer.senders[1].announce_state(1);
        for _ in 0..100 {
            side.poll();
            assert!(side.entries.is_empty(), "{:?}", side.entries);
        }
        // The writer finishes; no new announcement is needed.
        slot.write(2, &[3, 1, 99, 1]);
        side.poll_until(|side| !side.entries.is_empty());
        let entry = side.entries[0];
        assert_eq!((entry.partition, entry.acked_lsn), (PartitionId(3), Lsn(99)));
        assert_eq!(entry.confirmed_epoch, Epoch(1));
        slot.write(3, &[u64::MAX, 1, 1, 1]);
        dirty.fetch_or(1, Ordering::Release);
        peer.senders[1].announce_state(2);
        side.poll_until(|side| side.down.is_some());
        assert!(matches!(side.down, Some(DownReason::Impossible { .. })));
    });
}

#[test]
fn random_scribbling_while_the_lane_is_used_never_panics() {
    watchdog(|| {
        for seed in 0..30 {
            let (mut side, peer) = Scribbler::new();
            let scribble = thread::spawn(move || {
                let mut dice = Dice(seed);
                let mut bytes = peer.good();
                for _ in 0..2000 {
                    match dice.below(6) {
                        0 => peer.ring.copy_in(dice.below(RING), &dice.roll().to_le_bytes()),
                        1..=3 => {
                            let next = record(0, dice.below(200));
                            peer.ring.copy_in(bytes as usize % RING, &next);
                            bytes += next.len() as u64;
                            peer.publish(bytes, bytes / 80);
                        }
                        4 => {
                            let slot = dice.below(peer.slots.len());
                            peer.slots[slot].plant_torn(&[dice.roll(), 0, 0, 0]);
                            peer.dirty[dice.below(peer.dirty.len())].store(dice.roll(), Ordering::Release);
                            peer.senders[1].announce_state(dice.roll());
                        }
                        _ => peer.receivers[1].arm(gradwire_ffi::sync::Arm::Credit),
                    }
                }
            });
            while side.down.is_none() {
                side.poll();
                let mut number = 0;
                while let Some(header) = side.port.peek(side.lane) {
                    let mut payload = vec![0; header.length as usize];
                    side.port.copy_payload(side.lane, 0, &mut payload);
                    side.port.consume(side.lane);
                    let _ = side.write(number, 50, true);
                    number += 1;
                }
            }
            scribble.join().unwrap();
        }
    });
}

#[test]
fn nonsense_over_the_socket_cuts_the_lane() {
    watchdog(|| {
        let cases: [(&[u8], usize); 4] = [(b"hello", 0), (&[9; 24], 0), (&[1; 24], 1), (&[0; 24], 1)];
        for (bytes, fds) in cases {
            let (mut side, peer) = Scribbler::new();
            let some = [peer.memory.fd()];
            send_fds(&peer.socket, bytes, &some[..fds]).unwrap();
            side.poll_until(|side| side.down.is_some());
            assert!(matches!(side.down, Some(DownReason::Impossible { .. })), "{:?}", side.down);
        }
    });
}

#[test]
fn an_offer_that_is_none_or_unsafe_is_refused() {
    watchdog(|| {
        let largest = LaneConfig { ring_bytes: RING };
        let offer = |magic: &[u8; 8], ring: u64, fds: &[OwnedFd]| {
            let (left, right) = UnixStream::pair().unwrap();
            let message = [&magic[..], &ring.to_le_bytes()].concat();
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            send_fds(&left, &message, &fds).unwrap();
            shm::accept(right, largest, PATIENCE).map(|_| ())
        };
        let bell = || EventFd::create().unwrap().as_fd().try_clone_to_owned().unwrap();
        let memory = |bytes| SharedMemory::create(bytes).unwrap().fd().try_clone_to_owned().unwrap();
        let right_size = Layout::new(RING).bytes();
        let ring = RING as u64;
        let result = offer(b"HTTP/1.1", ring, &[]);
        assert!(matches!(result, Err(SetupError::Unexpected { .. })), "{result:?}");
        let result = offer(b"GRWRSHM1", ring - 1, &[]);
        assert!(matches!(result, Err(SetupError::Config(_))), "{result:?}");
        let result = offer(b"GRWRSHM1", 2 * ring, &[memory(right_size), bell(), bell()]);
        assert!(matches!(result, Err(SetupError::Unexpected { .. })), "{result:?}");
        let result = offer(b"GRWRSHM1", ring, &[memory(right_size), bell()]);
        assert!(matches!(result, Err(SetupError::Unexpected { .. })), "{result:?}");
        let result = offer(b"GRWRSHM1", ring, &[memory(4096), bell(), bell()]);
        assert!(matches!(result, Err(SetupError::Open(_))), "{result:?}");
        let result = offer(b"GRWRSHM1", ring, &[bell(), bell(), bell()]);
        assert!(matches!(result, Err(SetupError::Open(_))), "{result:?}");
        assert!(offer(b"GRWRSHM1", ring, &[memory(right_size), bell(), bell()]).is_ok());

        let (left, right) = UnixStream::pair().unwrap();
        let silent = shm::accept(right, largest, std::time::Duration::from_millis(20));
        assert!(matches!(silent, Err(SetupError::Deadline { .. })));
        let (gone, right) = UnixStream::pair().unwrap();
        drop((left, gone));
        assert!(matches!(shm::accept(right, largest, PATIENCE), Err(SetupError::Closed { .. })));
    });
}
