//! Brings the schema of a database up to date. Forward only.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::database::APPLICATION_ID;
use crate::{Result, StoreError, backup, chats, drafts, messages, search};

/// The schema that this version reads and writes; `PRAGMA user_version` of the file.
///
/// 1: chats, messages, drafts. 2: full-text search. 3: search for symbols. 4: which branch was
/// shown last, and edits in progress.
pub const SCHEMA_VERSION: i64 = 4;

/// What brings a table to a version of the schema. Never changed once released.
pub(crate) struct Migration {
    /// The schema version that it belongs to.
    pub version: i64,
    pub sql: &'static str,
}

/// Of every table; within a version in this order.
const TABLES: [&[Migration]; 4] = [
    chats::MIGRATIONS,
    messages::MIGRATIONS,
    drafts::MIGRATIONS,
    search::MIGRATIONS,
];

/// Fails without a change when the schema is one of the future.
pub(crate) fn refuse_newer(connection: &Connection, path: &Path) -> Result<()> {
    let found = version(connection)?;
    if found > SCHEMA_VERSION {
        return Err(StoreError::Newer {
            path: path.to_owned(),
            found,
            known: SCHEMA_VERSION,
        });
    }
    Ok(())
}

/// Runs what is missing in one transaction, after a backup if there is anything to lose.
pub(crate) fn run(connection: &mut Connection, path: &Path) -> Result<()> {
    let found = version(connection)?;
    if found == SCHEMA_VERSION {
        return Ok(());
    }
    if found > 0 {
        tracing::info!(from = found, to = SCHEMA_VERSION, "migrating chats");
        backup::create(path, || false)?;
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Asked again: another program may have been first.
    let found = version(&transaction)?;
    apply(&transaction, found, SCHEMA_VERSION)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.commit()?;
    Ok(())
}

fn apply(connection: &Connection, found: i64, wanted: i64) -> Result<()> {
    for next in found + 1..=wanted {
        let migrations = TABLES.iter().copied().flatten();
        for migration in migrations.filter(|migration| migration.version == next) {
            connection.execute_batch(migration.sql)?;
        }
        connection.pragma_update(None, "user_version", next)?;
    }
    Ok(())
}

fn version(connection: &Connection) -> Result<i64> {
    Ok(connection.pragma_query_value(None, "user_version", |row| row.get(0))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_migration_is_the_version_of_the_schema() {
        let versions = TABLES.iter().copied().flatten().map(|one| one.version);
        assert_eq!(versions.max(), Some(SCHEMA_VERSION));
    }
}
