//! What must hold of any bytes that a peer sends: the entry point of the fuzz target in `fuzz/`, and of the property here.

use super::header::HEADER_BYTES;
use super::{CountBody, ExportBody, Header, OutcomeBody, PullBody, PullReplyBody, PushBody, RetryBody};

/// Where a header's own check is: its last four bytes.
const CHECK: usize = HEADER_BYTES - 4;

/// Reads `bytes` as a record: a header, as it is and with its check set right, then a payload as every body.
///
/// Panics when a header that was read is not the one its bytes say.
pub fn records(bytes: &[u8]) {
    let Some((header, payload)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return };
    let mut checked = *header;
    let check = gradwire_kernels::crc32c(gradwire_kernels::Isa::active(), 0, &header[..CHECK]);
    checked[CHECK..].copy_from_slice(&check.to_le_bytes());
    for bytes in [header, &checked] {
        if let Ok(read) = Header::read(bytes) {
            let again = Header::read(&read.to_bytes());
            assert_eq!(again.as_ref(), Ok(&read), "a header does not survive being written");
        }
    }
    // Total: a body or an error, never a panic, and never more bytes than there are.
    let after = |rest: Option<usize>| assert!(rest.is_none_or(|rest| rest <= payload.len()));
    after(PushBody::split(payload).ok().map(|(_, rest)| rest.len()));
    after(PullBody::split(payload).ok().map(|(_, rest)| rest.len()));
    after(PullReplyBody::split(payload).ok().map(|(_, rest)| rest.len()));
    after(OutcomeBody::split(payload).ok().map(|(_, rest)| rest.len()));
    after(RetryBody::split(payload).ok().map(|(_, rest)| rest.len()));
    after(CountBody::split(payload).ok().map(|(_, rest)| rest.len()));
    after(ExportBody::split(payload).ok().map(|(_, rest)| rest.len()));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Kind, WIRE_VERSION};
    use super::*;

    proptest! {
        #[test]
        fn any_record_is_read_or_refused(
            kind in 0u16..40,
            length in any::<u32>(),
            rest in proptest::collection::vec(any::<u8>(), 0..200),
            damaged in proptest::option::of((0..HEADER_BYTES, any::<u8>())),
        ) {
            let kind = Kind::from_wire(kind).unwrap_or(Kind::Push);
            let mut bytes = Header::new(kind, length).to_bytes().to_vec();
            prop_assert_eq!(bytes[4..6].to_vec(), WIRE_VERSION.to_le_bytes().to_vec());
            if let Some((at, byte)) = damaged {
                bytes[at] = byte;
            }
            bytes.extend(rest);
            records(&bytes);
        }
    }
}
