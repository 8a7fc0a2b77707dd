//! `ferry.v1.Runs`.

use std::sync::Arc;
use std::time::Duration;

use ferry_core::RequestRecord;
use ferry_proto::{WireError, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Streaming};

use super::to_wire;
use crate::error::ApiError;
use crate::host::clock::unix_ns;
use crate::host::machine::COMMIT;
use crate::state::State;
use crate::store::{Cell, NewRun, QueryError, QueryLimits, Rows, Run, RunEnd};

/// How long the end of a run waits for its rows to be stored.
const FLUSH_WAIT: Duration = Duration::from_secs(30);

/// Runs of a list whose length is not asked for.
const LIST_DEFAULT: u32 = 50;

/// Longest list of runs.
const LIST_MAX: u32 = 10_000;

/// Longest text of a run, in bytes: options are a few lines of JSON.
const TEXT_BYTES_MAX: usize = 64 << 10;

/// Most rows of a query, whatever the caller allows.
const ROWS_MAX: u64 = 10_000_000;

/// Rows of one message: some tens of kilobytes.
const ROWS_PER_MESSAGE: usize = 256;

/// Messages that wait for a slow caller.
const MESSAGES_WAITING_MAX: usize = 4;

/// The service.
#[derive(Clone, Debug)]
pub struct RunsService(pub Arc<State>);

type Reply<T> = Result<Response<T>, tonic::Status>;

fn bounded(field: &'static str, text: String) -> Result<String, ApiError> {
    if text.len() <= TEXT_BYTES_MAX {
        return Ok(text);
    }
    Err(ApiError::field(field, format!("{} bytes; at most {TEXT_BYTES_MAX}", text.len())))
}

fn json_object(field: &'static str, text: String) -> Result<String, ApiError> {
    let text = if text.is_empty() { "{}".to_owned() } else { bounded(field, text)? };
    match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(ApiError::field(field, format!("not a JSON object: {error}"))),
    }
}

impl RunsService {
    async fn run(&self, id: i64) -> Result<v1::Run, ApiError> {
        let run = self.0.store.get_run(id).await?.ok_or_else(|| ApiError::NotFound {
            kind: "run",
            name: id.to_string(),
            hint: "Runs.List shows those there are".into(),
        })?;
        let requests = self.requests(&[id]).await?;
        Ok(to_wire::run(run, requests.first().map_or(0, |&(_, count)| count)))
    }

    /// How many requests each of these runs has.
    async fn requests(&self, runs: &[i64]) -> Result<Vec<(i64, u64)>, ApiError> {
        let ids: Vec<String> = runs.iter().map(i64::to_string).collect();
        let sql = format!(
            "SELECT run_id, count(*) FROM request_rows WHERE run_id IN ({}) GROUP BY run_id",
            ids.join(",")
        );
        let rows = self.0.store.query(&sql, QueryLimits::default()).await?.all().await?;
        let pair = |row: Vec<Cell>| match row.as_slice() {
            &[Cell::Integer(run), Cell::Integer(count)] => Some((run, u64::try_from(count).ok()?)),
            _ => None,
        };
        Ok(rows.into_iter().filter_map(pair).collect())
    }

    /// The rows of a batch, if its sender owns the session and the run is one.
    async fn check(&self, batch: &v1::TimingBatch) -> Result<Vec<RequestRecord>, ApiError> {
        let reference = batch.session.as_ref().ok_or(WireError::Missing("session"))?;
        let (id, token, _) = reference.parts()?;
        self.0.sessions.prove_owner(id, &token).inspect_err(|error| {
            self.0.refusals.note("grpc", "credentials", Some(id), None, error);
        })?;
        self.0.runs.check(&self.0.store, batch.run_id).await?;
        Ok(ferry_proto::rows(batch)?)
    }
}

#[tonic::async_trait]
impl v1::runs_server::Runs for RunsService {
    type QueryStream = ReceiverStream<Result<v1::QueryResponse, tonic::Status>>;

    async fn start(&self, request: Request<v1::StartRunRequest>) -> Reply<v1::Run> {
        let asked = request.into_inner();
        let new = NewRun {
            name: bounded("name", asked.name)?,
            kind: bounded("kind", asked.kind)?,
            started_unix_ns: unix_ns(),
            machine: self.0.about.machine.clone(),
            git_commit: COMMIT.to_owned(),
            options_json: json_object("options_json", asked.options_json)?,
            libraries_json: self.0.about.libraries_json.clone(),
            warmup: asked.warmup,
            notes: bounded("notes", asked.notes)?,
        };
        let id = self.0.store.start_run(&new).await.map_err(ApiError::from)?;
        self.0.runs.started(id);
        let run = Run { id, new, finished_unix_ns: None, lost: 0 };
        Ok(Response::new(to_wire::run(run, 0)))
    }

    async fn finish(&self, request: Request<v1::FinishRunRequest>) -> Reply<v1::Run> {
        let v1::FinishRunRequest { run_id, flush } = request.into_inner();
        if run_id == 0 || run_id == self.0.about.own_run {
            let why = "the server's own run ends with the server".to_owned();
            return Err(ApiError::field("run_id", why).into());
        }
        if flush && let Err(error) = self.0.recorder.flush(FLUSH_WAIT).await {
            // Told by `requests` and `lost` of the answer, and by Admin.Status.
            tracing::warn!(run_id, %error, "rows of the run are not all stored yet");
        }
        let lost = self.0.runs.finished(run_id);
        let end = RunEnd { finished_unix_ns: unix_ns(), notes: None, lost };
        self.0.store.finish_run(run_id, &end).await.map_err(ApiError::from)?;
        Ok(Response::new(self.run(run_id).await?))
    }

    async fn record(
        &self,
        request: Request<Streaming<v1::TimingBatch>>,
    ) -> Reply<v1::RecordSummary> {
        let mut batches = request.into_inner();
        let mut summary = v1::RecordSummary::default();
        while let Some(batch) = batches.message().await? {
            let count = batch.request.len() as u64;
            self.0.runs.lost(batch.run_id, batch.lost.min(u64::from(u32::MAX)));
            match self.check(&batch).await {
                Ok(rows) => {
                    let lost_before = self.0.recorder.health().rows_lost;
                    rows.into_iter().for_each(|row| self.0.recorder.record(row));
                    // Others may lose rows at the same moment: the sum of all is exact, in the
                    // run's `lost`.
                    let lost = self.0.recorder.health().rows_lost.saturating_sub(lost_before);
                    summary.lost += lost.min(count);
                    summary.accepted += count.saturating_sub(lost);
                }
                Err(error) => {
                    tracing::debug!(%error, rows = count, "timings refused");
                    summary.refused += count;
                }
            }
        }
        Ok(Response::new(summary))
    }

    async fn list(&self, request: Request<v1::ListRunsRequest>) -> Reply<v1::ListRunsResponse> {
        let limit = request.into_inner().limit;
        let limit = if limit == 0 { LIST_DEFAULT } else { limit.min(LIST_MAX) };
        let runs = self.0.store.list_runs(limit).await.map_err(ApiError::from)?;
        let ids: Vec<i64> = runs.iter().map(|run| run.id).collect();
        let counts = self.requests(&ids).await?;
        let count = |id| counts.iter().find(|(run, _)| *run == id).map_or(0, |&(_, count)| count);
        let runs = runs.into_iter().map(|run| {
            let requests = count(run.id);
            to_wire::run(run, requests)
        });
        Ok(Response::new(v1::ListRunsResponse { runs: runs.collect() }))
    }

    async fn get(&self, request: Request<v1::GetRunRequest>) -> Reply<v1::Run> {
        Ok(Response::new(self.run(request.into_inner().run_id).await?))
    }

    async fn query(&self, request: Request<v1::QueryRequest>) -> Reply<Self::QueryStream> {
        let v1::QueryRequest { sql, rows_max } = request.into_inner();
        let mut limits = QueryLimits::default();
        if rows_max > 0 {
            limits.rows = rows_max.min(ROWS_MAX);
        }
        let rows = self.0.store.query(&sql, limits).await.map_err(ApiError::from)?;
        let (sender, receiver) = mpsc::channel(MESSAGES_WAITING_MAX);
        tokio::spawn(stream(rows, sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Sends the rows in messages; the last one says whether there were more. Ends when the caller
/// goes away.
async fn stream(mut rows: Rows, sender: mpsc::Sender<Result<v1::QueryResponse, tonic::Status>>) {
    let columns = rows.columns().to_vec();
    let mut message = v1::QueryResponse { columns, ..v1::QueryResponse::default() };
    loop {
        match rows.next().await {
            Some(Ok(cells)) => message.rows.push(to_wire::row(cells)),
            Some(Err(QueryError::RowLimit { .. })) => {
                message.truncated = true;
                break;
            }
            Some(Err(error)) => {
                // A caller that went away needs no error.
                drop(sender.send(Err(ApiError::from(error).into())).await);
                return;
            }
            None => break,
        }
        if message.rows.len() >= ROWS_PER_MESSAGE
            && sender.send(Ok(std::mem::take(&mut message))).await.is_err()
        {
            return;
        }
    }
    drop(sender.send(Ok(message)).await);
}
