//! The schema, compiled in. How to change it: `docs/CHANGING-THE-SCHEMA.md`.

use std::borrow::Cow;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::SqliteConnection;

use crate::store::StoreError;

/// Number, name, the way up and the way down of each change to the schema.
const MIGRATIONS: [(i64, &str, &str, &str); 10] = [
    (
        1,
        "tables",
        include_str!("../../../../migrations/sqlite/0001_tables.up.sql"),
        include_str!("../../../../migrations/sqlite/0001_tables.down.sql"),
    ),
    (
        2,
        "views",
        include_str!("../../../../migrations/sqlite/0002_views.up.sql"),
        include_str!("../../../../migrations/sqlite/0002_views.down.sql"),
    ),
    (
        3,
        "staged",
        include_str!("../../../../migrations/sqlite/0003_staged.up.sql"),
        include_str!("../../../../migrations/sqlite/0003_staged.down.sql"),
    ),
    (
        4,
        "gpu_counters",
        include_str!("../../../../migrations/sqlite/0004_gpu_counters.up.sql"),
        include_str!("../../../../migrations/sqlite/0004_gpu_counters.down.sql"),
    ),
    (
        5,
        "only",
        include_str!("../../../../migrations/sqlite/0005_only.up.sql"),
        include_str!("../../../../migrations/sqlite/0005_only.down.sql"),
    ),
    (
        6,
        "precision",
        include_str!("../../../../migrations/sqlite/0006_precision.up.sql"),
        include_str!("../../../../migrations/sqlite/0006_precision.down.sql"),
    ),
    (
        7,
        "stages",
        include_str!("../../../../migrations/sqlite/0007_stages.up.sql"),
        include_str!("../../../../migrations/sqlite/0007_stages.down.sql"),
    ),
    (
        8,
        "run_owner",
        include_str!("../../../../migrations/sqlite/0008_run_owner.up.sql"),
        include_str!("../../../../migrations/sqlite/0008_run_owner.down.sql"),
    ),
    (
        9,
        "batch",
        include_str!("../../../../migrations/sqlite/0009_batch.up.sql"),
        include_str!("../../../../migrations/sqlite/0009_batch.down.sql"),
    ),
    (
        10,
        "schedule",
        include_str!("../../../../migrations/sqlite/0010_schedule.up.sql"),
        include_str!("../../../../migrations/sqlite/0010_schedule.down.sql"),
    ),
];

/// The newest schema that this binary knows.
pub(crate) const SCHEMA_KNOWN: i64 = MIGRATIONS[MIGRATIONS.len() - 1].0;

pub(crate) fn migrator() -> Migrator {
    let migration = |number, name: &'static str, kind, sql: &'static str| {
        let sql = sqlx::SqlSafeStr::into_sql_str(sql);
        Migration::new(number, Cow::Borrowed(name), kind, sql, false)
    };
    let each = MIGRATIONS.into_iter().flat_map(|(number, name, up, down)| {
        [
            migration(number, name, MigrationType::ReversibleUp, up),
            migration(number, name, MigrationType::ReversibleDown, down),
        ]
    });
    Migrator::with_migrations(each.collect())
}

/// Brings the schema up to date.
pub(crate) async fn migrate(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    match migrator().run_direct(None, connection, false).await {
        Ok(()) => Ok(()),
        Err(MigrateError::VersionMissing(found)) => {
            Err(StoreError::SchemaNewer { found, known: SCHEMA_KNOWN })
        }
        // Locked, full and so on are what they are, also while the schema changes.
        Err(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) => {
            Err(error.into())
        }
        Err(error) => Err(StoreError::Migration(error)),
    }
}
