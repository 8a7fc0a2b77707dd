//! Stores and reads runs.

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Row, query, query_scalar};

use super::number;
use crate::store::{Machine, NewRun, Run, RunEnd, StoreError};

/// Stores a run, with a given id or the next; gives the id.
pub(crate) async fn insert(
    connection: &mut SqliteConnection,
    id: Option<i64>,
    run: &NewRun,
) -> Result<i64, StoreError> {
    let done = query(
        "INSERT INTO runs (id, name, kind, started_unix_ns, cpu_model, cpu_cores, kernel, \
         git_commit, options, libraries, warmup, notes, tenant) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(id)
    .bind(run.name.as_str())
    .bind(run.kind.as_str())
    .bind(number(run.started_unix_ns))
    .bind(run.machine.cpu_model.as_str())
    .bind(i64::from(run.machine.cpu_cores))
    .bind(run.machine.kernel.as_str())
    .bind(run.git_commit.as_str())
    .bind(run.options_json.as_str())
    .bind(run.libraries_json.as_str())
    .bind(number(run.warmup))
    .bind(run.notes.as_str())
    .bind(run.tenant.as_deref())
    .execute(connection)
    .await?;
    Ok(done.last_insert_rowid())
}

/// Notes the end of a run; whether there is such a run that goes on.
pub(crate) async fn finish(
    connection: &mut SqliteConnection,
    id: i64,
    end: &RunEnd,
) -> Result<bool, StoreError> {
    let done = query(
        "UPDATE runs SET finished_unix_ns = ?, notes = coalesce(?, notes) \
         WHERE id = ? AND finished_unix_ns IS NULL",
    )
    .bind(number(end.finished_unix_ns))
    .bind(end.notes.as_deref())
    .bind(id)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// The latest runs, newest first: of one tenant, or of all.
pub(crate) async fn list(
    connection: &mut SqliteConnection,
    tenant: Option<&str>,
    runs_max: u32,
) -> Result<Vec<Run>, StoreError> {
    let rows = query(
        "SELECT * FROM runs WHERE ?1 IS NULL OR tenant = ?1 \
         ORDER BY started_unix_ns DESC, id DESC LIMIT ?2",
    )
    .bind(tenant)
    .bind(i64::from(runs_max))
    .fetch_all(connection)
    .await?;
    rows.iter().map(run).collect()
}

/// How many requests each of these runs has; one number for each.
pub(crate) async fn counts(
    connection: &mut SqliteConnection,
    runs: &[i64],
) -> Result<Vec<(i64, u64)>, StoreError> {
    let mut counts = Vec::new();
    for &run in runs {
        let count: i64 = query_scalar("SELECT count(*) FROM request_rows WHERE run_id = ?")
            .bind(run)
            .fetch_one(&mut *connection)
            .await?;
        counts.push((run, count.max(0).cast_unsigned()));
    }
    Ok(counts)
}

/// One run, if there is one of this id.
pub(crate) async fn get(
    connection: &mut SqliteConnection,
    id: i64,
) -> Result<Option<Run>, StoreError> {
    let row = query("SELECT * FROM runs WHERE id = ?").bind(id).fetch_optional(connection).await?;
    row.as_ref().map(run).transpose()
}

fn run(row: &SqliteRow) -> Result<Run, StoreError> {
    let unsigned =
        |name: &str| row.try_get::<i64, _>(name).map(|number| number.max(0).cast_unsigned());
    let finished: Option<i64> = row.try_get("finished_unix_ns")?;
    let new = NewRun {
        name: row.try_get("name")?,
        kind: row.try_get("kind")?,
        started_unix_ns: unsigned("started_unix_ns")?,
        machine: Machine {
            cpu_model: row.try_get("cpu_model")?,
            cpu_cores: u32::try_from(unsigned("cpu_cores")?).unwrap_or(u32::MAX),
            kernel: row.try_get("kernel")?,
        },
        git_commit: row.try_get("git_commit")?,
        options_json: row.try_get("options")?,
        libraries_json: row.try_get("libraries")?,
        warmup: unsigned("warmup")?,
        notes: row.try_get("notes")?,
        tenant: row.try_get("tenant")?,
    };
    Ok(Run {
        id: row.try_get("id")?,
        new,
        finished_unix_ns: finished.map(|ns| ns.max(0).cast_unsigned()),
        lost: unsigned("lost")?,
    })
}
