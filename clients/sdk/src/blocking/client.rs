//! A connection for programs without an async runtime: it brings one of its own.

use std::sync::Arc;

use tokio::runtime::{Handle, Runtime};

use crate::blocking::Session;
use crate::error::Error;
use crate::options::SessionBuilder;
use crate::recorder::RecordCounts;

/// A connection to a server. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    pub(super) inner: crate::Client,
    runtime: Runs,
}

/// What runs the calls of the control plane.
#[derive(Clone, Debug)]
enum Runs {
    Own(Arc<Runtime>),
    /// The application's, which may end before a session does.
    Lent(Handle),
}

impl Client {
    /// Connects to `server`, such as `127.0.0.1:7077` or `http://127.0.0.1:7077`.
    ///
    /// # Errors
    /// [`Error::Address`] if that is no such address, [`Error::Connect`] if nobody answers there.
    pub fn connect(server: &str) -> Result<Client, Error> {
        Client::connect_with(server, None)
    }

    /// Connects as a tenant, where the server has tenants.
    ///
    /// # Errors
    /// As [`connect`](Client::connect).
    pub fn connect_with(server: &str, key: Option<&str>) -> Result<Client, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("ferry-control")
            .enable_all()
            .build()
            .map_err(|source| Error::Start { what: "the control plane's runtime", source })?;
        let inner = runtime.block_on(crate::Client::connect_with(server, key))?;
        Ok(Client { inner, runtime: Runs::Own(Arc::new(runtime)) })
    }

    /// The blocking form of an async client, for a thread of its runtime's.
    pub(crate) fn lent(inner: crate::Client, runtime: Handle) -> Client {
        Client { inner, runtime: Runs::Lent(runtime) }
    }

    /// Asks for a session with a model.
    pub fn session(&self, model: &str) -> SessionBuilder<'_, Client> {
        SessionBuilder { client: self, options: self.inner.options(model) }
    }

    /// Runs a future of the async API, for the other services of [`v1`](crate::v1).
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        match &self.runtime {
            Runs::Own(runtime) => runtime.block_on(future),
            Runs::Lent(runtime) => runtime.block_on(future),
        }
    }

    /// The runtime that goes on without this client, where it is the application's.
    pub(super) fn lender(&self) -> Option<Handle> {
        match &self.runtime {
            Runs::Own(_) => None,
            Runs::Lent(runtime) => Some(runtime.clone()),
        }
    }

    /// The async client behind this one.
    pub fn control(&self) -> &crate::Client {
        &self.inner
    }

    /// Sends the timings that wait, and says what became of all so far.
    pub fn flush(&self) -> RecordCounts {
        self.run(self.inner.flush())
    }
}

impl SessionBuilder<'_, Client> {
    /// Opens the session and connects its data plane.
    ///
    /// # Errors
    /// [`Error::Refused`] with what the server says, [`Error::Attach`] if the data plane cannot be
    /// connected.
    pub fn open(self) -> Result<Session, Error> {
        Session::open(self.client.clone(), self.options)
    }
}
