//! Tables by name and sessions by number.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::message::SchemaText;
use crate::store::{SchemaError, TableSchema};
use crate::wire::ids::{SessionId, TableId};

/// What opening a table asks of the caller.
#[derive(Clone, Debug, PartialEq)]
pub enum Opening {
    /// The table is there with this schema.
    Exists(TableId, Arc<TableSchema>),
    /// Make it on every shard, then say [`Catalog::created`] or [`Catalog::abandoned`].
    Create(TableId, Arc<TableSchema>),
}

/// Why a table was not opened; nothing changed.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum CatalogError {
    /// The name stands for another schema.
    #[error("table {:?} exists as {theirs:?}, asked for was {ours:?}; open it with its own schema, or under another name", .ours.name)]
    Mismatch {
        /// The schema of the table.
        theirs: Arc<TableSchema>,
        /// The schema asked for.
        ours: Box<TableSchema>,
    },
    /// The schema makes no table.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// Tables and the cluster are divided alike.
    #[error(
        "table {name:?} asks for {asked} partitions, the cluster has {cluster}; use the cluster's number"
    )]
    Partitions {
        /// The table.
        name: String,
        /// The schema's number.
        asked: u32,
        /// The cluster's.
        cluster: u32,
    },
    /// Someone else's making of this table is under way.
    #[error("table {name:?} is being made or dropped by another session; open it again in a moment")]
    Busy {
        /// The table.
        name: String,
    },
    /// 2^32 - 1 tables were made.
    #[error("no table id is left for {name:?}; start a new cluster")]
    Exhausted {
        /// The table.
        name: String,
    },
}

#[derive(Debug)]
struct Table {
    id: TableId,
    schema: Arc<TableSchema>,
    /// On every shard, and neither being made nor dropped.
    ready: bool,
}

/// What of a catalog outlives the process that holds it. A table in the making is not in it; its id is used up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogRecord {
    /// Tables that are on every shard.
    pub tables: Vec<(TableId, SchemaText)>,
    /// The last id given to a table.
    pub last_table: u32,
    /// The last id given to a session.
    pub last_session: u64,
    /// Sessions that have begun and not ended.
    pub sessions: Vec<SessionId>,
}

/// The cluster's names and numbers.
#[derive(Debug)]
pub struct Catalog {
    partitions: u32,
    tables: BTreeMap<String, Table>,
    last_table: u32,
    last_session: u64,
    live: BTreeSet<SessionId>,
}

impl Catalog {
    /// An empty catalog of a cluster of `partitions`.
    #[must_use]
    pub fn new(partitions: u32) -> Self {
        Self { partitions, tables: BTreeMap::new(), last_table: 0, last_session: 0, live: BTreeSet::new() }
    }

    /// What was recorded, of a cluster of `partitions`.
    #[must_use]
    pub fn restore(partitions: u32, record: &CatalogRecord) -> Self {
        let table = |(id, schema): &(TableId, SchemaText)| {
            (schema.0.name.clone(), Table { id: *id, schema: Arc::clone(&schema.0), ready: true })
        };
        let tables: BTreeMap<String, Table> = record.tables.iter().map(table).collect();
        let live: BTreeSet<SessionId> = record.sessions.iter().copied().collect();
        // An id is never given twice, whatever the record says of the last one.
        let last_table = tables.values().map(|table| table.id.0).max().unwrap_or(0).max(record.last_table);
        let last_session = live.last().map_or(0, |session| session.0).max(record.last_session);
        Self { partitions, tables, last_table, last_session, live }
    }

    /// What is to be recorded.
    #[must_use]
    pub fn record(&self) -> CatalogRecord {
        // A table in its drop is left out: servers that still hold it are told to drop it when they are next seen.
        let tables = self.tables().map(|(id, schema)| (id, SchemaText(Arc::clone(schema)))).collect();
        let (last_table, last_session) = (self.last_table, self.last_session);
        CatalogRecord { tables, last_table, last_session, sessions: self.sessions().collect() }
    }

    /// Whether no table exists, is being made or dropped.
    #[must_use]
    pub fn is_without_tables(&self) -> bool {
        self.tables.is_empty()
    }

    /// Whether a session has begun and not ended.
    #[must_use]
    pub fn is_live(&self, session: SessionId) -> bool {
        self.live.contains(&session)
    }

    /// Opens the table of the schema's name, or asks for its making.
    ///
    /// # Errors
    /// Another schema under that name, a schema that makes no table, or a table in the making.
    pub fn open(&mut self, schema: &TableSchema) -> Result<Opening, CatalogError> {
        schema.validate()?;
        if schema.partitions != self.partitions {
            let (name, asked) = (schema.name.clone(), schema.partitions);
            return Err(CatalogError::Partitions { name, asked, cluster: self.partitions });
        }
        if let Some(table) = self.tables.get(&schema.name) {
            if *table.schema != *schema {
                let theirs = Arc::clone(&table.schema);
                return Err(CatalogError::Mismatch { theirs, ours: Box::new(schema.clone()) });
            }
            if !table.ready {
                return Err(CatalogError::Busy { name: schema.name.clone() });
            }
            return Ok(Opening::Exists(table.id, Arc::clone(&table.schema)));
        }
        let Some(id) = self.last_table.checked_add(1) else {
            return Err(CatalogError::Exhausted { name: schema.name.clone() });
        };
        self.last_table = id;
        let (id, schema) = (TableId(id), Arc::new(schema.clone()));
        self.tables.insert(schema.name.clone(), Table { id, schema: Arc::clone(&schema), ready: false });
        Ok(Opening::Create(id, schema))
    }

    /// Every shard has the table.
    pub fn created(&mut self, id: TableId) {
        let table = self.tables.values_mut().find(|table| table.id == id);
        assert!(table.as_ref().is_some_and(|table| !table.ready), "table {id} was not in the making");
        if let Some(table) = table {
            table.ready = true;
        }
    }

    /// The table is on no shard (its making failed, or it was dropped): the name is free, the id is used up.
    pub fn abandoned(&mut self, id: TableId) {
        self.tables.retain(|_, table| table.id != id);
    }

    /// Begins a drop: nobody opens the table any more. Take it from every shard, then say [`Catalog::abandoned`].
    /// None when there is no such table.
    pub fn drop_table(&mut self, name: &str) -> Option<TableId> {
        let table = self.tables.get_mut(name).filter(|table| table.ready)?;
        table.ready = false;
        Some(table.id)
    }

    /// A session id nobody had before.
    pub fn begin_session(&mut self) -> SessionId {
        self.last_session += 1;
        let session = SessionId(self.last_session);
        self.live.insert(session);
        session
    }

    /// Ends a session for good. False when it had ended or never began.
    pub fn end_session(&mut self, session: SessionId) -> bool {
        self.live.remove(&session)
    }

    /// Tables that are on every shard, by name.
    pub fn tables(&self) -> impl Iterator<Item = (TableId, &Arc<TableSchema>)> {
        self.tables.values().filter(|table| table.ready).map(|table| (table.id, &table.schema))
    }

    /// The newest table there is or was.
    #[must_use]
    pub fn last_table(&self) -> TableId {
        TableId(self.last_table)
    }

    /// The newest session there is or was.
    #[must_use]
    pub fn last_session(&self) -> SessionId {
        SessionId(self.last_session)
    }

    /// Sessions that have begun and not ended, rising.
    pub fn sessions(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.live.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use gradwire_kernels::{Dtype, Rule};
    use proptest::prelude::*;

    use super::*;
    use crate::store::{Init, TableKind};

    fn schema(name: &str, dim: u32) -> TableSchema {
        TableSchema {
            name: name.into(),
            kind: TableKind::Sparse,
            dim,
            dtype: Dtype::F32,
            rule: Rule::Add,
            init: Init::Zero,
            seed: 0,
            partitions: 4,
        }
    }

    #[test]
    fn another_schema_under_a_name_is_an_error_that_names_both() {
        let mut catalog = Catalog::new(4);
        let Opening::Create(id, _) = catalog.open(&schema("w", 1)).unwrap() else { panic!("not new") };
        catalog.created(id);
        let error = catalog.open(&schema("w", 2)).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, CatalogError::Mismatch { .. }), "{text}");
        assert!(text.contains("dim: 1") && text.contains("dim: 2"), "{text}");
    }

    #[test]
    fn a_table_divided_otherwise_than_the_cluster_is_refused() {
        let mut catalog = Catalog::new(3);
        let error = catalog.open(&schema("w", 1)).unwrap_err();
        assert_eq!(error, CatalogError::Partitions { name: "w".into(), asked: 4, cluster: 3 });
    }

    #[test]
    fn an_ended_session_ends_once_and_its_id_is_never_given_again() {
        let mut catalog = Catalog::new(4);
        let first = catalog.begin_session();
        assert!(catalog.end_session(first));
        assert!(!catalog.end_session(first));
        assert!(catalog.begin_session() > first);
        assert!(!catalog.end_session(SessionId(99)));
    }

    proptest! {
        #[test]
        fn ids_rise_and_names_stand_for_one_table(steps in prop::collection::vec((0u8..4, 0usize..3, 1u32..3), 1..120)) {
            let mut catalog = Catalog::new(4);
            let mut model: BTreeMap<&str, (TableId, u32, bool)> = BTreeMap::new();
            let mut last = TableId(0);
            for (step, name, dim) in steps {
                let name = ["a", "b", "c"][name];
                match step {
                    0 | 1 => match (catalog.open(&schema(name, dim)), model.get(name)) {
                        (Ok(Opening::Create(id, _)), None) => {
                            prop_assert!(id > last);
                            last = id;
                            model.insert(name, (id, dim, false));
                        }
                        (Ok(Opening::Exists(id, found)), Some(&(known, same, true))) => {
                            prop_assert_eq!((id, found.dim, dim), (known, same, same));
                        }
                        (Err(CatalogError::Mismatch { theirs, .. }), Some(&(_, other, _))) => {
                            prop_assert_eq!(theirs.dim, other);
                            prop_assert_ne!(dim, other);
                        }
                        (Err(CatalogError::Busy { .. }), Some(&(_, same, false))) => prop_assert_eq!(dim, same),
                        (got, known) => prop_assert!(false, "{got:?} for {known:?}"),
                    },
                    2 => if let Some((id, _, ready)) = model.get_mut(name).filter(|table| !table.2) {
                        catalog.created(*id);
                        *ready = true;
                    },
                    _ => {
                        let dropped = catalog.drop_table(name);
                        prop_assert_eq!(dropped, model.get(name).filter(|table| table.2).map(|table| table.0));
                        if let Some(id) = dropped {
                            catalog.abandoned(id);
                            model.remove(name);
                        }
                    }
                }
                let ready: Vec<TableId> = catalog.tables().map(|(id, _)| id).collect();
                prop_assert_eq!(ready, model.values().filter(|table| table.2).map(|table| table.0).collect::<Vec<_>>());
            }
        }
    }
}
