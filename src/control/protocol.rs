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
