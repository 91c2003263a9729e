//! The way to one shard. Its lane is opened by a thread that lives as long as that takes, at most one a link, so that
//! no turn waits for a server that is stopped; and closed once no partition is reached by it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::engine::{Engine, Outgoing, Route};
use crate::lane::{Fabric, LaneEnd, LaneId};
use crate::wire::ids::{PartitionId, ShardId};

/// First wait before a lane is opened again; doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(5);
const MAX_BACKOFF: Duration = Duration::from_millis(500);

/// The way to one shard.
pub(super) struct Link {
    pub(super) shard: ShardId,
    pub(super) lane: Option<LaneId>,
    pub(super) queue: VecDeque<Outgoing>,
    /// Bytes of this side's inbox that replies to pulls and questions may take.
    pub(super) reserved: usize,
    /// The last pull or question that was not sent waits for that space, and for nothing else.
    pub(super) short_of_space: bool,
    /// Pushes and clocks whose outcomes have not come: what the flows that are reached by it have sent.
    pub(super) pushes_out: usize,
    /// Not before then.
    pub(super) connect_at: Option<Instant>,
    /// A thread is opening its lane.
    dialing: bool,
    /// No lane was ever asked for.
    untried: bool,
    backoff: Duration,
    pub(super) last_error: Option<String>,
}

impl Link {
    pub(super) fn new(shard: ShardId) -> Self {
        Self {
            shard,
            lane: None,
            queue: VecDeque::new(),
            reserved: 0,
            short_of_space: false,
            pushes_out: 0,
            connect_at: None,
            dialing: false,
            untried: true,
            backoff: MIN_BACKOFF,
            last_error: None,
        }
    }

    /// A partition has come to it: what failed before counts no more.
    pub(super) fn hurry(&mut self) {
        self.connect_at = None;
        self.backoff = MIN_BACKOFF;
    }

    fn failed(&mut self, error: String) {
        self.last_error = Some(error);
        self.connect_at = Some(Instant::now() + self.backoff);
        self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
    }
}

/// What a thread that opened a lane brings back.
struct Dialed {
    link: usize,
    first: bool,
    end: Result<LaneEnd, String>,
}

/// The threads that open lanes.
pub(super) struct Dialer {
    results: Sender<Dialed>,
    dialed: Receiver<Dialed>,
    /// Results that have not been taken in.
    pub(super) under_way: usize,
    /// Those of links that never had a lane.
    first: usize,
}

impl Dialer {
    pub(super) fn new() -> Self {
        let (results, dialed) = unbounded();
        Self { results, dialed, under_way: 0, first: 0 }
    }

    /// Whether a first lane is being opened: what is queued behind it leaves in moments.
    pub(super) fn opens_first(&self) -> bool {
        self.first > 0
    }

    /// Those that are being opened now have taken long; nobody waits for them again.
    pub(super) fn forget_first(&mut self) {
        self.first = 0;
    }
}

impl<F: Fabric> Engine<F> {
    /// The link's lane. Without one it is being opened from here on, if that is due.
    pub(super) fn lane(&mut self, index: usize) -> Option<LaneId> {
        let link = &self.links[index];
        if link.lane.is_none() && !link.dialing && link.connect_at.is_none_or(|at| at <= Instant::now()) {
            self.dial(index);
        }
        self.links[index].lane
    }

    fn dial(&mut self, index: usize) {
        let link = &mut self.links[index];
        let first = std::mem::replace(&mut link.untried, false);
        let (session, shard) = (self.session, link.shard);
        let (control, waker) = (Arc::clone(&self.control), self.fabric.waker());
        let results = self.dialer.results.clone();
        let started = std::thread::Builder::new().name("gradwire-dial".into()).spawn(move || {
            let end = control.connect(session, shard).map_err(|error| error.to_string());
            // Before the result is known, so that who hears of it is not outlived by the cluster.
            drop(control);
            results.send(Dialed { link: index, first, end }).ok();
            waker.wake();
        });
        match started {
            Ok(_) => {
                link.dialing = true;
                link.connect_at = None;
                self.dialer.under_way += 1;
                self.dialer.first += usize::from(first);
            }
            Err(error) => link.failed(format!("no thread could be started to open a lane: {error}")),
        }
    }

    /// Takes in lanes that were opened, and failures.
    pub(super) fn take_dialed(&mut self) {
        while let Ok(Dialed { link: index, first, end }) = self.dialer.dialed.try_recv() {
            self.dialer.under_way -= 1;
            self.dialer.first = self.dialer.first.saturating_sub(usize::from(first));
            let wanted = !self.links[index].queue.is_empty()
                || self.routes.iter().any(|route| route.link == index || route.tail_link == index);
            self.links[index].dialing = false;
            if !wanted {
                continue;
            }
            let adopted = end.and_then(|end| self.fabric.adopt(end).map_err(|error| error.to_string()));
            let link = &mut self.links[index];
            match adopted {
                Ok(lane) => {
                    link.lane = Some(lane);
                    link.hurry();
                }
                Err(error) => link.failed(error),
            }
        }
    }

    /// Gives a lane up; what went over it is sent again on the next.
    pub(super) fn close(&mut self, lane: LaneId, reason: &str) {
        let Some(index) = self.links.iter().position(|link| link.lane == Some(lane)) else { return };
        self.hang_up(index);
        let link = &mut self.links[index];
        link.last_error = Some(reason.to_owned());
        link.connect_at = Some(Instant::now() + link.backoff);
        self.delayed.retain(|delayed| self.routes[delayed.partition.0 as usize].link != index);
        // Everything unresolved goes again, in order, on the next lane; servers drop what they have (C3).
        for partition in 0..self.routes.len() {
            if self.routes[partition].link == index {
                self.routes[partition].flow.rewind();
                self.requeue_all(PartitionId(partition as u32));
            }
        }
        self.requeue_pulls(index);
        self.requeue_asks(index);
    }

    /// Ends a link's lane and forgets what was queued for it and promised to it.
    pub(super) fn hang_up(&mut self, index: usize) {
        let link = &mut self.links[index];
        link.reserved = 0;
        link.pushes_out = 0;
        link.queue.clear();
        if let Some(lane) = link.lane.take()
            && let Err(error) = self.fabric.fence(lane)
        {
            tracing::debug!(%error, "a lane was closed before it was fenced");
        }
    }

    /// Why nothing moves, for a deadline's error: which partition waits for which server, and what is known of it.
    pub(super) fn cause(&self) -> Option<String> {
        for (index, link) in self.links.iter().enumerate().filter(|(_, link)| link.lane.is_none()) {
            let Some(error) = &link.last_error else { continue };
            let waits = |route: &Route| {
                route.link == index && (route.flow.unresolved() > 0 || !link.queue.is_empty())
                    || route.tail_link == index && !link.queue.is_empty()
            };
            if let Some(partition) = self.routes.iter().position(waits) {
                return Some(format!(
                    "partition {partition} waits for server thread {}: {error}",
                    link.shard
                ));
            }
        }
        if let Some(waiting) = self.waiting_pulls.first() {
            return Some(format!("partition {}: its server may not answer now", waiting.partition));
        }
        let heard = |(_, route): &(usize, &Route)| route.heard;
        let silent = self.routes.iter().enumerate().filter(|(_, route)| route.flow.awaits_outcome());
        let (partition, route) = silent.min_by_key(heard)?;
        let (shard, since) = (self.links[route.link].shard, route.heard.elapsed());
        Some(format!("partition {partition} has heard nothing from server thread {shard} for {since:.1?}"))
    }
}
