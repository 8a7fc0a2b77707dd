//! Stores request rows, many to a statement: one row a statement costs forty times as much.

use ferry_core::{RequestRecord, Stage};
use sqlx::sqlite::{SqliteArguments, SqliteConnection};
use sqlx::{Arguments, AssertSqlSafe, SqlSafeStr, SqlStr};

use super::number;
use crate::store::{Batch, StoreError};

/// Rows per statement, largest first; a batch is cut greedily. A statement may have 32,766
/// parameters, which is 963 rows.
const ROWS: [usize; 4] = [900, 100, 10, 1];
/// The columns before those of the stages.
const COLUMNS: [&str; 15] = [
    "run_id",
    "session_id",
    "request",
    "kind",
    "status",
    "batch",
    "priority",
    "bytes_in",
    "bytes_out",
    "started_unix_ns",
    "unattributed_ns",
    "staged",
    "batch_rows",
    "cached",
    "trace_id",
];
const COLUMNS_ALL: usize = COLUMNS.len() + Stage::COUNT;

/// The statements, built once; the connection prepares each once.
#[derive(Debug)]
pub(crate) struct Statements {
    by_rows: [(usize, SqlStr); ROWS.len()],
}

impl Statements {
    pub(crate) fn new() -> Statements {
        Statements { by_rows: ROWS.map(|rows| (rows, statement(rows))) }
    }

    /// Stores the batch's requests. Leaves the transaction to the caller.
    pub(crate) async fn requests(
        &self,
        connection: &mut SqliteConnection,
        batch: &Batch,
    ) -> Result<(), StoreError> {
        let mut rest = batch.requests.as_slice();
        for (rows, sql) in &self.by_rows {
            while let Some((chunk, behind)) = rest.split_at_checked(*rows) {
                rest = behind;
                let arguments = arguments(chunk, batch).map_err(sqlx::Error::Encode)?;
                sqlx::query_with(sql.clone(), arguments).execute(&mut *connection).await?;
            }
        }
        Ok(())
    }
}

/// Plain `?` and no number: sqlx looks a numbered parameter up by its name, one after the other.
fn statement(rows: usize) -> SqlStr {
    let stages = Stage::ALL.map(|stage| format!("{}_ns", stage.name())).join(", ");
    let row = format!("({})", vec!["?"; COLUMNS_ALL].join(","));
    let values = vec![row; rows].join(",");
    let columns = COLUMNS.join(", ");
    let sql = format!("INSERT INTO request_rows ({columns}, {stages}) VALUES {values}");
    AssertSqlSafe(sql).into_sql_str()
}

fn arguments(
    records: &[RequestRecord],
    batch: &Batch,
) -> Result<SqliteArguments, sqlx::error::BoxDynError> {
    let mut arguments = SqliteArguments::default();
    arguments.reserve(records.len() * COLUMNS_ALL, 0);
    for record in records {
        arguments.add(batch.run(record.run))?;
        arguments.add(record.session.0.cast_signed())?;
        arguments.add(number(record.request))?;
        arguments.add(i64::from(record.kind as u8))?;
        arguments.add(i64::from(record.status.to_wire()))?;
        arguments.add(i64::from(record.batch))?;
        arguments.add(i64::from(record.priority))?;
        arguments.add(number(record.bytes_in))?;
        arguments.add(number(record.bytes_out))?;
        arguments.add(number(record.started_unix_ns))?;
        arguments.add(record.times.unattributed().map(number))?;
        let staged = record.times.staged().map(|it| u16::from_le_bytes(it.to_wire()));
        arguments.add(staged.map(i64::from))?;
        arguments.add(record.times.batch_rows().map(|rows| i64::from(rows.get())))?;
        arguments.add(record.times.is_cached().then_some(1_i64))?;
        let trace = Some(record.trace).filter(|trace| !trace.is_none());
        arguments.add(trace.map(|trace| trace.0.to_vec()))?;
        for stage in Stage::ALL {
            arguments.add(record.times.of(stage).map(number))?;
        }
    }
    Ok(arguments)
}
