//! What NumPy and CUDA libraries make their arrays of: an address, and the owner of what lies there.

mod array;

pub(crate) use array::is_kept;

use std::sync::Arc;

use ferry_client::{BoundTensor, DType, DeviceAddress, Error, Reply, Slot, SlotHold};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// Where a tensor of the host lies, and what it is. Made only of bytes as long as it.
#[derive(Clone, Debug)]
struct Place {
    address: usize,
    dtype: DType,
    /// As NumPy counts, outermost dimension first.
    shape: Vec<isize>,
}

impl Place {
    fn new(dtype: DType, shape: &[u64], bytes: &mut [u8]) -> Result<Place, Error> {
        let wanted = dtype.bytes_of(shape);
        if bytes.len() as u64 != wanted {
            return Err(Error::Size {
                what: "tensor",
                given: format!("{} bytes", bytes.len()),
                room: format!("{dtype} of {shape:?} takes {wanted}"),
            });
        }
        let address = bytes.as_mut_ptr().expose_provenance();
        // No dimension of what is in memory is longer; where another one is 0, none is reached.
        let shape = shape.iter().map(|&dim| isize::try_from(dim).unwrap_or(isize::MAX)).collect();
        Ok(Place { address, dtype, shape })
    }
}

/// Keeps bytes where they are, and from everybody else.
#[derive(Clone)]
enum Owner {
    /// Of a request: until nobody can write there any more, no other request has the slot.
    Slot(#[expect(dead_code, reason = "held until it is dropped")] SlotHold),
    /// Of a reply.
    Reply(#[expect(dead_code, reason = "held until it is dropped")] Arc<Reply>),
}

/// Memory of the host that arrays refer to: the base of each.
#[pyclass(frozen, module = "tensorferry")]
pub(crate) struct Memory {
    place: Place,
    _owner: Owner,
}

impl Memory {
    /// That of an input.
    ///
    /// # Errors
    /// As [`Slot::input_mut`].
    pub(crate) fn of_input(slot: &mut Slot, at: usize) -> Result<Memory, Error> {
        let agreed = Arc::clone(slot.agreed());
        let bytes = slot.input_mut(at)?;
        let tensor = agreed.signature.inputs.get(at);
        let (dtype, shape) = tensor.map_or((DType::U8, &[][..]), |it| (it.dtype, &it.shape));
        let place = Place::new(dtype, shape, bytes)?;
        Ok(Memory { place, _owner: Owner::Slot(slot.hold()) })
    }

    /// An array over it, which keeps it.
    pub(crate) fn into_array(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        array::over(Bound::new(py, self)?)
    }
}

/// The outputs of a reply, and where each lies.
pub(crate) struct Outputs {
    pub(crate) reply: Arc<Reply>,
    places: Vec<Option<Place>>,
}

impl Outputs {
    pub(crate) fn new(mut reply: Reply) -> Outputs {
        let agreed = Arc::clone(reply.agreed());
        let place = |(at, tensor): (usize, &BoundTensor)| {
            // As the model made it this time.
            let told = reply.output_shapes().and_then(|shapes| shapes.get(at)).map(<[u64]>::to_vec);
            let shape = told.as_deref().unwrap_or(&tensor.shape);
            Place::new(tensor.dtype, shape, reply.output_mut(at).ok()?).ok()
        };
        let places = agreed.signature.outputs.iter().enumerate().map(place).collect();
        Outputs { reply: Arc::new(reply), places }
    }

    /// The shape that an output has; `None` if there is no such output, or the reply has none.
    pub(crate) fn shape(&self, at: usize) -> Option<&[isize]> {
        self.places.get(at)?.as_ref().map(|place| &*place.shape)
    }

    /// The memory of an output; `None` where it has no shape.
    pub(crate) fn memory(&self, at: usize) -> Option<Memory> {
        let place = self.places.get(at)?.clone()?;
        Some(Memory { place, _owner: Owner::Reply(Arc::clone(&self.reply)) })
    }
}

/// NumPy's name of a type. It has none for bfloat16, whose bits are told as they are.
pub(crate) fn typestr(dtype: DType) -> &'static str {
    match dtype {
        DType::Bool => "|b1",
        DType::U8 => "|u1",
        DType::I8 => "|i1",
        DType::U16 | DType::Bf16 => "<u2",
        DType::I16 => "<i2",
        DType::U32 => "<u4",
        DType::I32 => "<i4",
        DType::U64 => "<u8",
        DType::I64 => "<i8",
        DType::F16 => "<f2",
        DType::F32 => "<f4",
        DType::F64 => "<f8",
    }
}

/// Memory of a CUDA device that tensors of PyTorch and CuPy refer to.
#[pyclass(frozen, module = "tensorferry")]
pub(crate) struct DeviceMemory {
    address: u64,
    ordinal: u32,
    dtype: DType,
    shape: Vec<u64>,
    _owner: Owner,
}

impl DeviceMemory {
    /// That of an input, where the slot lies at `of`.
    pub(crate) fn of_input(
        slot: &mut Slot,
        tensor: &BoundTensor,
        of: DeviceAddress,
    ) -> DeviceMemory {
        DeviceMemory {
            address: of.address.saturating_add(tensor.offset),
            ordinal: of.ordinal,
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
            _owner: Owner::Slot(slot.hold()),
        }
    }
}

#[pymethods]
impl DeviceMemory {
    #[getter]
    fn __cuda_array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let told = PyDict::new(py);
        told.set_item("data", (self.address, false))?;
        told.set_item("shape", self.shape(py)?)?;
        told.set_item("typestr", typestr(self.dtype))?;
        told.set_item("version", 2)?;
        Ok(told)
    }

    /// The device's number in this process.
    #[getter]
    fn device(&self) -> u32 {
        self.ordinal
    }

    /// Outermost dimension first.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.shape)
    }

    fn __repr__(&self) -> String {
        let DeviceMemory { dtype, shape, ordinal, .. } = self;
        format!("<tensorferry.DeviceMemory {dtype} {shape:?} on cuda:{ordinal}>")
    }
}
