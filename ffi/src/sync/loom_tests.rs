//! Every interleaving of the hand-overs, within loom's bounds.
//! `RUSTFLAGS="--cfg loom" cargo test -p gradwire-ffi --release --lib loom`

use loom::sync::Arc;
use loom::thread;

use super::{Arm, ReceiverLine, SenderLine, StateSlot, Tally, WakeFlag, order_before_doorbells};
use crate::primitive::{AtomicU64, Ordering};

#[test]
fn loom_what_is_published_is_written_and_what_is_consumed_is_free() {
    loom::model(|| {
        // A ring of one word: the sender may write it again only after the receiver gave it back.
        let shared = Arc::new((SenderLine::default(), ReceiverLine::default(), AtomicU64::new(0)));
        let sender = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let (line, peer, word) = &*sender;
            word.store(11, Ordering::Relaxed);
            line.publish(Tally { bytes: 1, records: 1 });
            if peer.consumed().bytes == 1 {
                word.store(22, Ordering::Relaxed);
                line.publish(Tally { bytes: 2, records: 2 });
            }
        });
        let (line, peer, word) = &*shared;
        let seen = line.published();
        if seen.bytes == 1 {
            assert!(seen.records >= 1);
            assert_eq!(word.load(Ordering::Relaxed), 11);
            peer.release(Tally { bytes: 1, records: 1 });
        }
        thread.join().unwrap();
        let seen = line.published();
        assert_eq!(word.load(Ordering::Relaxed), 11 * seen.bytes);
    });
}

#[test]
fn loom_a_publication_is_seen_before_sleep_or_rings_the_doorbell() {
    loom::model(|| {
        let shared = Arc::new((SenderLine::default(), ReceiverLine::default()));
        let sender = Arc::clone(&shared);
        let rang = thread::spawn(move || {
            sender.0.publish(Tally { bytes: 8, records: 1 });
            order_before_doorbells();
            sender.1.take_doorbell(Arm::Arrivals)
        });
        shared.1.arm(Arm::Arrivals);
        order_before_doorbells();
        let seen = shared.0.published().bytes == 8;
        let rang = rang.join().unwrap();
        assert!(seen || rang, "the receiver would sleep on a record");
    });
}

#[test]
fn loom_returned_credit_is_seen_before_sleep_or_rings_the_doorbell() {
    loom::model(|| {
        // The sleeper arms the line of its own inbox; credit for its outbox is on the other receiver's line.
        let shared = Arc::new((ReceiverLine::default(), ReceiverLine::default()));
        let receiver = Arc::clone(&shared);
        let rang = thread::spawn(move || {
            receiver.1.release(Tally { bytes: 8, records: 1 });
            order_before_doorbells();
            receiver.0.take_doorbell(Arm::Credit)
        });
        shared.0.arm(Arm::Credit);
        order_before_doorbells();
        let seen = shared.1.consumed().bytes == 8;
        assert!(seen | rang.join().unwrap(), "the sender would sleep on credit");
    });
}

#[test]
fn loom_a_signal_is_seen_before_sleep_or_rings() {
    loom::model(|| {
        let flag = Arc::new((WakeFlag::default(), AtomicU64::new(0)));
        let other = Arc::clone(&flag);
        let rang = thread::spawn(move || {
            other.1.store(1, Ordering::Relaxed);
            other.0.signal()
        });
        let sleeps = flag.0.prepare_sleep();
        if !sleeps {
            assert!(flag.0.awake());
            assert_eq!(flag.1.load(Ordering::Relaxed), 1);
        }
        assert!(!sleeps || rang.join().unwrap(), "the sleeper would miss the signal");
    });
}

#[test]
fn loom_an_entry_that_passes_its_check_was_written_whole() {
    loom::model(|| {
        let slot = Arc::new(StateSlot::default());
        slot.write(1, &[1, 1, 1, 1]);
        let writer = Arc::clone(&slot);
        let thread = thread::spawn(move || writer.write(2, &[2, 2, 2, 2]));
        if let Ok((version, words)) = slot.read() {
            assert_eq!(words, [version; 4]);
        }
        thread.join().unwrap();
        assert_eq!(slot.read(), Ok((2, [2; 4])));
    });
}

#[test]
fn loom_a_dirty_entry_is_not_forgotten() {
    loom::model(|| {
        let shared = Arc::new((SenderLine::default(), StateSlot::default(), AtomicU64::new(0)));
        let writer = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            for version in 1..=2 {
                writer.1.write(version, &[version; 4]);
                writer.2.fetch_or(1, Ordering::Release);
                writer.0.announce_state(version);
            }
        });
        let mut last = 0;
        let mut seen = 0;
        let mut look = || {
            let changes = shared.0.state_changes();
            if changes != seen {
                seen = changes;
                if shared.2.swap(0, Ordering::Acquire) != 0 {
                    match shared.1.read() {
                        Ok((version, _)) => last = version,
                        Err(_) => {
                            shared.2.fetch_or(1, Ordering::Relaxed);
                            seen = u64::MAX;
                        }
                    }
                }
            }
            last
        };
        look();
        thread.join().unwrap();
        assert_eq!(look(), 2);
    });
}
