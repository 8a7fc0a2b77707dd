//! A connection to a server, as Python uses it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ferry_client::blocking;
use ferry_client::v1::models_client::ModelsClient;
use ferry_client::v1::runs_client::RunsClient;
use ferry_client::{Channel, Error, v1};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use crate::answers;
use crate::errors::{ClosedError, raise};
use crate::home::{Home, away, away_if_held};

/// How often a thread that waits looks whether Ctrl-C was pressed.
pub(crate) const SIGNALS_EVERY: Duration = Duration::from_millis(100);

/// A connection to a server's control plane.
#[pyclass(frozen, subclass, weakref, module = "tensorferry._native")]
pub(crate) struct Client {
    /// `None` once it is closed.
    inner: Mutex<Option<blocking::Client>>,
    server: String,
    home: Home,
}

impl Client {
    fn lock(&self) -> MutexGuard<'_, Option<blocking::Client>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client behind this one.
    pub(crate) fn open(&self) -> PyResult<blocking::Client> {
        self.home.check()?;
        let closed = || ClosedError::new_err("the client is closed: make another one");
        self.lock().clone().ok_or_else(closed)
    }

    /// Waits for an answer of the server, and for Ctrl-C.
    fn ask<T: Send, F: Future<Output = Result<T, Error>> + Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(Channel) -> F,
    ) -> PyResult<T> {
        let client = self.open()?;
        let mut answer = Box::pin(call(client.control().channel()));
        loop {
            let part = async { tokio::time::timeout(SIGNALS_EVERY, answer.as_mut()).await };
            if let Ok(answer) = away(py, || client.run(part)) {
                return answer.map_err(raise);
            }
            py.check_signals()?;
        }
    }
}

#[pymethods]
impl Client {
    #[new]
    #[pyo3(signature = (server, key=None))]
    fn new(py: Python<'_>, server: String, key: Option<String>) -> PyResult<Client> {
        let connected = away(py, || blocking::Client::connect_with(&server, key.as_deref()));
        let inner = Mutex::new(Some(connected.map_err(raise)?));
        Ok(Client { inner, server, home: Home::here() })
    }

    /// The address that it was given.
    #[getter]
    fn server(&self) -> &str {
        &self.server
    }

    /// Whether it was closed.
    #[getter]
    fn closed(&self) -> bool {
        self.lock().is_none()
    }

    fn _models<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let told = self.ask(py, |channel| async move {
            let told = ModelsClient::new(channel).list(v1::ListModelsRequest {}).await;
            told.map_err(|it| Error::Refused { doing: "list the models", status: Box::new(it) })
        })?;
        let models = told.into_inner().models.into_iter();
        PyList::new(py, models.map(|it| answers::model(py, it)).collect::<PyResult<Vec<_>>>()?)
    }

    fn _runs<'py>(&self, py: Python<'py>, limit: u32) -> PyResult<Bound<'py, PyList>> {
        let told = self.ask(py, |channel| async move {
            let told = RunsClient::new(channel).list(v1::ListRunsRequest { limit }).await;
            told.map_err(|it| Error::Refused { doing: "list the runs", status: Box::new(it) })
        })?;
        let runs = told.into_inner().runs.into_iter();
        PyList::new(py, runs.map(|it| answers::run(py, it)).collect::<PyResult<Vec<_>>>()?)
    }

    /// Columns, rows, and whether there were more than allowed.
    fn _sql<'py>(
        &self,
        py: Python<'py>,
        sql: String,
        rows_max: u64,
    ) -> PyResult<(Vec<String>, Bound<'py, PyList>, bool)> {
        let (columns, rows, truncated) = self.ask(py, |channel| async move {
            let failed = |status| Error::Refused { doing: "query the store", status };
            let query = RunsClient::new(channel).query(v1::QueryRequest { sql, rows_max }).await;
            let mut parts = query.map_err(|it| failed(Box::new(it)))?.into_inner();
            let (mut columns, mut rows, mut truncated) = (Vec::new(), Vec::new(), false);
            // The server bounds rows and bytes.
            while let Some(part) = parts.message().await.map_err(|it| failed(Box::new(it)))? {
                if !part.columns.is_empty() {
                    columns = part.columns;
                }
                truncated |= part.truncated;
                rows.extend(part.rows);
            }
            Ok((columns, rows, truncated))
        })?;
        let rows = rows.into_iter().map(|row| {
            let values = row.values.into_iter().map(|value| answers::value(py, value));
            PyTuple::new(py, values.collect::<PyResult<Vec<_>>>()?)
        });
        Ok((columns, PyList::new(py, rows.collect::<PyResult<Vec<_>>>()?)?, truncated))
    }

    /// Sends the timings that wait, and says what became of all so far.
    fn flush<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let client = self.open()?;
        answers::counts(py, away(py, || client.flush()))
    }

    /// Ends the connection. Sessions that are open go on.
    fn _close(&self, py: Python<'_>) -> PyResult<()> {
        self.home.check()?;
        let client = self.lock().take();
        away(py, || drop(client));
        Ok(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let client = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if self.home.is_here() {
            away_if_held(|| drop(client));
        } else {
            // Its threads are the parent's.
            std::mem::forget(client);
        }
    }
}
