//! What the control plane tells, as dictionaries.

use ferry_client::v1::value::Kind;
use ferry_client::{BoundTensor, RecordCounts, v1};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::memory::typestr;

macro_rules! dict {
    ($py:expr, $($key:ident: $value:expr),+ $(,)?) => {{
        let told = PyDict::new($py);
        $(told.set_item(stringify!($key), $value)?;)+
        Ok(told)
    }};
}

/// What became of the timings of a client.
pub(crate) fn counts(py: Python<'_>, it: RecordCounts) -> PyResult<Bound<'_, PyDict>> {
    dict!(py, accepted: it.accepted, lost: it.lost, unknown: it.unknown, refused: it.refused)
}

/// A tensor of a session.
pub(crate) fn tensor<'py>(py: Python<'py>, it: &BoundTensor) -> PyResult<Bound<'py, PyDict>> {
    dict!(py,
        name: &it.name, datatype: it.dtype.name(), dtype: typestr(it.dtype),
        shape: it.shape.clone(), bytes: it.bytes, open: it.open,
    )
}

fn spec(py: Python<'_>, it: v1::TensorSpec) -> PyResult<Bound<'_, PyDict>> {
    use v1::dim::Size;
    let dims = it.shape.into_iter().map(|dim| match dim.size {
        Some(Size::Fixed(size)) => Ok(size.into_pyobject(py)?.into_any()),
        Some(Size::Named(name)) => Ok(name.into_pyobject(py)?.into_any()),
        Some(Size::Any(_)) | None => Ok(py.Ellipsis().into_bound(py)),
    });
    let shape = dims.collect::<PyResult<Vec<_>>>()?;
    dict!(py, name: it.name, datatype: it.datatype, shape: shape)
}

/// A model, as `Models.List` tells it.
pub(crate) fn model(py: Python<'_>, it: v1::Model) -> PyResult<Bound<'_, PyDict>> {
    let state = match it.state() {
        v1::model::State::Available => "available",
        v1::model::State::Loaded => "loaded",
        v1::model::State::Failed => "failed",
    };
    let signature = it.signature.unwrap_or_default();
    let specs = |all: Vec<_>| all.into_iter().map(|it| spec(py, it)).collect::<PyResult<Vec<_>>>();
    let stats = it.stats.unwrap_or_default();
    let stats = dict!(py,
        served: stats.served, failed: stats.failed, refused: stats.refused,
        queued_now: stats.queued_now, in_flight_now: stats.in_flight_now, late: stats.late,
        cancelled: stats.cancelled,
    )
    .map_err(|it: PyErr| it)?;
    dict!(py,
        name: it.name, version: it.version, state: state, error: it.error, engine: it.engine,
        engine_version: it.engine_version, device: it.device, precision: it.precision,
        inputs: specs(signature.inputs)?, outputs: specs(signature.outputs)?,
        instances: it.instances, threads: it.threads, queue: it.queue,
        takes_pictures: it.takes_pictures, description: it.description, sha256: it.sha256,
        labels: it.labels, batches: it.batches, aliases: it.aliases, notes: it.notes, stats: stats,
    )
}

/// A run, as `Runs.List` tells it.
pub(crate) fn run(py: Python<'_>, it: v1::Run) -> PyResult<Bound<'_, PyDict>> {
    let finished = (it.finished_unix_ns != 0).then_some(it.finished_unix_ns);
    dict!(py,
        run_id: it.run_id, name: it.name, kind: it.kind, started_unix_ns: it.started_unix_ns,
        finished_unix_ns: finished, warmup: it.warmup, requests: it.requests, lost: it.lost,
        tenant: it.tenant, commit: it.commit,
    )
}

/// A value of a row.
pub(crate) fn value(py: Python<'_>, value: v1::Value) -> PyResult<Bound<'_, PyAny>> {
    Ok(match value.kind {
        None => py.None().into_bound(py),
        Some(Kind::Integer(number)) => number.into_pyobject(py)?.into_any(),
        Some(Kind::Real(number)) => number.into_pyobject(py)?.into_any(),
        Some(Kind::Text(text)) => text.into_pyobject(py)?.into_any(),
        Some(Kind::Blob(bytes)) => pyo3::types::PyBytes::new(py, &bytes).into_any(),
    })
}
