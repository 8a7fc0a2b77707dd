//! An answer, as Python reads it.

use ferry_client::{BoundTensor, Stage};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::{TensorError, raise};
use crate::memory::Outputs;
use crate::slot::Key;

/// The outputs of one request: `reply["output"]` is an array over the memory where they landed.
/// The slot is free again when the reply and every array of it are gone.
#[pyclass(frozen, mapping, weakref, module = "tensorferry")]
pub(crate) struct Reply(Outputs);

impl Reply {
    pub(crate) fn new(reply: ferry_client::Reply) -> Reply {
        Reply(Outputs::new(reply))
    }

    fn outputs(&self) -> &[BoundTensor] {
        &self.0.reply.agreed().signature.outputs
    }
}

#[pymethods]
impl Reply {
    /// An array over an output, by name or number, without a copy.
    fn __getitem__<'py>(&self, py: Python<'py>, key: Key<'py>) -> PyResult<Bound<'py, PyAny>> {
        let at = key.of("output", self.outputs())?;
        if let Some(memory) = self.0.memory(at) {
            return memory.into_array(py);
        }
        let why = self.0.reply.output(at).err().map(raise);
        Err(why.unwrap_or_else(|| TensorError::new_err("the reply has no such output")))
    }

    fn __len__(&self) -> usize {
        self.outputs().len()
    }

    fn __contains__(&self, name: &str) -> bool {
        self.outputs().iter().any(|tensor| tensor.name == name)
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let names = self.keys().into_pyobject(py)?;
        Ok(names.try_iter()?.into_any())
    }

    /// Names of the outputs.
    fn keys(&self) -> Vec<&str> {
        self.outputs().iter().map(|tensor| tensor.name.as_str()).collect()
    }

    /// The request's number within its session, as in SQL.
    #[getter]
    fn request(&self) -> u64 {
        self.0.reply.request()
    }

    /// Nanoseconds of each stage that happened. `reply` is not known yet: SQL has it later.
    #[getter]
    fn times<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let told = PyDict::new(py);
        for stage in Stage::ALL {
            if let Some(ns) = self.0.reply.times().of(stage) {
                told.set_item(stage.name(), ns)?;
            }
        }
        Ok(told)
    }

    fn __repr__(&self) -> String {
        let tensor = |(at, tensor): (usize, &BoundTensor)| {
            let shape = self.0.shape(at).unwrap_or_default();
            format!("{}: {} {shape:?}", tensor.name, tensor.dtype)
        };
        let outputs: Vec<_> = self.outputs().iter().enumerate().map(tensor).collect();
        let total = self.0.reply.times().of(Stage::Total).map_or(String::new(), |ns| {
            format!(" in {}.{:03} ms", ns / 1_000_000, ns / 1_000 % 1_000)
        });
        format!("<tensorferry.Reply {}: {}{total}>", self.request(), outputs.join(", "))
    }
}
