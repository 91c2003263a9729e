//! All processes, what is between them, and what may happen next.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use gradwire::wire::ids::{Epoch, SessionId};

use super::authority::Authority;
use super::checks;
use super::client::{Client, Reading};
use super::faults::Fault;
use super::message::{Chain, Hold, Message, Network, Who};
use super::node::{Node, Sends};

/// How large, and what may go wrong how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Size {
    pub(crate) nodes: u8,
    /// The first chain has so many.
    pub(crate) members: u8,
    pub(crate) clients: u8,
    /// Of them, those that begin later.
    pub(crate) late: u8,
    pub(crate) pushes: u16,
    /// Every so many-th push is refused by the store; 0: none.
    pub(crate) bad_every: u16,
    pub(crate) window: usize,
    pub(crate) reads: u16,
    pub(crate) seals_at_once: bool,
    pub(crate) budget: Budget,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    pub(crate) crashes: u8,
    pub(crate) suspicions: u8,
    pub(crate) joins: u8,
    pub(crate) resends: u8,
    pub(crate) cuts: u8,
    pub(crate) ends: u8,
}

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// The oldest message between the two arrives.
    Deliver(Who, Who),
    Begin(u8),
    Send(u8),
    Read(u8),
    /// A client that waits finds its head at its own epoch.
    Resume(u8),
    Seal(u8),
    /// A dead process is out of the chain.
    Bury(u8),
    Crash(u8),
    /// Nothing was heard of a living one until its lease had lapsed: it is out.
    Suspect(u8),
    Join(u8),
    /// A client heard nothing for long.
    Resend(u8),
    /// A lane between servers breaks and is made anew.
    Cut(u8, u8),
    End(u8),
}

impl Event {
    /// Whether it is nobody's plan.
    pub(crate) fn is_trouble(self) -> bool {
        use Event::{Crash, Cut, End, Join, Resend, Suspect};
        matches!(self, Crash(_) | Suspect(_) | Join(_) | Resend(_) | Cut(..) | End(_))
    }
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) size: Size,
    pub(crate) fault: Fault,
    pub(crate) nodes: Vec<Arc<Node>>,
    pub(crate) clients: Vec<Client>,
    pub(crate) authority: Authority,
    pub(crate) network: Network,
    pub(crate) budget: Budget,
    /// The longest answer to a strong read so far: all answers are prefixes of each other.
    pub(crate) longest_read: Vec<u16>,
    /// For each push in flight or done, what was acknowledged to anybody before it was first sent.
    pub(crate) sent_after: Vec<(u16, Vec<u16>)>,
    /// The first thing that went wrong.
    pub(crate) wrong: Option<String>,
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for node in &self.nodes {
            node.digest().hash(state);
        }
        (&self.clients, &self.authority, &self.network, self.budget).hash(state);
        (&self.longest_read, &self.sent_after, &self.wrong).hash(state);
    }
}

impl World {
    pub(crate) fn new(size: Size, fault: Fault) -> Self {
        let members: Vec<u8> = (0..size.members).collect();
        let chain = Chain { epoch: Epoch(1), members, joiner: None, unsynced: false };
        let all: Vec<SessionId> = (1..=u64::from(size.clients)).map(SessionId).collect();
        let (sessions, late) = all.split_at(all.len() - usize::from(size.late));
        let last_session = sessions.last().copied().unwrap_or_default();
        let work = |client: u16| {
            let id = move |push| client * 100 + push;
            let bad = move |push: u16| size.bad_every > 0 && push.is_multiple_of(size.bad_every);
            (1..=size.pushes).map(|push| (id(push), bad(push))).collect::<Vec<_>>()
        };
        let clients = all.iter().map(|&session| {
            let work = work(session.0 as u16);
            let mut client = Client::new(session, chain.clone(), work, size.window, size.reads);
            client.started = !late.contains(&session);
            client
        });
        let nodes = (0..size.nodes).map(|id| {
            let mut node = Node::new(id, size.seals_at_once);
            if id < size.members {
                node.begin(&chain);
            }
            node.settle_digest();
            Arc::new(node)
        });
        let mut world = Self {
            size,
            fault,
            nodes: nodes.collect(),
            clients: clients.collect(),
            authority: Authority {
                chain,
                sessions: sessions.to_vec(),
                ended: Vec::new(),
                last_session,
                beginning: None,
            },
            network: Network::default(),
            budget: size.budget,
            longest_read: Vec::new(),
            sent_after: Vec::new(),
            wrong: None,
        };
        // Everybody knows the first chain; the handshakes are under way.
        for node in 0..size.members {
            let hold = world.hold(false);
            world.at_node(node, Who::Coordinator, hold);
        }
        world
    }

    fn identity(&self) -> impl PartialEq + '_ {
        let nodes: Vec<u64> = self.nodes.iter().map(|node| node.digest()).collect();
        let seen = (&self.longest_read, &self.sent_after, &self.wrong);
        (nodes, &self.clients, &self.authority, &self.network, self.budget, seen)
    }

    /// Everything that may happen now.
    pub(crate) fn events(&self, events: &mut Vec<Event>) {
        if self.wrong.is_some() {
            return;
        }
        events.extend(self.network.busy().map(|(from, to)| Event::Deliver(from, to)));
        for (index, client) in (0..).zip(&self.clients) {
            let is_next = client.session == SessionId(self.authority.last_session.0 + 1);
            if is_next && self.authority.beginning.is_none() {
                events.push(Event::Begin(index));
            }
            if client.can_send() {
                events.push(Event::Send(index));
            }
            if client.started && client.reads_left > 0 && client.reading.is_none() && !client.ended {
                events.push(Event::Read(index));
            }
            // Any earlier it would only be told so again.
            let head = &self.nodes[client.chain.head() as usize];
            if client.waits && head.up && head.chain.epoch == client.chain.epoch {
                events.push(Event::Resume(index));
            }
            if self.budget.resends > 0 && client.awaits_outcome() && !client.ended {
                events.push(Event::Resend(index));
            }
            if self.budget.ends > 0 && client.started && self.authority.sessions.contains(&client.session) {
                events.push(Event::End(index));
            }
        }
        for node in self.nodes.iter() {
            self.node_events(node, events);
        }
    }

    fn node_events(&self, node: &Node, events: &mut Vec<Event>) {
        let id = node.id;
        let can_remove = self.authority.can_remove(id);
        if !node.up {
            if can_remove {
                events.push(Event::Bury(id));
            }
            return;
        }
        if node.is_open {
            events.push(Event::Seal(id));
        }
        // The last survivor's death is no failover: that partition waits (C7).
        let is_needed =
            self.authority.chain.survivors() == [id] || self.living_survivors().all(|other| other == id);
        if self.budget.crashes > 0 && !is_needed {
            events.push(Event::Crash(id));
        }
        // Not in favour of one that is silent as well.
        if self.budget.suspicions > 0 && can_remove && self.living_survivors().any(|other| other != id) {
            events.push(Event::Suspect(id));
        }
        if self.budget.joins > 0 && self.authority.can_join(id) {
            events.push(Event::Join(id));
        }
        if self.budget.cuts > 0
            && let Some(next) = node.chain.downstream(id)
        {
            events.push(Event::Cut(id, next));
        }
    }

    fn living_survivors(&self) -> impl Iterator<Item = u8> + '_ {
        let survivors = self.authority.chain.survivors().iter().copied();
        survivors.filter(|&member| self.nodes[member as usize].up)
    }

    pub(crate) fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver(from, to) => self.deliver(from, to),
            Event::Begin(index) => self.begin(index),
            Event::Send(index) => {
                let client = &mut self.clients[index as usize];
                let (push, head) = (client.send(), client.chain.head());
                if !self.sent_after.iter().any(|&(id, _)| id == push.id) {
                    let acked = self.acked();
                    self.sent_after.push((push.id, acked));
                }
                self.send(Who::Client(index), Who::Node(head), Message::Push(push));
            }
            Event::Read(index) => self.read(index),
            Event::Resume(index) => self.clients[index as usize].waits = false,
            Event::Seal(id) => self.step(id, |node, fault, out| node.seal(fault, out)),
            Event::Bury(id) => self.remove(id),
            Event::Crash(id) => {
                self.budget.crashes -= 1;
                Arc::make_mut(&mut self.nodes[id as usize]).up = false;
                self.network.cut_all_to(Who::Node(id));
                self.step(id, |_, _, _| {});
                self.forget_readings();
                self.knows(id);
            }
            Event::Suspect(id) => {
                self.budget.suspicions -= 1;
                self.remove(id);
            }
            Event::Join(id) => {
                self.budget.joins -= 1;
                if self.fault == Fault::LeaseComesBackBlindly {
                    self.step(id, |node, _, _| node.lease = true);
                }
                self.authority.join(id);
                self.publish(Some(id));
            }
            Event::Resend(index) => {
                self.budget.resends -= 1;
                let fault = self.fault;
                self.clients[index as usize].rewind(fault);
            }
            Event::Cut(from, to) => {
                self.budget.cuts -= 1;
                self.network.cut(Who::Node(from), Who::Node(to));
                self.network.cut(Who::Node(to), Who::Node(from));
                for (from, to) in [(from, to), (to, from)] {
                    if self.nodes[from as usize].speaks_to(to) {
                        self.step(from, |node, _, out| node.open_lane(out));
                    }
                }
            }
            Event::End(index) => self.end(index),
        }
        if self.wrong.is_none() {
            self.wrong = checks::safety(self).err();
        }
    }

    fn deliver(&mut self, from: Who, to: Who) {
        let Some(message) = self.network.take(from, to) else { return };
        match to {
            Who::Node(id) => self.at_node(id, from, message),
            Who::Client(index) => {
                if let Message::Rows { read, rows } = message {
                    self.read_ends(index, read, rows);
                } else {
                    let fault = self.fault;
                    self.clients[index as usize].receive(message, fault);
                }
            }
            Who::Coordinator => self.at_coordinator(from, &message),
        }
    }

    fn at_node(&mut self, id: u8, from: Who, message: Message) {
        self.step(id, |node, fault, out| node.receive(from, message, fault, out));
    }

    /// One step of a node, and what it sends.
    fn step(&mut self, id: u8, act: impl FnOnce(&mut Node, Fault, &mut Sends)) {
        let mut out = Sends::new();
        let node = Arc::make_mut(&mut self.nodes[id as usize]);
        act(node, self.fault, &mut out);
        node.settle_digest();
        for (to, message) in out {
            self.send(Who::Node(id), to, message);
        }
    }

    fn send(&mut self, from: Who, to: Who, message: Message) {
        if let Who::Node(id) = to
            && !self.nodes[id as usize].up
        {
            return;
        }
        self.network.send(from, to, message);
    }

    fn at_coordinator(&mut self, from: Who, message: &Message) {
        let Who::Node(from) = from else { return };
        let now = self.authority.chain.epoch;
        let begins = self.authority.beginning.as_ref().map(|&(session, _)| session);
        match *message {
            Message::Synced { epoch } if epoch == now && self.authority.synced(from, self.fault) => {
                self.publish(None);
            }
            Message::Leave { epoch, node } if epoch == now && self.authority.can_remove(node) => {
                self.remove(node);
            }
            Message::Begun { session } if begins == Some(session) => self.knows(from),
            _ => {}
        }
    }

    /// Its lease has lapsed, then it is out.
    fn remove(&mut self, id: u8) {
        self.step(id, |node, _, _| node.lease = false);
        self.authority.remove(id);
        self.publish(None);
    }

    fn publish(&mut self, renews: Option<u8>) {
        let chain = self.authority.chain.clone();
        for id in chain.members.iter().copied().chain(chain.joiner) {
            let hold = self.hold(renews == Some(id));
            self.send(Who::Coordinator, Who::Node(id), hold);
        }
        for index in 0..self.size.clients {
            self.send(Who::Coordinator, Who::Client(index), Message::Map { chain: chain.clone() });
        }
    }

    fn hold(&self, renews: bool) -> Message {
        let Authority { chain, sessions, last_session, .. } = self.authority.clone();
        Message::Hold(Hold { chain, sessions, last_session, renews })
    }

    fn begin(&mut self, index: u8) {
        let session = self.clients[index as usize].session;
        self.authority.last_session = session;
        self.authority.sessions.push(session);
        let living = self.nodes.iter().filter(|node| node.up).map(|node| node.id);
        let living: Vec<u8> = living.collect();
        for &id in &living {
            self.send(Who::Coordinator, Who::Node(id), Message::Begin { session });
        }
        self.authority.beginning = Some((session, living));
    }

    fn knows(&mut self, node: u8) {
        if let Some(session) = self.authority.knows(node) {
            let chain = self.authority.chain.clone();
            let client = Who::Client((session.0 - 1) as u8);
            self.send(Who::Coordinator, client, Message::Welcome { chain });
        }
    }

    fn end(&mut self, index: u8) {
        self.budget.ends -= 1;
        let session = self.clients[index as usize].session;
        self.authority.sessions.retain(|&other| other != session);
        self.authority.ended.push(session);
        for id in 0..self.size.nodes {
            self.send(Who::Coordinator, Who::Node(id), Message::End { session });
        }
    }

    fn acked(&self) -> Vec<u16> {
        let mut acked: Vec<u16> = self.clients.iter().flat_map(checks::acked_of).collect();
        acked.sort_unstable();
        acked
    }

    fn read(&mut self, index: u8) {
        let reading = Reading {
            read: self.clients[index as usize].reads_left,
            acked_before: self.acked(),
            seen_before: self.longest_read.len(),
        };
        let client = &mut self.clients[index as usize];
        client.reads_left -= 1;
        let (read, epoch, tail) = (reading.read, client.chain.epoch, client.chain.tail());
        if self.nodes[tail as usize].up {
            client.reading = Some(reading);
        }
        self.send(Who::Client(index), Who::Node(tail), Message::Read { epoch, read });
    }

    fn read_ends(&mut self, index: u8, read: u16, rows: Option<Vec<u16>>) {
        let client = &mut self.clients[index as usize];
        let Some(reading) = client.reading.take_if(|reading| reading.read == read) else { return };
        let Some(rows) = rows else { return };
        if let Err(why) = checks::linearizable(&reading, &rows, &self.longest_read, &self.sent_after) {
            self.wrong.get_or_insert(why);
        }
        if rows.len() > self.longest_read.len() {
            self.longest_read = rows;
        }
    }

    /// A read whose server died is given up.
    fn forget_readings(&mut self) {
        for client in &mut self.clients {
            let tail = &self.nodes[client.chain.tail() as usize];
            client.reading.take_if(|_| !tail.up);
        }
    }
}
