//! Walks the records of a gathered write without copying them.

use gradwire_ffi::sync::Tally;

use crate::wire::{HEADER_BYTES, padded};

/// Where a header keeps its payload's length; pinned by a test here.
const LENGTH_OFFSET: usize = 12;

/// Bytes of the record that opens with `header`.
#[inline]
pub(super) fn record_bytes(header: &[u8]) -> usize {
    let length = [0, 1, 2, 3].map(|at| header[LENGTH_OFFSET + at]);
    HEADER_BYTES + padded(u32::from_le_bytes(length) as usize)
}

/// What a write is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Measure {
    pub(super) tally: Tally,
    pub(super) largest: usize,
}

/// Calls `record` with the length of each record in `parts`.
///
/// # Panics
/// When `parts` are not whole records, or a header is split.
#[inline]
fn each_record(parts: &[&[u8]], mut record: impl FnMut(usize)) {
    let mut missing = 0;
    for part in parts {
        let mut rest = *part;
        while !rest.is_empty() {
            if missing == 0 {
                assert!(rest.len() >= HEADER_BYTES, "a header is split over the parts of a write");
                missing = record_bytes(rest);
                record(missing);
            }
            let here = missing.min(rest.len());
            missing -= here;
            rest = &rest[here..];
        }
    }
    assert!(missing == 0, "a write ends {missing} bytes before its last record does");
}

/// Measures a write.
#[inline]
pub(super) fn measure(parts: &[&[u8]]) -> Measure {
    let mut measure = Measure { tally: Tally::default(), largest: 0 };
    each_record(parts, |bytes| {
        measure.tally.bytes += bytes as u64;
        measure.tally.records += 1;
        measure.largest = measure.largest.max(bytes);
    });
    measure
}

/// Bytes after the first `sent` until the next record begins, or the write ends.
pub(super) fn to_next_record(parts: &[&[u8]], sent: usize) -> usize {
    let mut boundary = 0;
    each_record(parts, |bytes| {
        if boundary < sent {
            boundary += bytes;
        }
    });
    boundary - sent
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Header, Kind};

    #[test]
    fn records_are_counted_whatever_the_parts_they_come_in() {
        let first = Header::new(Kind::Push, 5).to_bytes();
        let second = Header::new(Kind::Pull, 0).to_bytes();
        let tail = [0u8; 8];
        let joined = [&tail[2..], &second].concat();
        let parts: [&[u8]; 4] = [&first, &tail[..2], &joined, &[]];
        let measured = measure(&parts);
        assert_eq!(measured, Measure { tally: Tally { bytes: 168, records: 2 }, largest: 88 });
        for (sent, rest) in [(0, 0), (1, 87), (88, 0), (89, 79), (168, 0)] {
            assert_eq!(to_next_record(&parts, sent), rest, "{sent}");
        }
    }

    #[test]
    #[should_panic(expected = "before its last record does")]
    fn half_a_record_is_the_callers_bug() {
        measure(&[&Header::new(Kind::Push, 8).to_bytes()]);
    }
}
