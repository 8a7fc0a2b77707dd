//! `ferry.v1.Runs`.

use std::sync::Arc;
use std::time::Duration;

use ferry_core::RequestRecord;
use ferry_proto::{WireError, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Streaming};

use super::{auth, to_wire};
use crate::error::ApiError;
use crate::host::clock::unix_ns;
use crate::host::machine::COMMIT;
use crate::runs::{is_theirs, no_such_run};
use crate::state::State;
use crate::store::{Cell, NewRun, QueryError, QueryLimits, Rows, Run, RunEnd, StoreError};
use crate::tenants::Identity;

/// How long the end of a run waits for its rows to be stored.
const FLUSH_WAIT: Duration = Duration::from_secs(30);

/// Runs of a list whose length is not asked for.
const LIST_DEFAULT: u32 = 50;

/// Longest list of runs: further ones are found by SQL.
const LIST_MAX: u32 = 1000;

/// Longest name, kind or note of a run, in bytes.
const TEXT_BYTES_MAX: usize = 4 << 10;

/// Longest options of a run, in bytes: a few lines of JSON.
const OPTIONS_BYTES_MAX: usize = 16 << 10;

/// Most rows of a query, whatever the caller allows.
const ROWS_MAX: u64 = 10_000_000;

/// Rows of one message, where they are short.
const ROWS_PER_MESSAGE: usize = 256;

/// Bytes of one message's texts and blobs; the row that goes past it is the last.
const BYTES_PER_MESSAGE: usize = 256 << 10;

/// Messages that wait for a slow caller.
const MESSAGES_WAITING_MAX: usize = 4;

/// The service.
#[derive(Clone, Debug)]
pub struct RunsService(pub Arc<State>);

type Reply<T> = Result<Response<T>, tonic::Status>;

fn bounded(field: &'static str, text: String, limit: usize) -> Result<String, ApiError> {
    if text.len() <= limit {
        return Ok(text);
    }
    Err(ApiError::field(field, format!("{} bytes; at most {limit}", text.len())))
}

fn json_object(field: &'static str, text: String) -> Result<String, ApiError> {
    let text = bounded(field, text, OPTIONS_BYTES_MAX)?;
    let text = if text.is_empty() { "{}".to_owned() } else { text };
    match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(ApiError::field(field, format!("not a JSON object: {error}"))),
    }
}

impl RunsService {
    /// A run that `who` may see.
    async fn find(&self, id: i64, who: &Identity) -> Result<Run, ApiError> {
        let run = self.0.store.get_run(id).await?;
        let theirs = run.filter(|run| is_theirs(run.new.tenant.as_deref(), who));
        theirs.ok_or_else(|| no_such_run(id))
    }

    async fn with_count(&self, run: Run) -> Result<v1::Run, ApiError> {
        let counts = self.0.store.count_requests(&[run.id]).await?;
        Ok(to_wire::run(run, counts.first().map_or(0, |&(_, count)| count)))
    }

    /// The rows of a batch and what its client lost, if its sender owns the session, and both are
    /// of the session's run.
    fn check(
        &self,
        batch: &v1::TimingBatch,
        reference: &v1::SessionRef,
        who: &Identity,
    ) -> Result<(Vec<RequestRecord>, u64), ApiError> {
        let (id, token, _) = reference.parts()?;
        let refused = |what, error: ApiError| {
            self.0.refusals.note("grpc", what, Some(id), who.name(), &error);
            error
        };
        let account = self.0.sessions.prove_owner(id, &token);
        let account = account.map_err(|error| refused("credentials", error))?;
        let is_own = who.tenant().is_some_and(|tenant| Arc::ptr_eq(tenant, &account.tenant));
        if !is_own {
            return Err(refused("credentials", ApiError::NoSuchSession));
        }
        if batch.run_id != account.run {
            let why = format!("{}; the session is of run {}", batch.run_id, account.run);
            return Err(refused("foreign_run", ApiError::field("run_id", why)));
        }
        let rows = ferry_proto::rows(batch)?;
        Ok((rows, account.meter.drop_rows(batch.lost)))
    }
}

#[tonic::async_trait]
impl v1::runs_server::Runs for RunsService {
    type QueryStream = ReceiverStream<Result<v1::QueryResponse, tonic::Status>>;

    async fn start(&self, request: Request<v1::StartRunRequest>) -> Reply<v1::Run> {
        let who = auth::identity(&request)?.clone();
        let asked = request.into_inner();
        let new = NewRun {
            name: bounded("name", asked.name, TEXT_BYTES_MAX)?,
            kind: bounded("kind", asked.kind, TEXT_BYTES_MAX)?,
            started_unix_ns: unix_ns(),
            machine: self.0.about.machine.clone(),
            git_commit: COMMIT.to_owned(),
            options_json: json_object("options_json", asked.options_json)?,
            libraries_json: self.0.about.libraries_json.clone(),
            warmup: asked.warmup,
            notes: bounded("notes", asked.notes, TEXT_BYTES_MAX)?,
            tenant: who.tenant().map(|tenant| tenant.name().to_owned()),
        };
        let place = self.0.runs.place(&who).inspect_err(|error| {
            self.0.refusals.note("grpc", "quota", None, new.tenant.as_deref(), error);
        })?;
        let id = self.0.store.start_run(&new).await.map_err(ApiError::from)?;
        place.take(id);
        let run = Run { id, new, finished_unix_ns: None, lost: 0 };
        Ok(Response::new(to_wire::run(run, 0)))
    }

    async fn finish(&self, request: Request<v1::FinishRunRequest>) -> Reply<v1::Run> {
        let who = auth::identity(&request)?.clone();
        let v1::FinishRunRequest { run_id, flush } = request.into_inner();
        if run_id == 0 || run_id == self.0.about.own_run {
            let why = "the server's own run ends with the server".to_owned();
            return Err(ApiError::field("run_id", why).into());
        }
        let run = self.find(run_id, &who).await?;
        if run.finished_unix_ns.is_some() {
            return Err(ApiError::Finished { run: run_id }.into());
        }
        if flush && let Err(error) = self.0.recorder.flush(FLUSH_WAIT).await {
            // Told by `requests` and `lost` of the answer, and by Admin.Status.
            tracing::warn!(run_id, %error, "rows of the run are not all stored yet");
        }
        let end = RunEnd { finished_unix_ns: unix_ns(), notes: None };
        match self.0.store.finish_run(run_id, &end).await {
            Ok(()) => self.0.runs.finished(run_id),
            // Somebody else was first.
            Err(StoreError::NoSuchRun { .. }) => {
                return Err(ApiError::Finished { run: run_id }.into());
            }
            Err(error) => return Err(ApiError::from(error).into()),
        }
        let run = self.find(run_id, &who).await?;
        Ok(Response::new(self.with_count(run).await?))
    }

    async fn record(
        &self,
        request: Request<Streaming<v1::TimingBatch>>,
    ) -> Reply<v1::RecordSummary> {
        let who = auth::identity(&request)?.clone();
        let mut batches = request.into_inner();
        let mut summary = v1::RecordSummary::default();
        while let Some(batch) = batches.message().await? {
            let count = batch.request.len() as u64;
            let Some(reference) = &batch.session else {
                let error = ApiError::from(WireError::Missing("session"));
                self.0.refusals.note("grpc", "no_session", None, who.name(), &error);
                return Err(error.into());
            };
            match self.check(&batch, reference, &who) {
                Ok((rows, dropped)) => {
                    self.0.recorder.lose(batch.run_id, dropped);
                    let taken = rows.into_iter().filter(|&row| self.0.recorder.record(row));
                    let taken = taken.count() as u64;
                    summary.accepted += taken;
                    summary.lost += count.saturating_sub(taken);
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
        let who = auth::identity(&request)?.clone();
        let limit = request.into_inner().limit;
        let limit = if limit == 0 { LIST_DEFAULT } else { limit.min(LIST_MAX) };
        // The operator sees every run; a tenant its own; who is neither did not get here.
        let tenant = if who.is_operator() { None } else { Some(auth::name(&who)?) };
        let store = &self.0.store;
        let runs = store.list_runs(tenant, limit).await.map_err(ApiError::from)?;
        let ids: Vec<i64> = runs.iter().map(|run| run.id).collect();
        let counts = store.count_requests(&ids).await.map_err(ApiError::from)?;
        let runs = runs.into_iter().zip(counts).map(|(run, (_, requests))| v1::Run {
            // Get tells them: a list stays short.
            options_json: String::new(),
            notes: String::new(),
            ..to_wire::run(run, requests)
        });
        Ok(Response::new(v1::ListRunsResponse { runs: runs.collect() }))
    }

    async fn get(&self, request: Request<v1::GetRunRequest>) -> Reply<v1::Run> {
        let who = auth::identity(&request)?.clone();
        let run = self.find(request.into_inner().run_id, &who).await?;
        Ok(Response::new(self.with_count(run).await?))
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
    let mut bytes = 0;
    loop {
        match rows.next().await {
            Some(Ok(cells)) => {
                bytes += cells.iter().map(Cell::bytes).sum::<usize>();
                message.rows.push(to_wire::row(cells));
            }
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
        if message.rows.len() >= ROWS_PER_MESSAGE || bytes >= BYTES_PER_MESSAGE {
            bytes = 0;
            if sender.send(Ok(std::mem::take(&mut message))).await.is_err() {
                return;
            }
        }
    }
    drop(sender.send(Ok(message)).await);
}
