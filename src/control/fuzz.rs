//! What must hold of any bytes on a control connection: the entry point of the fuzz target in `fuzz/`, and of the property
//! here.

use super::protocol::{Message, decode, encode};
use crate::cluster::message::{FromCoordinator, ToCoordinator};
use crate::wire::control_frame;

/// Reads `bytes` as a stream of messages both ways: as they are, and as the body of a good frame.
///
/// Panics when a message does not survive being written, or takes no bytes.
pub fn messages(bytes: &[u8]) {
    both_ways(bytes);
    if let Ok(frame) = control_frame::encode(1, 1, bytes) {
        both_ways(&frame);
    }
}

fn both_ways(bytes: &[u8]) {
    stream::<ToCoordinator>(bytes);
    stream::<FromCoordinator>(bytes);
}

fn stream<M: Message + PartialEq + std::fmt::Debug>(mut bytes: &[u8]) {
    while let Ok(Some(received)) = decode::<M>(bytes) {
        assert!(received.bytes > 0 && received.bytes <= bytes.len(), "a message of {} bytes", received.bytes);
        bytes = &bytes[received.bytes..];
        // A number in JSON may be longer than what reads back as the same; its second reading is the first's.
        let Ok(again) = encode(received.cluster, received.term, &received.message) else { continue };
        let again = decode::<M>(&again);
        assert!(
            matches!(&again, Ok(Some(again)) if again.message == received.message),
            "{:?} is written as {again:?}",
            received.message
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_messages_or_an_error(
            pieces in prop::collection::vec(
                prop::sample::select(&[
                    "{", "}", "[", "]", "\"", ":", ",", "0", "1", "-1", "1e999", "null", "true",
                    "\"Heartbeat\"", "\"Request\"", "\"id\":", "\"deadline_ms\":", "\"request\":", "\"Status\"",
                    "\"Client\"", "\"client\":", "\"process\":\"\"", "\"sessions\":[]",
                ][..]),
                0..30,
            ),
            noise in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            messages(pieces.concat().as_bytes());
            messages(&noise);
        }
    }

    #[test]
    fn messages_in_a_row_are_each_read() {
        let one = encode(1, 2, &ToCoordinator::Heartbeat).unwrap();
        messages(&[&one[..], &one, &one[..one.len() - 1]].concat());
    }
}
