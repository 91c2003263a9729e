//! Questions with one answer: how many rows, which rows next.

use super::engine::{Engine, Outgoing};
use super::error::Error;
use super::slots::SlotId;
use crate::lane::{Fabric, LaneId};
use crate::wire::ids::{PartitionId, RequestId, TableId};
use crate::wire::{HEADER_BYTES, Header, Kind};

/// Reply space of an answer: a piece of at most 64 KiB and its header.
const ANSWER_BYTES: usize = HEADER_BYTES + (64 << 10);

pub(super) struct AskState {
    kind: Kind,
    table: TableId,
    pub(super) partition: PartitionId,
    body: Vec<u8>,
    /// The link it was sent on.
    sent: Option<usize>,
    /// The answer's payload.
    pub(super) answer: Option<Vec<u8>>,
}

impl<F: Fabric> Engine<F> {
    pub(super) fn start_ask(
        &mut self,
        kind: Kind,
        table: TableId,
        partition: PartitionId,
        body: &[u8],
    ) -> SlotId {
        let ask = self.asks.insert(AskState {
            kind,
            table,
            partition,
            body: body.to_vec(),
            sent: None,
            answer: None,
        });
        let link = self.routes[partition.0 as usize].link;
        self.links[link].queue.push_back(Outgoing::Ask(ask));
        self.send_queued();
        ask
    }

    pub(super) fn transmit_ask(&mut self, index: usize, lane: LaneId, ask: SlotId) -> bool {
        let Some(state) = self.asks.get(ask) else {
            self.links[index].queue.pop_front();
            return true;
        };
        let header = Header {
            session: self.session,
            request: RequestId(ask.to_wire()),
            epoch: self.routes[state.partition.0 as usize].flow.epoch,
            shard: self.links[index].shard,
            table: state.table,
            partition: state.partition,
            ..Header::new(state.kind, state.body.len() as u32)
        };
        let body = state.body.clone();
        if !self.write(index, lane, &[&header.to_bytes(), &body], ANSWER_BYTES) {
            return false;
        }
        self.links[index].queue.pop_front();
        if let Some(state) = self.asks.get_mut(ask) {
            state.sent = Some(index);
        }
        true
    }

    pub(super) fn on_answer(&mut self, lane: LaneId, index: usize, header: &Header) -> Result<(), Error> {
        self.take_payload(lane, header);
        let state = self.asks.get_mut(SlotId::from_wire(header.request.0));
        // An answer that a former head still gives is not waited for, nor is there space set aside for it.
        if state.as_ref().is_some_and(|state| state.sent != Some(index)) {
            return Ok(());
        }
        if let Some(state) = state {
            state.answer = Some(std::mem::take(&mut self.scratch));
        }
        self.release(index, ANSWER_BYTES);
        Ok(())
    }

    /// The lane of a link is gone: its questions are asked again under new names.
    pub(super) fn requeue_asks(&mut self, index: usize) {
        let asks: Vec<SlotId> = self.asks.ids().collect();
        for ask in asks {
            let Some(state) = self.asks.get_mut(ask) else { continue };
            if state.answer.is_none() && self.routes[state.partition.0 as usize].link == index {
                state.sent = None;
                self.links[index].queue.push_back(Outgoing::Ask(ask));
            }
        }
    }

    /// A partition has another head: its questions go there.
    pub(super) fn move_asks(&mut self, partition: PartitionId, former: usize) {
        let head = self.routes[partition.0 as usize].link;
        let asks: Vec<SlotId> = self.asks.ids().collect();
        for ask in asks {
            let Some(state) = self.asks.get_mut(ask) else { continue };
            if state.partition != partition || state.answer.is_some() || state.sent == Some(head) {
                continue;
            }
            if state.sent.take().is_some() {
                self.release(former, ANSWER_BYTES);
            }
            self.links[head].queue.push_back(Outgoing::Ask(ask));
        }
    }
}
