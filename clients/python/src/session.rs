//! A session as Python uses it: any thread may, and none holds the interpreter while it waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_client::{Agreed, BoundTensor};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use crate::answers;
use crate::client::{Client, SIGNALS_EVERY};
use crate::errors::{Fault, ReplyTimeout, raise};
use crate::home::{Home, away, away_if_held};
use crate::reply::Reply;
use crate::slot::Slot;
use crate::turns::Turns;

/// How long a reply is waited for where nobody says; as in the SDK.
const TIMEOUT: Duration = Duration::from_secs(60);

/// As good as no bound, and far from the end of every clock.
const TIMEOUT_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// A session with a model.
#[pyclass(frozen, subclass, weakref, module = "tensorferry._native")]
pub(crate) struct Session {
    turns: Arc<Turns>,
    /// Of the first lease.
    agreed: Agreed,
    timeout: Duration,
    home: Home,
}

impl Session {
    fn slot_of(&self, py: Python<'_>, what: &Bound<'_, PyAny>) -> PyResult<ferry_client::Slot> {
        static FILL: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        if let Ok(slot) = what.cast::<Slot>() {
            return slot.get().take(py, &self.turns);
        }
        let fill = FILL.import(py, "tensorferry._arrays", "fill")?;
        let slot = fill.call1((self.slot(py)?, what))?;
        slot.cast::<Slot>()?.get().take(py, &self.turns)
    }

    fn tensors<'py>(py: Python<'py>, of: &[BoundTensor]) -> PyResult<Vec<Bound<'py, PyDict>>> {
        of.iter().map(|it| answers::tensor(py, it)).collect()
    }
}

fn seconds(timeout: f64) -> PyResult<Duration> {
    let parsed = Duration::try_from_secs_f64(timeout).ok().filter(|it| !it.is_zero());
    parsed.ok_or_else(|| {
        let text = format!("timeout={timeout}: give seconds, more than 0, such as 0.5");
        pyo3::exceptions::PyValueError::new_err(text)
    })
}

fn named<T: std::str::FromStr<Err: std::fmt::Display>>(name: &str) -> PyResult<T> {
    name.parse().map_err(|why: T::Err| pyo3::exceptions::PyValueError::new_err(why.to_string()))
}

/// Waits for an answer and for Ctrl-C; `None` if it does not come in time.
fn wait(py: Python<'_>, turns: &Turns, request: u64, end: Instant) -> PyResult<Option<Reply>> {
    loop {
        let until = end.min(Instant::now() + SIGNALS_EVERY);
        if let Some(answer) = away(py, || turns.wait(request, until)) {
            return Ok(Some(Reply::new(answer?)));
        }
        if until == end {
            return Ok(None);
        }
        py.check_signals()?;
    }
}

fn end_of(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(TIMEOUT_MAX)
}

fn late(timeout: Duration) -> PyErr {
    ReplyTimeout::new_err(format!(
        "no answer within {timeout:?}; the request that was sent is still in flight"
    ))
}

#[pymethods]
impl Session {
    #[new]
    #[pyo3(signature = (
        client, model, *, version=0, transport=None, wait="adaptive", place=None, slots=4,
        shapes=None, request_bytes=0, reply_bytes=0, run=0, record=true, timeout=None
    ))]
    #[expect(clippy::too_many_arguments, reason = "keywords of Python, each with a default")]
    fn new(
        py: Python<'_>,
        client: &Bound<'_, Client>,
        model: &str,
        version: u64,
        transport: Option<&str>,
        wait: &str,
        place: Option<&str>,
        slots: u32,
        shapes: Option<Vec<(String, Vec<u64>)>>,
        request_bytes: u64,
        reply_bytes: u64,
        run: i64,
        record: bool,
        timeout: Option<f64>,
    ) -> PyResult<Session> {
        let client = client.get().open()?;
        let mut wish = client.session(model).version(version).wait(named(wait)?).slots(slots);
        wish = wish.request_bytes(request_bytes).reply_bytes(reply_bytes).run(run).record(record);
        if let Some(transport) = transport.filter(|it| *it != "auto") {
            wish = wish.transport(named(transport)?);
        }
        if let Some(place) = place {
            wish = wish.place(named(place)?);
        }
        for (tensor, shape) in shapes.into_iter().flatten() {
            wish = wish.shape(&tensor, &shape);
        }
        let timeout = timeout.map(seconds).transpose()?;
        if let Some(timeout) = timeout {
            wish = wish.timeout(timeout);
        }
        let session = away(py, || wish.open()).map_err(raise)?;
        let agreed = session.agreed().clone();
        let turns = Arc::new(Turns::new(session));
        Ok(Session { turns, agreed, timeout: timeout.unwrap_or(TIMEOUT), home: Home::here() })
    }

    /// A free slot. If the link was lost, the session is resumed first.
    fn slot(&self, py: Python<'_>) -> PyResult<Slot> {
        self.home.check()?;
        let slot = match self.turns.slot_at_once() {
            Some(slot) => slot,
            None => away(py, || self.turns.slot())?,
        };
        Ok(Slot::new(slot, &self.turns))
    }

    /// Sends a slot and waits for its reply.
    #[pyo3(signature = (slot, timeout=None))]
    fn infer(
        &self,
        py: Python<'_>,
        slot: &Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Reply> {
        let timeout = timeout.map_or(Ok(self.timeout), seconds)?;
        let slot = self.slot_of(py, slot)?;
        let turns = &*self.turns;
        let end = end_of(timeout);
        // Most replies come before anybody has to look for Ctrl-C.
        let (request, answer) = away(py, || {
            let request = turns.submit(slot, false)?;
            Ok((request, turns.wait(request, end.min(Instant::now() + SIGNALS_EVERY))))
        })
        .map_err(|fault: Fault| PyErr::from(fault))?;
        if let Some(answer) = answer {
            return Ok(Reply::new(answer?));
        }
        let answer = py.check_signals().and_then(|()| wait(py, turns, request, end));
        if !matches!(answer, Ok(Some(_))) {
            turns.forget(request);
        }
        answer?.ok_or_else(|| late(timeout))
    }

    /// Sends a slot, and returns at once with what its reply will come by.
    #[pyo3(signature = (slot, *, _watched=false))]
    fn submit(&self, py: Python<'_>, slot: &Bound<'_, PyAny>, _watched: bool) -> PyResult<Pending> {
        let slot = self.slot_of(py, slot)?;
        let request = away(py, || self.turns.submit(slot, _watched))?;
        let (turns, timeout) = (Arc::clone(&self.turns), self.timeout);
        Ok(Pending { turns, request, timeout, home: self.home })
    }

    /// Waits for requests that are watched.
    fn _watch(&self) -> Watch {
        Watch { turns: Arc::clone(&self.turns) }
    }

    /// Ends the session: sends the timings that wait, and frees what the server holds. Twice is
    /// once. `None` if it was closed before.
    fn close<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        self.home.check()?;
        match away(py, || self.turns.close()) {
            Some(closed) => answers::counts(py, closed.map_err(raise)?).map(Some),
            None => Ok(None),
        }
    }

    /// Whether it was closed here.
    #[getter]
    fn closed(&self, py: Python<'_>) -> bool {
        self.home.is_here()
            && away(py, || matches!(self.turns.with(|_| Ok(())), Err(Fault::Closed)))
    }

    /// The transport in use.
    #[getter]
    fn transport(&self) -> &'static str {
        self.agreed.transport.name()
    }

    /// Why this one, where the server chose.
    #[getter]
    fn transport_reason(&self) -> &str {
        &self.agreed.transport_reason
    }

    #[getter]
    fn model(&self) -> &str {
        &self.agreed.model
    }

    #[getter]
    fn version(&self) -> u64 {
        self.agreed.version
    }

    #[getter]
    fn engine(&self) -> &str {
        &self.agreed.engine
    }

    /// How many requests can be in flight, replies that are kept included.
    #[getter]
    fn slots(&self) -> u32 {
        self.agreed.layout.slots
    }

    /// The run under which requests are recorded.
    #[getter]
    fn run_id(&self) -> i64 {
        self.agreed.run_id
    }

    /// Whether requests with pictures are served.
    #[getter]
    fn takes_pictures(&self) -> bool {
        self.agreed.takes_pictures
    }

    /// Names of the classes, where the model has some.
    #[getter]
    fn labels(&self) -> Vec<String> {
        self.agreed.labels.clone()
    }

    #[getter]
    fn inputs<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        Session::tensors(py, &self.agreed.signature.inputs)
    }

    #[getter]
    fn outputs<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        Session::tensors(py, &self.agreed.signature.outputs)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.home.is_here() {
            // What was not told cannot be told here: the lease ends what is left.
            drop(away_if_held(|| self.turns.close()));
        }
    }
}

/// A request that was sent.
#[pyclass(frozen, weakref, module = "tensorferry")]
pub(crate) struct Pending {
    turns: Arc<Turns>,
    request: u64,
    timeout: Duration,
    home: Home,
}

#[pymethods]
impl Pending {
    /// Waits for the reply, which can be taken once. After a timeout it can still come.
    #[pyo3(signature = (timeout=None))]
    fn result(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Reply> {
        self.home.check()?;
        let timeout = timeout.map_or(Ok(self.timeout), seconds)?;
        wait(py, &self.turns, self.request, end_of(timeout))?.ok_or_else(|| late(timeout))
    }

    /// Whether `result` returns at once.
    fn done(&self, py: Python<'_>) -> PyResult<bool> {
        self.home.check()?;
        Ok(away(py, || self.turns.has_come(self.request)))
    }

    /// The request's number within its session, as in SQL.
    #[getter]
    fn request(&self) -> u64 {
        self.request
    }

    fn __repr__(&self) -> String {
        format!("<tensorferry.Pending {}>", self.request)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.turns.forget(self.request);
    }
}

/// Waits for requests that are watched, on a thread of its own.
#[pyclass(frozen, module = "tensorferry._native")]
pub(crate) struct Watch {
    turns: Arc<Turns>,
}

#[pymethods]
impl Watch {
    /// Numbers of requests that have come. Raises `ClosedError` once the session is closed.
    fn wait(&self, py: Python<'_>) -> PyResult<Vec<u64>> {
        Ok(away(py, || self.turns.watch(Instant::now() + TIMEOUT))?)
    }
}
