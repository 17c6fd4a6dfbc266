//! [`Writing`]: what jobs write with, in a transaction.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use rusqlite::{Connection, OptionalExtension, Statement};

use super::space::{FIND, Space};

/// What one transaction deletes of what was cleared: so many entries, and so many bytes.
const SWEEP_ENTRIES: usize = 500;
const SWEEP_BYTES: i64 = 1024 * 1024;

/// What jobs write with.
pub(in crate::engine::local) struct Writing<'c> {
    connection: &'c Connection,
    statements: HashMap<&'static str, Statement<'c>>,
    /// Those that this transaction has met.
    spaces: Vec<(Space, i64)>,
    /// Whether something that was cleared may be left to delete.
    pub(super) is_to_sweep: bool,
}

impl<'c> Writing<'c> {
    /// Writes by this connection.
    pub(super) fn new(connection: &'c Connection) -> Self {
        let cleared = connection.query_row("SELECT EXISTS (SELECT 1 FROM cleared)", (), |row| row.get(0));
        Self {
            connection,
            statements: HashMap::new(),
            spaces: Vec::new(),
            is_to_sweep: cleared.unwrap_or(true),
        }
    }

    /// The statement, prepared once.
    pub(in crate::engine::local) fn statement(&mut self, sql: &'static str) -> rusqlite::Result<&mut Statement<'c>> {
        Ok(match self.statements.entry(sql) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(self.connection.prepare(sql)?),
        })
    }

    pub(super) fn connection(&self) -> &'c Connection {
        self.connection
    }

    /// Forgets what the last transaction met, since it may not have been committed, or others wrote after it.
    pub(super) fn begin(&mut self) {
        self.spaces.clear();
    }

    /// The id of the space. It is made where nothing was written to it yet.
    pub(in crate::engine::local) fn space(&mut self, space: &Space) -> rusqlite::Result<i64> {
        if let Some((_, id)) = self.spaces.iter().find(|(known, _)| known == space) {
            return Ok(*id);
        }
        let find = self.statement(FIND)?;
        let found = find.query_row(space.parameters(), |row| row.get(0)).optional()?;
        let id = match found {
            Some(id) => id,
            None => self.new_space(space)?,
        };
        self.spaces.push((space.clone(), id));
        Ok(id)
    }

    /// Lets the names lead to a new, empty space. What the former one has of the log is deleted later, a little at a time.
    pub(in crate::engine::local) fn clear(&mut self, space: &Space) -> rusqlite::Result<()> {
        let former = self.space(space)?;
        self.spaces.clear();
        self.statement("DELETE FROM space WHERE id = ?1")?.execute([former])?;
        self.statement("INSERT INTO cleared (space) VALUES (?1)")?
            .execute([former])?;
        self.new_space(space)?;
        self.is_to_sweep = true;
        Ok(())
    }

    fn new_space(&mut self, space: &Space) -> rusqlite::Result<i64> {
        let insert = self.statement("INSERT INTO space (kind, cluster, name) VALUES (?1, ?2, ?3)")?;
        insert.insert(space.parameters())
    }

    /// Deletes a part of what was cleared.
    pub(super) fn sweep(&mut self) -> rusqlite::Result<()> {
        let cleared = self.statement("SELECT space FROM cleared LIMIT 1")?;
        let Some(space) = cleared.query_row((), |row| row.get::<_, i64>(0)).optional()? else {
            self.is_to_sweep = false;
            return Ok(());
        };
        let first =
            self.statement("SELECT identifier, octet_length(text) FROM log WHERE space = ?1 ORDER BY identifier")?;
        let mut rows = first.query([space])?;
        let (mut last, mut bytes, mut entries) = (None, 0, 0);
        while bytes < SWEEP_BYTES
            && entries < SWEEP_ENTRIES
            && let Some(row) = rows.next()?
        {
            last = Some(row.get_ref(0)?.as_bytes()?.to_owned());
            bytes += row.get::<_, i64>(1)?;
            entries += 1;
        }
        drop(rows);
        match last {
            Some(last) => {
                let delete = self.statement("DELETE FROM log WHERE space = ?1 AND identifier <= CAST(?2 AS TEXT)")?;
                delete.execute((space, last))?;
            }
            None => {
                self.statement("DELETE FROM cleared WHERE space = ?1")?
                    .execute([space])?;
            }
        }
        Ok(())
    }
}
