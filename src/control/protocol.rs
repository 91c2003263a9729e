//! Messages as bytes: a frame around JSON. Total both ways.

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::cluster::message::{FromCoordinator, ToCoordinator};
use crate::wire::control_frame::{self, FrameError};

/// Why bytes are no message.
#[derive(Debug, Error)]
pub enum ProtocolError {
    /// No frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame of something else.
    #[error("a control message cannot be read: {0}; client and server builds may differ")]
    Message(#[from] serde_json::Error),
}

/// A message of one of the two directions.
pub trait Message: Serialize + DeserializeOwned {}
impl Message for ToCoordinator {}
impl Message for FromCoordinator {}

/// A message that came, and who sent it.
#[derive(Clone, Debug, PartialEq)]
pub struct Received<M> {
    /// The sender's cluster; 0 while it knows none.
    pub cluster: u64,
    /// The term as it knows it.
    pub term: u64,
    /// What it said.
    pub message: M,
    /// Bytes it took.
    pub bytes: usize,
}

/// The bytes of a message.
///
/// # Errors
/// [`ProtocolError`]: longer than a message may be.
pub fn encode<M: Message>(cluster: u64, term: u64, message: &M) -> Result<Vec<u8>, ProtocolError> {
    let body = serde_json::to_vec(message)?;
    Ok(control_frame::encode(cluster, term, &body)?)
}

/// The first message in `bytes`; none while some of it is missing.
///
/// # Errors
/// [`ProtocolError`]: no message begins so. The connection is of no use any more.
pub fn decode<M: Message>(bytes: &[u8]) -> Result<Option<Received<M>>, ProtocolError> {
    let Some(frame) = control_frame::decode(bytes)? else { return Ok(None) };
    let message = serde_json::from_slice(frame.body)?;
    Ok(Some(Received { cluster: frame.cluster, term: frame.term, message, bytes: frame.bytes() }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::message::{ClientHello, Request};
    use crate::wire::ids::SessionId;

    fn messages() -> impl Strategy<Value = ToCoordinator> {
        let hello = (any::<u64>(), ".{0,20}", prop::collection::vec(any::<u64>(), 0..5)).prop_map(
            |(client, process, sessions)| {
                let sessions = sessions.into_iter().map(SessionId).collect();
                ToCoordinator::Client(ClientHello { client, process, sessions })
            },
        );
        let request = prop_oneof![
            Just(Request::BeginSession),
            Just(Request::Status),
            any::<u64>().prop_map(|session| Request::EndSession { session: SessionId(session) }),
            (".{0,20}", any::<u64>(), any::<u64>()).prop_map(|(name, count, caller)| Request::Barrier {
                name,
                count,
                caller
            }),
            ".{0,20}".prop_map(|name| Request::DropTable { name }),
        ];
        let request = (any::<u64>(), any::<u64>(), request)
            .prop_map(|(id, deadline_ms, request)| ToCoordinator::Request { id, deadline_ms, request });
        prop_oneof![hello, request, Just(ToCoordinator::Heartbeat)]
    }

    proptest! {
        #[test]
        fn a_message_reads_back(cluster in any::<u64>(), term in any::<u64>(), message in messages()) {
            let bytes = encode(cluster, term, &message).unwrap();
            let received = decode::<ToCoordinator>(&bytes).unwrap().unwrap();
            prop_assert_eq!((received.cluster, received.term, received.bytes), (cluster, term, bytes.len()));
            prop_assert_eq!(received.message, message);
        }

        #[test]
        fn no_body_makes_the_reader_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let frame = control_frame::encode(1, 1, &body).unwrap();
            let _ = decode::<ToCoordinator>(&frame);
            let _ = decode::<FromCoordinator>(&frame);
        }

        #[test]
        fn a_changed_body_is_refused_or_another_message(message in messages(), at in any::<usize>(), byte in any::<u8>()) {
            let mut body = serde_json::to_vec(&message).unwrap();
            let at = at % body.len();
            body[at] = byte;
            let frame = control_frame::encode(1, 1, &body).unwrap();
            if let Ok(Some(received)) = decode::<ToCoordinator>(&frame) {
                let again = encode(1, 1, &received.message).unwrap();
                prop_assert_eq!(decode::<ToCoordinator>(&again).unwrap().unwrap().message, received.message);
            }
        }
    }

    #[test]
    fn a_field_nobody_knows_is_refused() {
        let frame =
            control_frame::encode(1, 1, br#"{"client":{"client":1,"process":"","sessions":[],"more":1}}"#);
        assert!(matches!(decode::<ToCoordinator>(&frame.unwrap()), Err(ProtocolError::Message(_))));
    }

    #[test]
    fn json_nested_without_end_is_refused() {
        let frame = control_frame::encode(1, 1, &[b'['; 1 << 20]).unwrap();
        assert!(matches!(decode::<ToCoordinator>(&frame), Err(ProtocolError::Message(_))));
    }
}
