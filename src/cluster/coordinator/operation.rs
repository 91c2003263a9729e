//! Operations: one ask to each of several servers, done when all have answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::servers::Life;
use super::{Asker, Coordinator, LONGEST_WAIT, Output};
use crate::cluster::message::{Ask, Done, Failure, FromCoordinator, Reply, SchemaText, ServerReport};
use crate::store::TableSchema;
use crate::wire::ids::{Clock, ServerId, SessionId, TableId};

/// How long servers have to confirm the end of a session; freeing or making a large table, before it in their queue, takes
/// a while.
const PATIENCE_WITH_ENDS: Duration = Duration::from_secs(5);

/// What it is for.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// A server holds its partitions of this placement.
    Hold { placement: u64 },
    /// A session begins; the clock it joins at so far.
    Begin { session: SessionId, clock: Clock },
    /// A session ends.
    End,
    /// A table is made.
    Create { table: TableId, schema: Arc<TableSchema> },
    /// A table is dropped, or taken back from where it was made.
    Drop { table: TableId, why: Option<Failure> },
    /// Reports for a status.
    Report { reports: Vec<ServerReport> },
    /// Reports of how far joiners are.
    Progress { reports: Vec<ServerReport> },
    /// Something is put in order that nobody waits for.
    Tidy,
}

/// One operation under way.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    kind: Kind,
    ask: Ask,
    asker: Option<Asker>,
    /// Those who have not answered.
    waiting: BTreeSet<ServerId>,
    until: Duration,
    failed: Option<Failure>,
    begun: Duration,
    /// When servers that have not confirmed a session's end are taken for stopped; never, or never again.
    blames: Option<Duration>,
}

impl Coordinator {
    /// Starts an operation over `servers`, which may be none.
    pub(super) fn launch(
        &mut self,
        kind: Kind,
        ask: Ask,
        asker: Option<Asker>,
        servers: Vec<ServerId>,
        until: Duration,
    ) {
        let number = self.number();
        let waiting: BTreeSet<ServerId> = servers.into_iter().collect();
        let blames = matches!(ask, Ask::EndSession { .. }).then(|| self.clock + PATIENCE_WITH_ENDS);
        let operation = Operation {
            kind,
            ask,
            asker,
            waiting: waiting.clone(),
            until,
            failed: None,
            begun: self.clock,
            blames,
        };
        self.operations.insert(number, operation);
        for server in waiting {
            self.ask(number, server);
        }
        self.finish_if_done(number);
    }

    /// Asks a server that is here; one that comes back is asked then.
    fn ask(&mut self, operation: u64, server: ServerId) {
        let connection = self.servers.get(&server).and_then(super::servers::Server::connection);
        let ask = self.operations.get(&operation).map(|operation| operation.ask.clone());
        if let (Some(connection), Some(ask)) = (connection, ask) {
            let id = self.number();
            self.asks.insert(id, (operation, server));
            self.outputs.push(Output::Send(connection, FromCoordinator::Ask { id, ask }));
        }
    }

    /// Asks a server that came back everything it has not answered, in the order of the first asking.
    pub(super) fn ask_again(&mut self, server: ServerId) {
        self.asks.retain(|_, (_, asked)| *asked != server);
        // What it holds is told anew in any case, by the newest map.
        let stale: Vec<u64> = self
            .operations
            .iter()
            .filter(|(_, open)| matches!(open.kind, Kind::Hold { .. }) && open.waiting.contains(&server))
            .map(|(number, _)| *number)
            .collect();
        for number in stale {
            self.operations.remove(&number);
        }
        let open: Vec<u64> = self
            .operations
            .iter()
            .filter(|(_, open)| open.waiting.contains(&server))
            .map(|(number, _)| *number)
            .collect();
        for number in open {
            self.ask(number, server);
        }
    }

    /// A server answered an ask. One to an ask of an earlier connection says nothing any more.
    pub(super) fn on_answer(&mut self, server: ServerId, id: u64, result: Result<Done, String>) {
        let Some(&(number, asked)) = self.asks.get(&id) else { return };
        if asked != server {
            return;
        }
        self.asks.remove(&id);
        let name = self.servers.get(&server).map(super::servers::Server::name).unwrap_or_default();
        let Some(operation) = self.operations.get_mut(&number) else { return };
        operation.waiting.remove(&server);
        match (result, &mut operation.kind) {
            (Ok(Done::Began(joined)), Kind::Begin { clock, .. }) => *clock = joined.max(*clock),
            (Ok(Done::Report(report)), Kind::Report { reports } | Kind::Progress { reports }) => {
                reports.push(report);
            }
            (Ok(_), _) => {}
            (Err(message), _) => operation.failed = Some(Failure::other(format!("{name}: {message}"))),
        }
        if let (Kind::Hold { placement }, None) = (&operation.kind, &operation.failed) {
            let placement = *placement;
            if let Some(known) = self.servers.get_mut(&server) {
                known.confirmed = Some(placement);
            }
        }
        self.finish_if_done(number);
    }

    /// Servers that have lost their last role have nothing left to do: others answer for the partitions they had, which
    /// are told all tables and sessions with their new roles.
    pub(super) fn excuse(&mut self, servers: &BTreeSet<ServerId>) {
        let excused: Vec<ServerId> =
            servers.iter().copied().filter(|server| !self.chains.holds(*server)).collect();
        if excused.is_empty() {
            return;
        }
        let numbers: Vec<u64> = self.operations.keys().copied().collect();
        for number in numbers {
            let Some(open) = self.operations.get_mut(&number) else { continue };
            let lasting = matches!(
                open.kind,
                Kind::Hold { .. } | Kind::Tidy | Kind::Report { .. } | Kind::Progress { .. }
            );
            let before = open.waiting.len();
            if !lasting {
                open.waiting.retain(|server| !excused.contains(server));
            }
            if open.waiting.len() < before {
                self.finish_if_done(number);
            }
        }
    }

    /// A server is gone: nobody waits for it any longer.
    pub(super) fn give_up_on(&mut self, server: ServerId) {
        self.asks.retain(|_, (_, asked)| *asked != server);
        // Whose partitions others have is missed by nobody.
        let missed = self.servers.get(&server).filter(|_| self.chains.holds(server));
        let failure = missed.map(|known| {
            Failure::other(format!("{} is gone; see what status says of its partitions", known.name()))
        });
        let numbers: Vec<u64> = self.operations.keys().copied().collect();
        for number in numbers {
            let Some(open) = self.operations.get_mut(&number) else { continue };
            if open.waiting.remove(&server) {
                // What only ends something has ended with it.
                let needed =
                    matches!(open.kind, Kind::Begin { .. } | Kind::Create { .. } | Kind::Hold { .. });
                if needed {
                    open.failed = open.failed.take().or_else(|| failure.clone());
                }
                self.finish_if_done(number);
            }
        }
    }

    /// A session that has ended may be used nowhere: a server that does not say so in time leaves its chains (C3).
    fn blame_for_ends(&mut self) {
        let now = self.clock;
        let late = self.operations.values_mut().filter(|open| open.blames.is_some_and(|at| now >= at));
        let mut blamed: BTreeSet<ServerId> = BTreeSet::new();
        for open in late {
            open.blames = None;
            blamed.extend(&open.waiting);
        }
        let here = blamed
            .into_iter()
            .filter(|server| self.servers.get(server).is_some_and(|server| server.connection().is_some()));
        for server in here.collect::<Vec<_>>() {
            self.suspect(server, "does not confirm that a session has ended");
        }
        self.repair();
    }

    pub(super) fn expire_operations(&mut self) {
        let now = self.clock;
        if self.operations.values().any(|open| open.blames.is_some_and(|at| now >= at)) {
            self.blame_for_ends();
        }
        let late: Vec<u64> =
            self.operations.iter().filter(|(_, open)| open.until <= now).map(|(number, _)| *number).collect();
        for number in late {
            let longer = self.lease_of_tidying();
            if let Some(open) = self.operations.get_mut(&number) {
                let name = open.waiting.first().and_then(|id| self.servers.get(id)).map(|s| s.name());
                let what = format!("an answer of {}", name.unwrap_or_else(|| "a server".to_owned()));
                if matches!(open.kind, Kind::End) && now < open.begun + LONGEST_WAIT {
                    // Whoever asked need not wait; every server has to say so all the same.
                    open.until = longer;
                    let asker = open.asker.take();
                    self.tell(asker, Err(Failure::Deadline { what }));
                    continue;
                }
                open.waiting.clear();
                if !matches!(open.kind, Kind::Report { .. } | Kind::Progress { .. }) {
                    open.failed.get_or_insert(Failure::Deadline { what });
                }
            }
            self.finish_if_done(number);
        }
    }

    fn finish_if_done(&mut self, number: u64) {
        if self.operations.get(&number).is_some_and(|open| open.waiting.is_empty())
            && let Some(done) = self.operations.remove(&number)
        {
            self.asks.retain(|_, (operation, _)| *operation != number);
            self.finish(done);
        }
    }

    fn finish(&mut self, done: Operation) {
        let Operation { kind, asker, failed, .. } = done;
        match (kind, failed) {
            (Kind::Hold { .. }, Some(failure)) => {
                // The server stays unconfirmed, which status shows.
                self.complaints.push(format!("a server did not take its partitions: {failure:?}"));
            }
            (Kind::Hold { .. } | Kind::Tidy, _) => {}
            (Kind::Begin { session, clock }, None) if self.catalog.is_live(session) => {
                self.tell(asker, Ok(Reply::Session { session, clock }));
            }
            (Kind::Begin { session, .. }, failed) => {
                self.end_session(session, None);
                let ended = || Failure::other("the session ended while it began; open another");
                self.tell(asker, Err(failed.unwrap_or_else(ended)));
            }
            (Kind::End, failed) => self.tell(asker, failed.map_or(Ok(Reply::Done), Err)),
            (Kind::Create { table, schema }, None) => {
                self.catalog.created(table);
                self.changed = true;
                self.tell(asker, Ok(Reply::Table { table, schema: SchemaText(schema) }));
            }
            (Kind::Create { table, .. }, Some(failure)) => {
                // On every server or on none: those that have it drop it, before another is made.
                let kind = Kind::Drop { table, why: Some(failure) };
                let (servers, until) = (self.present(), self.lease_of_undoing());
                self.launch(kind, Ask::DropTable { table }, asker, servers, until);
            }
            (Kind::Drop { table, why }, failed) => {
                self.catalog.abandoned(table);
                self.changed = true;
                self.tell(asker, why.or(failed).map_or(Ok(Reply::Done), Err));
            }
            (Kind::Progress { reports }, _) => self.on_progress(&reports),
            (Kind::Report { reports }, _) => {
                let status = self.compose(&reports);
                self.tell(asker, Ok(Reply::Status(Box::new(status))));
            }
        }
    }

    fn tell(&mut self, asker: Option<Asker>, result: Result<Reply, Failure>) {
        if let Some(asker) = asker {
            self.answer(asker, result);
        }
    }

    /// A server that does not drop what was half made is told again when it comes back.
    pub(super) fn lease_of_undoing(&self) -> Duration {
        self.clock + Duration::from_secs(5)
    }

    /// How many a connection waits for.
    pub(super) fn operations_of(&self, connection: super::ConnectionId) -> usize {
        let asks = |open: &&Operation| open.asker.is_some_and(|asker| asker.connection == connection);
        self.operations.values().filter(asks).count()
    }

    /// Servers with roles that are not gone.
    pub(super) fn present(&self) -> Vec<ServerId> {
        self.chains.holders().filter(|id| self.servers[id].life != Life::Gone).collect()
    }

    /// A table is being made or dropped: the next one waits.
    pub(super) fn tables_busy(&self) -> bool {
        self.operations.values().any(|open| matches!(open.kind, Kind::Create { .. } | Kind::Drop { .. }))
    }

    /// Tables that servers are making, of which some may have them already.
    pub(super) fn tables_in_the_making(&self) -> BTreeMap<TableId, SchemaText> {
        let table = |open: &Operation| match &open.kind {
            Kind::Create { table, schema } => Some((*table, SchemaText(Arc::clone(schema)))),
            _ => None,
        };
        self.operations.values().filter_map(table).collect()
    }

    /// Tables that heads are to have: those there are and those in the making.
    pub(super) fn tables_to_hold(&self) -> Vec<(TableId, SchemaText)> {
        let mut tables = self.tables_in_the_making();
        tables.extend(self.catalog.tables().map(|(id, schema)| (id, SchemaText(Arc::clone(schema)))));
        tables.into_iter().collect()
    }

    /// Whether some server may still know a session that has ended.
    pub(super) fn session_ends_under_way(&self) -> bool {
        self.operations.values().any(|open| matches!(open.kind, Kind::End | Kind::Begin { .. }))
    }
}
