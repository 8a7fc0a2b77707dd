//! `ferry.v1.Runs`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ferry_proto::{WireError, rows, v1};
use futures_util::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Streaming};

use super::{operator, tenant, to_wire};
use crate::clock::unix_ns;
use crate::error::ApiError;
use crate::machine::COMMIT;
use crate::state::State;
use crate::store::{NewRun, QueryLimits, Rows, Run, RunEnd};

/// Runs that are listed where nobody says how many.
const LIST_DEFAULT: u32 = 50;

/// Most runs that are listed.
const LIST_MAX: u32 = 10_000;

/// Longest text of a run, in bytes: options are a few hundred.
const TEXT_BYTES_MAX: usize = 64 << 10;

/// How long the end of a run waits for its timings to be stored.
const FLUSH_WAIT: Duration = Duration::from_secs(30);

/// Rows of one message of a query's answer.
const ROWS_PER_MESSAGE: usize = 256;

/// Messages that wait for a slow reader.
const MESSAGES_WAITING: usize = 4;

/// The service.
#[derive(Clone, Debug)]
pub struct RunsService(pub Arc<State>);

type Reply<T> = Result<Response<T>, tonic::Status>;

impl RunsService {
    async fn one(&self, id: i64) -> Result<v1::Run, ApiError> {
        let run = self.0.store.get_run(id).await?.ok_or_else(|| ApiError::NotFound {
            kind: "run",
            name: id.to_string(),
            hint: "see Runs.List".into(),
        })?;
        let requests = self.count(&run).await;
        Ok(to_wire::run(run, requests))
    }

    /// How many requests of a run are stored; 0 where the store does not tell.
    async fn count(&self, run: &Run) -> u64 {
        let sql = format!("SELECT count(*) FROM request_rows WHERE run_id = {}", run.id);
        let rows = match self.0.store.query(&sql, QueryLimits::default()).await {
            Ok(rows) => rows.all().await,
            Err(error) => Err(error),
        };
        match rows.as_deref() {
            Ok([row]) => match row.first() {
                Some(crate::store::Cell::Integer(count)) => u64::try_from(*count).unwrap_or(0),
                _ => 0,
            },
            _ => 0,
        }
    }

    /// Takes a batch into the recorder; how many rows there were.
    async fn take(&self, batch: &v1::TimingBatch) -> Result<u64, ApiError> {
        let reference = batch.session.as_ref().ok_or(WireError::Missing("session"))?;
        let (id, token, _) = reference.parts()?;
        // A session that was resumed meanwhile still reports what it did before.
        let session = self.0.sessions.find(id).ok_or(ApiError::Credentials)?;
        self.0.sessions.prove(id, &token, session.generation())?;
        self.0.runs.check(&self.0.store, batch.run_id).await?;
        let rows = rows(batch)?;
        self.0.runs.lost(batch.run_id, batch.lost);
        for row in &rows {
            self.0.recorder.record(*row);
        }
        Ok(rows.len() as u64)
    }
}

fn check_texts(request: &v1::StartRunRequest) -> Result<(), ApiError> {
    let texts = [
        ("name", &request.name),
        ("kind", &request.kind),
        ("options_json", &request.options_json),
        ("notes", &request.notes),
    ];
    for (field, text) in texts {
        if text.len() > TEXT_BYTES_MAX {
            let why = format!("{} bytes; at most {TEXT_BYTES_MAX}", text.len());
            return Err(ApiError::field(field, why));
        }
    }
    let json = &request.options_json;
    if !json.is_empty() && serde_json::from_str::<serde_json::Value>(json).is_err() {
        return Err(ApiError::field("options_json", "it is not JSON"));
    }
    Ok(())
}

#[tonic::async_trait]
impl v1::runs_server::Runs for RunsService {
    type QueryStream = Pin<Box<dyn Stream<Item = Result<v1::QueryResponse, tonic::Status>> + Send>>;

    async fn start(&self, request: Request<v1::StartRunRequest>) -> Reply<v1::Run> {
        tenant(&self.0, request.metadata())?;
        let request = request.into_inner();
        check_texts(&request)?;
        let state = &self.0;
        let or_empty = |json: String| if json.is_empty() { "{}".to_owned() } else { json };
        let new = NewRun {
            name: request.name,
            kind: request.kind,
            started_unix_ns: unix_ns(),
            machine: state.machine.clone(),
            git_commit: COMMIT.into(),
            options_json: or_empty(request.options_json),
            libraries_json: state.libraries_json.clone(),
            warmup: request.warmup,
            notes: request.notes,
        };
        let id = state.store.start_run(&new).await.map_err(ApiError::from)?;
        state.runs.started(id);
        let run = Run { id, new, finished_unix_ns: None, lost: 0 };
        Ok(Response::new(to_wire::run(run, 0)))
    }

    async fn finish(&self, request: Request<v1::FinishRunRequest>) -> Reply<v1::Run> {
        tenant(&self.0, request.metadata())?;
        let v1::FinishRunRequest { run_id, flush } = request.into_inner();
        if run_id == self.0.own_run || run_id == 0 {
            return Err(ApiError::field("run_id", "the server's own run ends with it").into());
        }
        if flush && let Err(error) = self.0.recorder.flush(FLUSH_WAIT).await {
            tracing::warn!(run_id, %error, "not all timings of the run are stored yet");
        }
        let lost = self.0.runs.finished(run_id);
        let end = RunEnd { finished_unix_ns: unix_ns(), notes: None, lost };
        self.0.store.finish_run(run_id, &end).await.map_err(ApiError::from)?;
        Ok(Response::new(self.one(run_id).await?))
    }

    async fn record(
        &self,
        request: Request<Streaming<v1::TimingBatch>>,
    ) -> Reply<v1::RecordSummary> {
        let mut batches = request.into_inner();
        let lost_before = self.0.recorder.health().rows_lost;
        let mut summary = v1::RecordSummary::default();
        while let Some(batch) = batches.message().await? {
            match self.take(&batch).await {
                Ok(rows) => summary.accepted += rows,
                Err(error) => {
                    self.0.refusals.note("grpc", "timings", None, None, &error);
                    summary.refused += batch.request.len() as u64;
                }
            }
        }
        // What others lost meanwhile counts too: who lost what, the queue does not know.
        let lost = self.0.recorder.health().rows_lost.saturating_sub(lost_before);
        summary.lost = lost.min(summary.accepted);
        summary.accepted -= summary.lost;
        Ok(Response::new(summary))
    }

    async fn list(&self, request: Request<v1::ListRunsRequest>) -> Reply<v1::ListRunsResponse> {
        tenant(&self.0, request.metadata())?;
        let limit = match request.into_inner().limit {
            0 => LIST_DEFAULT,
            limit => limit.min(LIST_MAX),
        };
        let mut runs = Vec::new();
        for run in self.0.store.list_runs(limit).await.map_err(ApiError::from)? {
            let requests = self.count(&run).await;
            runs.push(to_wire::run(run, requests));
        }
        Ok(Response::new(v1::ListRunsResponse { runs }))
    }

    async fn get(&self, request: Request<v1::GetRunRequest>) -> Reply<v1::Run> {
        tenant(&self.0, request.metadata())?;
        Ok(Response::new(self.one(request.into_inner().run_id).await?))
    }

    /// The history holds every tenant's rows: only the operator may ask.
    async fn query(&self, request: Request<v1::QueryRequest>) -> Reply<Self::QueryStream> {
        operator(&self.0, request.metadata())?;
        let v1::QueryRequest { sql, rows_max } = request.into_inner();
        let mut limits = QueryLimits::default();
        if rows_max > 0 {
            limits.rows = limits.rows.min(rows_max);
        }
        let rows = self.0.store.query(&sql, limits).await.map_err(ApiError::from)?;
        let (sender, receiver) = tokio::sync::mpsc::channel(MESSAGES_WAITING);
        tokio::spawn(send_rows(rows, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

type Message = Result<v1::QueryResponse, tonic::Status>;

/// Sends rows in messages until there are none or nobody reads.
async fn send_rows(mut rows: Rows, sender: tokio::sync::mpsc::Sender<Message>) {
    let columns = rows.columns().to_vec();
    let mut message = v1::QueryResponse { columns, ..Default::default() };
    loop {
        let next = rows.next().await;
        match next {
            Some(Ok(cells)) => message.rows.push(to_wire::row(cells)),
            Some(Err(crate::store::QueryError::RowLimit { .. })) => {
                message.truncated = true;
                break;
            }
            Some(Err(error)) => {
                // A reader that is gone does not hear it.
                drop(sender.send(Err(ApiError::from(error).into())).await);
                return;
            }
            None => break,
        }
        if message.rows.len() >= ROWS_PER_MESSAGE {
            let full = std::mem::take(&mut message);
            if sender.send(Ok(full)).await.is_err() {
                return;
            }
        }
    }
    drop(sender.send(Ok(message)).await);
}
