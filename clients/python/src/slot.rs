//! Room for one request, as Python fills it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferry_client::{Agreed, BoundTensor, Error, PixelFormat};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyString};

use crate::errors::{SlotError, TensorError, UnknownName, raise};
use crate::home::Home;
use crate::memory::{DeviceMemory, Memory, is_kept};
use crate::turns::Turns;

/// Room for one request: `slot["input"][:] = x` writes where the model reads.
#[pyclass(frozen, weakref, module = "tensorferry")]
pub(crate) struct Slot {
    /// `None` once it was sent or given back. Never locked while Python runs.
    state: Mutex<Option<Filling>>,
    agreed: Arc<Agreed>,
    turns: Arc<Turns>,
    home: Home,
}

struct Filling {
    slot: ferry_client::Slot,
    /// The array over each input, once somebody asked for it: views refer to it, and it is made
    /// read-only when the slot is sent.
    arrays: Vec<Option<Py<PyAny>>>,
}

/// Names of inputs and outputs, or their numbers.
#[derive(FromPyObject)]
pub(crate) enum Key<'py> {
    Number(usize),
    Name(Bound<'py, PyString>),
}

impl Key<'_> {
    /// Which of these it is.
    pub(crate) fn of(&self, what: &str, tensors: &[BoundTensor]) -> PyResult<usize> {
        let found = match self {
            Key::Number(at) => Some(*at).filter(|at| *at < tensors.len()),
            Key::Name(name) => {
                let name = name.to_cow()?;
                tensors.iter().position(|tensor| tensor.name == name)
            }
        };
        found.ok_or_else(|| {
            let known: Vec<_> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
            let known = known.join(", ");
            let asked = match self {
                Key::Number(at) => at.to_string(),
                Key::Name(name) => format!("{:?}", name.to_string_lossy()),
            };
            UnknownName::new_err(format!("the model has no {what} {asked}; it has {known}"))
        })
    }
}

impl Slot {
    pub(crate) fn new(slot: ferry_client::Slot, turns: &Arc<Turns>) -> Slot {
        let (agreed, turns) = (Arc::clone(slot.agreed()), Arc::clone(turns));
        let arrays = agreed.signature.inputs.iter().map(|_| None).collect();
        let state = Mutex::new(Some(Filling { slot, arrays }));
        Slot { state, agreed, turns, home: Home::here() }
    }

    /// Of the slot's own lease: another one may have other sizes.
    fn inputs(&self) -> &[BoundTensor] {
        &self.agreed.signature.inputs
    }

    /// Takes the slot to send it: from now on this object gives out nothing, and the arrays that it
    /// gave out can only be read.
    pub(crate) fn take(&self, py: Python<'_>, turns: &Arc<Turns>) -> PyResult<ferry_client::Slot> {
        self.home.check()?;
        if !Arc::ptr_eq(&self.turns, turns) {
            return Err(SlotError::new_err(
                "the slot is of another session: send it with the session whose slot() gave it",
            ));
        }
        let Filling { slot, arrays } = self.state().take().ok_or_else(sent)?;
        for array in arrays.into_iter().flatten() {
            let array = array.into_bound(py);
            // Where nobody kept it, nobody can write any more.
            if is_kept(&array) {
                array.call_method1(pyo3::intern!(py, "setflags"), (false,))?;
            }
        }
        Ok(slot)
    }

    fn state(&self) -> MutexGuard<'_, Option<Filling>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, what: impl FnOnce(&mut Filling) -> Result<T, Error>) -> PyResult<T> {
        self.home.check()?;
        what(self.state().as_mut().ok_or_else(sent)?).map_err(raise)
    }

    fn index(&self, key: &Key<'_>) -> PyResult<(usize, &BoundTensor)> {
        let at = key.of("input", self.inputs())?;
        let tensor = self.inputs().get(at);
        tensor.map(|it| (at, it)).ok_or_else(|| UnknownName::new_err(at))
    }
}

fn sent() -> PyErr {
    SlotError::new_err(
        "the slot was sent, or given back: its memory is the server's until the reply comes; read \
         the reply, and take another slot with session.slot()",
    )
}

#[pymethods]
impl Slot {
    /// The array over an input, by name or number. The same one each time.
    fn __getitem__<'py>(&self, py: Python<'py>, key: Key<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (at, tensor) = self.index(&key)?;
        self.home.check()?;
        let memory = {
            let mut state = self.state();
            let Filling { slot, arrays } = state.as_mut().ok_or_else(sent)?;
            if let Some(Some(array)) = arrays.get(at) {
                return Ok(array.bind(py).clone());
            }
            match slot.device_address() {
                None => Ok(Memory::of_input(slot, at).map_err(raise)?),
                Some(of) => Err(DeviceMemory::of_input(slot, tensor, of)),
            }
        };
        let array = match memory {
            Ok(memory) => memory.into_array(py)?,
            Err(on_device) => return Ok(Bound::new(py, on_device)?.into_any()),
        };
        let mut state = self.state();
        let Filling { arrays, .. } = state.as_mut().ok_or_else(sent)?;
        // Another thread may have been faster.
        let kept =
            arrays.get_mut(at).map(|it| it.get_or_insert(array.clone().unbind()).clone_ref(py));
        Ok(kept.map_or(array, |it| it.into_bound(py)))
    }

    /// Copies a whole tensor into an input: of its shape and type, in any order, from the host or,
    /// where the slot lies there, from a CUDA device.
    fn __setitem__(slf: &Bound<'_, Self>, key: Key<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        static COPY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let (_, tensor) = slf.get().index(&key)?;
        let copy = COPY.import(slf.py(), "tensorferry._arrays", "copy_into")?;
        let into = slf.get().__getitem__(slf.py(), key_of(tensor, slf.py()))?;
        copy.call1((slf, &tensor.name, tensor.dtype.name(), into, value)).map(drop)
    }

    fn __len__(&self) -> usize {
        self.inputs().len()
    }

    fn __contains__(&self, name: &str) -> bool {
        self.inputs().iter().any(|tensor| tensor.name == name)
    }

    /// Names of the inputs.
    fn keys(&self) -> Vec<&str> {
        self.inputs().iter().map(|tensor| tensor.name.as_str()).collect()
    }

    /// Makes this the request with a picture file (JPEG, PNG or WebP), which the server decodes.
    fn set_jpeg(&self, file: &Bound<'_, PyBytes>) -> PyResult<()> {
        self.with(|it| it.slot.set_jpeg(file.as_bytes()))
    }

    /// Pixels of height × width × channels, by their bytes.
    fn _set_raw(
        &self,
        width: u32,
        height: u32,
        format: &str,
        pixels: &Bound<'_, PyBytes>,
    ) -> PyResult<()> {
        let format = match format {
            "rgb8" => PixelFormat::Rgb8,
            "bgr8" => PixelFormat::Bgr8,
            "gray8" => PixelFormat::Gray8,
            other => {
                let known = "known are rgb8, bgr8 (OpenCV's order) and gray8";
                return Err(TensorError::new_err(format!("unknown pixels {other:?}: {known}")));
            }
        };
        self.with(|it| it.slot.set_raw(width, height, format, pixels.as_bytes()))
    }

    /// Makes this the request with an 8-bit array of height × width (× 3).
    #[pyo3(signature = (pixels, format=None))]
    fn set_raw(
        slf: &Bound<'_, Self>,
        pixels: &Bound<'_, PyAny>,
        format: Option<&str>,
    ) -> PyResult<()> {
        static SET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let set = SET.import(slf.py(), "tensorferry._arrays", "set_raw")?;
        set.call1((slf, pixels, format)).map(drop)
    }

    /// Copies from memory of a CUDA device that the caller vouches for.
    fn _copy_from_device(&self, name: &str, address: u64, bytes: usize) -> PyResult<()> {
        self.with(|it| {
            let at = it.slot.input_index(name)?;
            let tensor = self.inputs().get(at);
            let (from, room) = tensor.map_or((0, 0), |tensor| (tensor.offset, tensor.bytes));
            if bytes as u64 != room {
                return Err(Error::Size {
                    what: "tensor of a device",
                    given: format!("{bytes} bytes"),
                    room: format!("the input has {room}"),
                });
            }
            it.slot.copy_from_device(usize::try_from(from).unwrap_or(usize::MAX), address, bytes)
        })
    }

    /// Copies bytes of the host to where the slot lies.
    fn _set_input(&self, name: &str, bytes: &Bound<'_, PyBytes>) -> PyResult<()> {
        self.with(|it| {
            let at = it.slot.input_index(name)?;
            it.slot.set_input(at, bytes.as_bytes())
        })
    }

    /// Makes this the empty round trip.
    fn set_ping(&self) -> PyResult<()> {
        self.with(|it| {
            it.slot.set_ping();
            Ok(())
        })
    }

    /// Larger is more urgent; 0 if not said.
    fn set_priority(&self, priority: u8) -> PyResult<()> {
        self.with(|it| {
            it.slot.set_priority(priority);
            Ok(())
        })
    }

    /// How many items of the batch are filled; 1 if not said.
    fn set_batch(&self, items: u32) -> PyResult<()> {
        self.with(|it| {
            it.slot.set_batch(items);
            Ok(())
        })
    }

    /// Gives the slot back unused, now and not when the last reference goes.
    fn release(&self) {
        drop(self.state().take());
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_error))]
    fn __exit__(&self, _error: &Bound<'_, pyo3::types::PyTuple>) {
        self.release();
    }

    fn __repr__(&self) -> String {
        let tensor = |it: &BoundTensor| format!("{}: {} {:?}", it.name, it.dtype, it.shape);
        let inputs: Vec<_> = self.inputs().iter().map(tensor).collect();
        let state = if self.state().is_some() { "" } else { " (sent)" };
        format!("<tensorferry.Slot {}{state}>", inputs.join(", "))
    }
}

fn key_of<'py>(tensor: &BoundTensor, py: Python<'py>) -> Key<'py> {
    Key::Name(PyString::new(py, &tensor.name))
}
