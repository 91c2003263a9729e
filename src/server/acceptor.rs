use super::thread::ShardHandle;
use crate::cluster::ControlError;
use crate::lane::LaneEnd;
use crate::wire::ids::ShardId;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
pub(super) struct Acceptor;
impl Acceptor {
    pub(super) fn start(_: u64, _: usize, _: Duration, _: Vec<ShardHandle>) -> Result<Self, ControlError> {
        todo!()
    }
    pub(super) fn address(&self) -> SocketAddr {
        todo!()
    }
    pub(super) fn connect(&self, _: ShardId) -> Result<LaneEnd, ControlError> {
        todo!()
    }
    pub(super) fn stop(self, _: Instant) -> Result<(), ControlError> {
        todo!()
    }
}
