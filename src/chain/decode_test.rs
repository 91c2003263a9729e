//! Batches from outside: what was sealed reads back, and nothing else passes or panics.

use proptest::prelude::*;

use super::batch::check_in;
use super::*;
use crate::wire::RefusalCode;
use crate::wire::ids::{Clock, Epoch, Lsn, PartitionId, Sequence, SessionId, TableId};

fn sample_entries() -> Vec<(EntryHead, Vec<u8>)> {
    let push = EntryHead {
        flags: EntryFlags::CREATES,
        table: TableId(2),
        session: SessionId(3),
        sequence: Sequence(4),
        resolved: Sequence(1),
        clock: Clock(6),
        ..EntryHead::new(EntryKind::Push)
    };
    let refused = EntryHead { kind: EntryKind::Refused, refusal: Some(RefusalCode::Memory), ..push };
    let began = EntryHead { session: SessionId(8), ..EntryHead::new(EntryKind::ClientBegan) };
    vec![
        (EntryHead { bytes: 13, ..push }, (0..13).collect()),
        (EntryHead { sequence: Sequence(5), flags: EntryFlags::NONE, ..refused }, vec![]),
        (EntryHead { flags: EntryFlags::WORKER, ..began }, vec![]),
        (EntryHead { bytes: 8, ..EntryHead::new(EntryKind::TableCreated) }, vec![9; 8]),
    ]
}

fn encode(entries: &[(EntryHead, Vec<u8>)]) -> Vec<u8> {
    let body: usize = entries.iter().map(|(head, _)| head.entry_bytes()).sum();
    let head = BatchHead {
        partition: PartitionId(1),
        epoch: Epoch(2),
        lsn: Lsn(3),
        entries: entries.len() as u32,
        bytes: body as u32,
    };
    let mut bytes = head.to_bytes().to_vec();
    for (head, payload) in entries {
        bytes.extend(head.to_bytes());
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    check_in(&mut bytes);
    bytes
}

#[test]
fn what_was_sealed_reads_back() {
    let entries = sample_entries();
    let bytes = encode(&entries);
    let batch = Batch::parse(&bytes).unwrap();
    let found: Vec<_> = batch.entries().map(|entry| (entry.head, entry.payload.to_vec())).collect();
    assert_eq!(found, entries);
    assert_eq!(batch.head.batch_bytes(), bytes.len());
}

#[test]
fn the_layout_is_the_one_of_version_1() {
    let fixture = include_bytes!("../../tests/data/batch_v1.bin");
    assert_eq!(encode(&sample_entries()), fixture);
}

#[test]
fn every_single_changed_bit_is_noticed() {
    let good = encode(&sample_entries());
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Batch::parse(&bad).is_err(), "bit {bit}");
    }
}

#[test]
fn a_batch_cut_anywhere_is_an_error() {
    let good = encode(&sample_entries());
    for length in 0..good.len() {
        assert!(matches!(Batch::parse(&good[..length]), Err(BatchError::Length { .. })), "{length} bytes");
    }
    let mut long = good;
    long.push(0);
    assert!(matches!(Batch::parse(&long), Err(BatchError::Length { .. })));
}

#[test]
fn a_batch_with_a_good_checksum_and_a_bad_field_is_an_error_that_names_it() {
    let offset = BATCH_HEADER_BYTES;
    // (offset of a byte, its value, a word of the message)
    let cases = [
        (4, 0u8, "magic"),
        (8, 9, "version 9"),
        (10, 1, "flags"),
        (32, 0, "without entries"),
        (32, 3, "follow the batch's last entry"),
        (32, 5, "entry 4 needs"),
        (offset + 4, 99, "kind 99"),
        (offset + 6, 1, "`code`"),
        (offset + 15, 0x80, "flags"),
        (offset + 24, 0, "`sequence`"),
        (offset + 4, 2, "`bytes`"),
        (offset, 250, "entry 0 needs"),
        (offset + 48 + 13, 1, "entry 0 is not padded"),
        (offset + 3, 250, "entry 0 needs"),
    ];
    for (at, value, word) in cases {
        let mut bytes = encode(&sample_entries());
        bytes[at] = value;
        check_in(&mut bytes);
        let error = Batch::parse(&bytes).unwrap_err();
        assert!(error.to_string().contains(word), "byte {at} = {value}: {error}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..300),
        honest_header in any::<bool>(),
        honest_checksum in any::<bool>(),
    ) {
        if bytes.len() >= BATCH_HEADER_BYTES {
            if honest_header {
                let head = BatchHead {
                    partition: PartitionId(1), epoch: Epoch(1), lsn: Lsn(1),
                    entries: u32::from(bytes[0]) + 1, bytes: (bytes.len() - BATCH_HEADER_BYTES) as u32,
                };
                bytes[..BATCH_HEADER_BYTES].copy_from_slice(&head.to_bytes());
            }
            if honest_checksum { check_in(&mut bytes); }
        }
        if let Ok(batch) = Batch::parse(&bytes) {
            prop_assert_eq!(batch.entries().count(), batch.head.entries as usize);
        }
    }

    #[test]
    fn a_damaged_batch_with_a_mended_checksum_parses_or_fails_and_never_panics(
        damage in prop::collection::vec((0usize..400, any::<u8>()), 1..6),
    ) {
        let mut bytes = encode(&sample_entries());
        let length = bytes.len();
        for (at, value) in damage { bytes[at % length] = value; }
        check_in(&mut bytes);
        if let Ok(batch) = Batch::parse(&bytes) {
            prop_assert_eq!(batch.entries().count(), batch.head.entries as usize);
        }
    }
}
