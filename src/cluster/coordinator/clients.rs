//! Clients: their sessions, tables and barriers, and the lease they live by.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::operation::Kind;
use super::{Asker, ConnectionId, Coordinator, Output, Peer, Pending};
use crate::cluster::message::{
    Ask, ClientHello, Failure, FromCoordinator, Reply, Request, SchemaText, Welcome,
};
use crate::cluster::{Arrival, CatalogError, Opening};
use crate::wire::ids::SessionId;

/// How long servers have to report for a status; one that does not is shown without figures.
const REPORT_PATIENCE: Duration = Duration::from_secs(1);

/// Most requests of a client that wait at a time: a few for each of its threads.
const MOST_WAITING: usize = 1 << 11;

/// One client process.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) process: String,
    pub(super) connection: Option<ConnectionId>,
    pub(super) heard: Duration,
}

impl Client {
    /// One whose sessions are recorded; it has a lease to come back.
    pub(super) fn absent() -> Self {
        Self { process: String::new(), connection: None, heard: Duration::ZERO }
    }
}

/// Someone who waits at a barrier.
#[derive(Clone, Debug)]
pub(super) struct Gathered {
    asker: Asker,
    name: String,
    round: u64,
    caller: u64,
    until: Duration,
}

impl Coordinator {
    /// A client says hello, or comes back on a new connection.
    pub(super) fn join_client(&mut self, connection: ConnectionId, hello: ClientHello) {
        let ClientHello { client, process, sessions } = hello;
        if let Some(old) = self.clients.get(&client).and_then(|known| known.connection) {
            self.forget_connection(old);
            self.outputs.push(Output::Close(old));
        }
        let heard = self.clock;
        self.clients.insert(client, Client { process, connection: Some(connection), heard });
        self.connections.insert(connection, Peer::Client(client));
        let welcome = Welcome { timing: self.timing, server: None, link_key: 0 };
        self.send(connection, FromCoordinator::Welcome(welcome));
        self.publish_to(connection);
        // Sessions it does not know of were begun for a request whose answer it never got.
        let claimed: BTreeSet<SessionId> = sessions.into_iter().collect();
        for session in self.sessions_of(client).into_iter().filter(|session| !claimed.contains(session)) {
            self.end_session(session, None);
        }
    }

    fn sessions_of(&self, client: u64) -> Vec<SessionId> {
        self.sessions.iter().filter(|(_, owner)| **owner == client).map(|(session, _)| *session).collect()
    }

    pub(super) fn heard_of_client(&mut self, client: u64) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.heard = self.clock;
        }
    }

    /// A connection ended: its questions are withdrawn, its sessions live on for the lease.
    pub(super) fn lost_client(&mut self, client: u64, connection: ConnectionId) {
        if let Some(known) = self.clients.get_mut(&client)
            && known.connection == Some(connection)
        {
            known.connection = None;
            known.heard = self.clock;
        }
        self.pending.retain(|pending| pending.asker.connection != connection);
        self.forget_drains(connection);
        let left: Vec<Gathered> =
            self.gathered.extract_if(.., |waiter| waiter.asker.connection == connection).collect();
        for waiter in left {
            self.barriers.leave(&waiter.name, waiter.round, waiter.caller);
        }
    }

    /// Ends the sessions of those who have not been heard of for their lease.
    pub(super) fn judge_clients(&mut self) {
        let lease = Duration::from_millis(self.timing.client_lease_ms);
        let now = self.clock;
        let late: Vec<u64> = self
            .clients
            .iter()
            .filter(|(_, client)| now >= client.heard + lease)
            .map(|(client, _)| *client)
            .collect();
        for client in late {
            let connection = self.clients.get(&client).and_then(|client| client.connection);
            if let Some(connection) = connection {
                self.refuse(
                    connection,
                    format!(
                        "nothing was heard of this client for {lease:?}; its sessions are over, connect anew"
                    ),
                );
            }
            self.clients.remove(&client);
            for session in self.sessions_of(client) {
                self.end_session(session, None);
            }
        }
    }

    fn waiting_of(&self, connection: ConnectionId) -> usize {
        let pending = self.pending.iter().filter(|pending| pending.asker.connection == connection).count();
        let gathered = self.gathered.iter().filter(|waiter| waiter.asker.connection == connection).count();
        pending + gathered + self.operations_of(connection)
    }

    /// Takes a request: some are answered at once, the others wait until servers hold what the map says.
    pub(super) fn on_request(&mut self, pending: Pending) {
        let Pending { asker, client, request, until } = pending;
        if self.waiting_of(asker.connection) >= MOST_WAITING {
            let message = format!("{MOST_WAITING} requests of this client wait already; try again later");
            return self.answer(asker, Err(Failure::other(message)));
        }
        match request {
            Request::EndSession { session } => {
                if self.sessions.get(&session).is_some_and(|owner| *owner != client) {
                    let message = format!("session {session} belongs to another client");
                    self.answer(asker, Err(Failure::other(message)));
                } else {
                    self.end_session(session, Some((asker, until)));
                }
            }
            Request::Barrier { name, count, caller } => self.arrive(asker, name, (count, caller), until),
            Request::Job { request } => self.on_job(asker, request),
            Request::Drain { server } => self.begin_drain(asker, server, until),
            Request::Status => {
                let until = until.min(self.clock + REPORT_PATIENCE);
                let servers: Vec<_> = self
                    .servers
                    .values()
                    .filter(|s| s.connection().is_some())
                    .map(|s| s.record.server)
                    .collect();
                self.launch(Kind::Report { reports: Vec::new() }, Ask::Report, Some(asker), servers, until);
            }
            request => self.pending.push_back(Pending { asker, client, request, until }),
        }
    }

    /// Begins what can begin now. Tables are made and dropped one at a time, in order; sessions pass by them.
    pub(super) fn begin_pending(&mut self) {
        if self.pending.is_empty() || !self.is_settled() {
            return;
        }
        let mut waiting = std::mem::take(&mut self.pending);
        while let Some(pending) = waiting.pop_front() {
            let about_tables = !matches!(pending.request, Request::BeginSession);
            if about_tables && self.tables_busy() {
                self.pending.push_back(pending);
            } else {
                self.begin(pending);
            }
        }
    }

    fn begin(&mut self, pending: Pending) {
        let Pending { asker, client, request, until } = pending;
        match request {
            Request::BeginSession => {
                if let Some(loss) = self.loss() {
                    return self.answer(asker, Err(Failure::other(loss)));
                }
                let session = self.catalog.begin_session();
                self.sessions.insert(session, client);
                self.changed = true;
                let kind = Kind::Begin { session, clock: crate::wire::ids::Clock(0) };
                let servers = self.present();
                self.launch(kind, Ask::BeginSession { session }, Some(asker), servers, until);
            }
            Request::OpenTable { schema } => self.open_table(asker, &schema, until),
            Request::DropTable { name } => match self.catalog.drop_table(&name) {
                None => self.answer(asker, Err(Failure::NoTable { name })),
                Some(table) => {
                    self.changed = true;
                    let kind = Kind::Drop { table, why: None };
                    let servers = self.present();
                    self.launch(kind, Ask::DropTable { table }, Some(asker), servers, until);
                }
            },
            Request::EndSession { .. }
            | Request::Barrier { .. }
            | Request::Job { .. }
            | Request::Drain { .. }
            | Request::Status => {
                unreachable!("answered when it came")
            }
        }
    }

    fn open_table(&mut self, asker: Asker, schema: &SchemaText, until: Duration) {
        match self.catalog.open(&schema.0) {
            Ok(Opening::Exists(table, schema)) => {
                self.answer(asker, Ok(Reply::Table { table, schema: SchemaText(schema) }));
            }
            Ok(Opening::Create(table, schema)) => {
                if let Some(loss) = self.loss() {
                    self.catalog.abandoned(table);
                    return self.answer(asker, Err(Failure::other(loss)));
                }
                self.changed = true;
                let ask = Ask::CreateTable { table, schema: SchemaText(Arc::clone(&schema)) };
                let servers = self.present();
                self.launch(Kind::Create { table, schema }, ask, Some(asker), servers, until);
            }
            Err(CatalogError::Mismatch { theirs, .. }) => {
                self.answer(asker, Err(Failure::Mismatch { theirs: SchemaText(theirs) }));
            }
            Err(error) => self.answer(asker, Err(Failure::other(error.to_string()))),
        }
    }

    /// Ends a session: durable first, then told to every server (C3).
    pub(super) fn end_session(&mut self, session: SessionId, asked: Option<(Asker, Duration)>) {
        self.sessions.remove(&session);
        let live = self.catalog.end_session(session);
        let asker = asked.map(|(asker, _)| asker);
        if !live {
            if let Some(asker) = asker {
                self.answer(asker, Ok(Reply::Done));
            }
            return;
        }
        self.changed = true;
        let until = asked.map_or(self.lease_of_tidying(), |(_, until)| until);
        let servers = self.present();
        self.launch(Kind::End, Ask::EndSession { session }, asker, servers, until);
    }

    fn arrive(&mut self, asker: Asker, name: String, (count, caller): (u64, u64), until: Duration) {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        match self.barriers.arrive(&name, count, caller) {
            Ok(Arrival::Wait { round }) => self.gathered.push(Gathered { asker, name, round, caller, until }),
            Ok(Arrival::Released) => {
                let barriers = &self.barriers;
                let released: Vec<Gathered> = self
                    .gathered
                    .extract_if(.., |waiter| barriers.released(&waiter.name, waiter.round))
                    .collect();
                for waiter in released {
                    self.answer(waiter.asker, Ok(Reply::Done));
                }
                self.answer(asker, Ok(Reply::Done));
            }
            Err(error) => self.answer(asker, Err(Failure::other(error.to_string()))),
        }
    }

    /// Answers those whose time is over.
    pub(super) fn expire_waits(&mut self) {
        let now = self.clock;
        let late: Vec<Gathered> = self.gathered.extract_if(.., |waiter| waiter.until <= now).collect();
        for waiter in late {
            self.barriers.leave(&waiter.name, waiter.round, waiter.caller);
            let what = "the others' arrival at a barrier".to_owned();
            self.answer(waiter.asker, Err(Failure::Deadline { what }));
        }
        let mut waiting = std::mem::take(&mut self.pending);
        while let Some(pending) = waiting.pop_front() {
            if pending.until > now {
                self.pending.push_back(pending);
                continue;
            }
            let what = self.incomplete().unwrap_or_else(|| "another table's making".to_owned());
            self.answer(pending.asker, Err(Failure::Deadline { what }));
        }
    }
}
