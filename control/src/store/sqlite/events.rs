//! Stores what happens seldom, one statement each.

use ferry_core::Placement;
use sqlx::query;
use sqlx::sqlite::SqliteConnection;

use super::number;
use crate::store::{Batch, Event, ModelRow, Refusal, ResourceSample, SessionRow, StoreError};

/// Stores the batch's events, in order, and its samples. Leaves the transaction to the caller.
pub(crate) async fn insert(
    connection: &mut SqliteConnection,
    batch: &Batch,
) -> Result<(), StoreError> {
    for event in &batch.events {
        match event {
            Event::Opened(session) => {
                insert_session(connection, batch.run(session.run), session).await?;
            }
            Event::Closed { id, unix_ns, reason } => {
                query("UPDATE sessions SET closed_unix_ns = ?, close_reason = ? WHERE id = ?")
                    .bind(number(*unix_ns))
                    .bind(*reason)
                    .bind(id.0.cast_signed())
                    .execute(&mut *connection)
                    .await?;
            }
            Event::Refused(refusal) => insert_refusal(connection, refusal).await?,
            Event::Loaded(model) => insert_model(connection, batch.own_run, model).await?,
            Event::Unloaded { name, version, loaded_unix_ns, unix_ns } => {
                query(
                    "UPDATE models SET unloaded_unix_ns = ? WHERE run_id = ? AND name = ? \
                     AND version = ? AND loaded_unix_ns = ?",
                )
                .bind(number(*unix_ns))
                .bind(batch.own_run)
                .bind(name.as_str())
                .bind(version.as_str())
                .bind(number(*loaded_unix_ns))
                .execute(&mut *connection)
                .await?;
            }
        }
    }
    for sample in &batch.samples {
        insert_sample(connection, batch.run(sample.run), sample).await?;
    }
    Ok(())
}

/// A session that is resumed on another server is opened there too: it keeps its row.
pub(crate) async fn insert_session(
    connection: &mut SqliteConnection,
    run: i64,
    session: &SessionRow,
) -> Result<(), StoreError> {
    query(
        "INSERT INTO sessions (id, run_id, tenant, model, version, engine, device, precision, \
         transport, link, placement, memory, connection, wait, slots, opened_unix_ns) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
         ON CONFLICT (id) DO UPDATE SET closed_unix_ns = NULL, close_reason = NULL",
    )
    .bind(session.id.0.cast_signed())
    .bind(run)
    .bind(session.tenant.as_str())
    .bind(session.model.as_str())
    .bind(session.version.as_str())
    .bind(session.engine.as_str())
    .bind(session.device.as_str())
    .bind(session.precision)
    .bind(session.transport.name())
    .bind(session.transport.link().name())
    .bind(session.placement.to_string())
    .bind(match session.placement {
        Placement::Host => session.memory.name(),
        Placement::Cuda(_) => "device",
    })
    .bind(session.connection.name())
    .bind(session.wait.name())
    .bind(i64::from(session.slots))
    .bind(number(session.opened_unix_ns))
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_refusal(
    connection: &mut SqliteConnection,
    refusal: &Refusal,
) -> Result<(), StoreError> {
    query(
        "INSERT INTO refusals (unix_ns, session_id, tenant, link, what, count) \
         VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(number(refusal.unix_ns))
    .bind(refusal.session.map(|id| id.0.cast_signed()))
    .bind(refusal.tenant.as_deref())
    .bind(refusal.link)
    .bind(refusal.what)
    .bind(number(refusal.count))
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_sample(
    connection: &mut SqliteConnection,
    run: i64,
    sample: &ResourceSample,
) -> Result<(), StoreError> {
    query(
        "INSERT INTO resource_samples (run_id, unix_ns, process_user_ns, process_system_ns, \
         machine_user_ns, machine_system_ns, rss_bytes, gpu_memory_bytes, gpu_busy_percent, \
         pcie_bytes, nvlink_bytes, gpu_energy_uj) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(run)
    .bind(number(sample.unix_ns))
    .bind(number(sample.process_user_ns))
    .bind(number(sample.process_system_ns))
    .bind(number(sample.machine_user_ns))
    .bind(number(sample.machine_system_ns))
    .bind(number(sample.rss_bytes))
    .bind(sample.gpu_memory_bytes.map(number))
    .bind(sample.gpu_busy_percent)
    .bind(sample.pcie_bytes.map(number))
    .bind(sample.nvlink_bytes.map(number))
    .bind(sample.gpu_energy_uj.map(number))
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_model(
    connection: &mut SqliteConnection,
    run: i64,
    model: &ModelRow,
) -> Result<(), StoreError> {
    query(
        "INSERT INTO models (run_id, name, version, engine, device, precision, sha256, \
         loaded_unix_ns) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(run)
    .bind(model.name.as_str())
    .bind(model.version.as_str())
    .bind(model.engine.as_str())
    .bind(model.device.as_str())
    .bind(model.precision)
    .bind(model.sha256.as_str())
    .bind(number(model.loaded_unix_ns))
    .execute(connection)
    .await?;
    Ok(())
}

/// Adds what was lost to its runs.
pub(crate) async fn insert_lost(
    connection: &mut SqliteConnection,
    batch: &Batch,
) -> Result<(), StoreError> {
    for &(run, rows) in &batch.lost {
        query("UPDATE runs SET lost = lost + ? WHERE id = ?")
            .bind(number(rows))
            .bind(batch.run(run))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
