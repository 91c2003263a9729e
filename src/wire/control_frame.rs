//! Frames of control connections: where a message begins and ends, whose it is, and that it is whole.
//!
//! 32 bytes, little-endian: magic `GWCT`, version u16, zero u16, body bytes u32, crc32c u32 (of all other bytes of the
//! frame), cluster id u64 (0: not known yet), term u64; then the body. The reader is total and says as early as it
//! can that bytes are no frame: nothing is set aside for a length that was not checked.

use gradwire_kernels::{Isa, crc32c};
use thiserror::Error;

/// Opens every frame.
pub const CONTROL_MAGIC: [u8; 4] = *b"GWCT";
/// Version of the frames and of the messages in them.
pub const CONTROL_VERSION: u16 = 1;
/// Bytes before the body.
pub const FRAME_BYTES: usize = 32;
/// Largest body: the map of 65,536 partitions takes 2 MiB, the rest is for reports.
pub const MAX_BODY_BYTES: usize = 16 << 20;

const CRC_AT: usize = 12;

/// One whole frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The sender's cluster; 0 while it knows none.
    pub cluster: u64,
    /// The coordinator's term as the sender knows it; 0 while it knows none.
    pub term: u64,
    /// The message.
    pub body: &'a [u8],
}

impl Frame<'_> {
    /// Bytes of the whole frame.
    #[must_use]
    pub fn bytes(&self) -> usize {
        FRAME_BYTES + self.body.len()
    }
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Something else speaks.
    #[error("this is not gradwire's control protocol; check the address")]
    Magic,
    /// Another version of this program.
    #[error("control protocol version {found}, this build speaks {CONTROL_VERSION}; upgrade the older side")]
    Version {
        /// Its version.
        found: u16,
    },
    /// A field that is always zero is not.
    #[error("a reserved field of a control frame is {found:#x}; upgrade this side")]
    Reserved {
        /// Its value.
        found: u16,
    },
    /// Longer than any message is.
    #[error("a control message of {found} bytes, the limit is {MAX_BODY_BYTES}")]
    Length {
        /// Bytes of the body.
        found: u64,
    },
    /// Changed on its way.
    #[error("a control message's checksum is wrong; it was damaged on its way")]
    Crc,
}

fn sum(head: &[u8], body: &[u8]) -> u32 {
    let isa = Isa::active();
    let before = crc32c(isa, 0, &head[..CRC_AT]);
    crc32c(isa, crc32c(isa, before, &head[CRC_AT + 4..FRAME_BYTES]), body)
}

/// The frame of a message.
///
/// # Errors
/// [`FrameError::Length`].
pub fn encode(cluster: u64, term: u64, body: &[u8]) -> Result<Vec<u8>, FrameError> {
    if body.len() > MAX_BODY_BYTES {
        return Err(FrameError::Length { found: body.len() as u64 });
    }
    let mut frame = Vec::with_capacity(FRAME_BYTES + body.len());
    frame.extend_from_slice(&CONTROL_MAGIC);
    frame.extend_from_slice(&CONTROL_VERSION.to_le_bytes());
    frame.extend_from_slice(&[0; 2]);
    frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(&cluster.to_le_bytes());
    frame.extend_from_slice(&term.to_le_bytes());
    let crc = sum(&frame, body);
    frame[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    frame.extend_from_slice(body);
    Ok(frame)
}

/// The first frame in `bytes`; none while some of it is missing.
///
/// # Errors
/// [`FrameError`]: no frame begins so, whatever follows.
pub fn decode(bytes: &[u8]) -> Result<Option<Frame<'_>>, FrameError> {
    let seen = bytes.len().min(CONTROL_MAGIC.len());
    if bytes[..seen] != CONTROL_MAGIC[..seen] {
        return Err(FrameError::Magic);
    }
    let Some(version) = number::<2>(bytes, 4).map(u16::from_le_bytes) else { return Ok(None) };
    if version != CONTROL_VERSION {
        return Err(FrameError::Version { found: version });
    }
    let Some(reserved) = number::<2>(bytes, 6).map(u16::from_le_bytes) else { return Ok(None) };
    if reserved != 0 {
        return Err(FrameError::Reserved { found: reserved });
    }
    let Some(length) = number::<4>(bytes, 8).map(u32::from_le_bytes) else { return Ok(None) };
    if length as usize > MAX_BODY_BYTES {
        return Err(FrameError::Length { found: u64::from(length) });
    }
    let Some(whole) = bytes.get(..FRAME_BYTES + length as usize) else { return Ok(None) };
    let (head, body) = whole.split_at(FRAME_BYTES);
    if number::<4>(head, CRC_AT).map(u32::from_le_bytes) != Some(sum(head, body)) {
        return Err(FrameError::Crc);
    }
    let word = |at| number::<8>(head, at).map_or(0, u64::from_le_bytes);
    Ok(Some(Frame { cluster: word(16), term: word(24), body }))
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_peer_that_speaks_something_else_is_known_by_its_first_byte() {
        assert_eq!(decode(b"G"), Ok(None));
        assert_eq!(decode(b"GET / HTTP/1.1\r\n"), Err(FrameError::Magic));
        assert_eq!(decode(b"\x16\x03"), Err(FrameError::Magic));
    }

    #[test]
    fn four_gibibytes_are_refused_before_they_come() {
        let mut frame = encode(1, 2, b"").unwrap();
        frame[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decode(&frame[..12]), Err(FrameError::Length { found: u64::from(u32::MAX) }));
    }

    #[test]
    fn another_version_is_named() {
        let mut frame = encode(1, 2, b"x").unwrap();
        frame[4] = 9;
        assert_eq!(decode(&frame[..6]), Err(FrameError::Version { found: 9 }));
    }

    proptest! {
        #[test]
        fn a_frame_reads_back_and_every_part_of_it_waits_for_more(
            cluster in any::<u64>(), term in any::<u64>(), body in prop::collection::vec(any::<u8>(), 0..200),
            more in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let mut bytes = encode(cluster, term, &body).unwrap();
            for cut in 0..bytes.len() {
                prop_assert_eq!(decode(&bytes[..cut]), Ok(None));
            }
            bytes.extend_from_slice(&more);
            let frame = decode(&bytes).unwrap().unwrap();
            prop_assert_eq!((frame.cluster, frame.term, frame.body), (cluster, term, &body[..]));
            prop_assert_eq!(frame.bytes() + more.len(), bytes.len());
        }

        #[test]
        fn a_changed_frame_is_never_taken(body in prop::collection::vec(any::<u8>(), 0..100), at in any::<usize>(), bit in 0u8..8) {
            let mut bytes = encode(3, 4, &body).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(!matches!(decode(&bytes), Ok(Some(_))));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..100), whole in any::<bool>()) {
            if whole && bytes.len() >= 6 {
                bytes[..4].copy_from_slice(&CONTROL_MAGIC);
                bytes[4..6].copy_from_slice(&CONTROL_VERSION.to_le_bytes());
            }
            let _ = decode(&bytes);
        }
    }
}
