//! [`Space`]: what a name of the settings leads to, apart from all others in the file.

use std::fmt;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

/// What a space holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::local) enum Kind {
    /// A log.
    Log,
    /// A mailbox.
    Mailbox,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Mailbox => "mailbox",
        }
    }
}

/// The names that lead to a space. Another name of either is another space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::engine::local) struct Space(Arc<Names>);

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) kind: Kind,
    pub(super) cluster: String,
    pub(super) name: String,
}

impl Space {
    /// The space of these names.
    pub(in crate::engine::local) fn new(kind: Kind, cluster: &str, name: &str) -> Self {
        let (cluster, name) = (cluster.to_owned(), name.to_owned());
        Self(Arc::new(Names { kind, cluster, name }))
    }

    /// Name of the map or queue.
    pub(in crate::engine::local) fn name(&self) -> &str {
        &self.0.name
    }

    pub(super) fn parameters(&self) -> (&'static str, &str, &str) {
        (self.0.kind.name(), &self.0.cluster, &self.0.name)
    }
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, cluster, name) = self.parameters();
        write!(f, "{kind} {name:?} of {cluster:?}")
    }
}

/// Finds a space by its names.
pub(super) const FIND: &str = "SELECT id FROM space WHERE kind = ?1 AND cluster = ?2 AND name = ?3";

/// The id of the space, now; `None` where nothing was written to it yet.
pub(in crate::engine::local) fn find(connection: &Connection, space: &Space) -> rusqlite::Result<Option<i64>> {
    connection
        .query_row(FIND, space.parameters(), |row| row.get(0))
        .optional()
}
