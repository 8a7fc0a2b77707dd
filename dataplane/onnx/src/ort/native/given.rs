//! What a run left as its outputs, as the library tells it.
//!
//! An output is not always where it was bound: where the graph's output is one of its inputs, a
//! weight, or another output, the library hands out that tensor and leaves our memory as it was.
//! And outputs whose shapes nobody knows before the run are where the library put them.

use std::borrow::Cow;
use std::ptr::NonNull;
use std::sync::Arc;

use ferry_core::{BoundTensor, DType};
use ferry_engine::{EngineError, Job};
use ferry_memory::View;
use ort::AsPointer;
use ort::session::IoBinding;
use ort::sys::{ONNXTensorElementDataType, OrtAllocator, OrtTensorTypeAndShapeInfo, OrtValue};

use super::{check, element_type};

/// A value of the library's, released when it is dropped.
pub(crate) struct Value(NonNull<OrtValue>);

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Value")
    }
}

// SAFETY: a value is a counted reference to a tensor. Its count is atomic, and here it is only read.
unsafe impl Send for Value {}

impl Drop for Value {
    fn drop(&mut self) {
        // SAFETY: ours by the contract of `own`, and not used again. Memory that the library was
        // given by address is not freed by it.
        unsafe { (ort::api().ReleaseValue)(self.0.as_ptr()) };
    }
}

/// A tensor that is where the library has it.
#[derive(Debug)]
pub(crate) struct Given {
    value: Value,
    /// Outermost dimension first.
    pub(crate) shape: Vec<u64>,
    /// Where its elements are: on the host, or on the device.
    pub(crate) address: usize,
    /// How long it is.
    pub(crate) bytes: usize,
}

/// The outputs of one run that are not where they were bound.
#[derive(Debug)]
pub(crate) struct Left(Vec<(usize, Given)>);

impl Left {
    /// Those of the last run of `binding`. `bound` has the address of each output; `None` where the
    /// library found the memory.
    pub(crate) fn by(
        binding: &IoBinding,
        outputs: &[BoundTensor],
        bound: &[Option<usize>],
    ) -> ort::Result<Left> {
        let values = outputs_of(binding)?;
        if values.len() != outputs.len() {
            let told = format!("{} outputs were bound, and {} came", outputs.len(), values.len());
            return Err(ort::Error::new(told));
        }
        let mut left = Vec::new();
        for (index, ((tensor, bound), value)) in outputs.iter().zip(bound).zip(values).enumerate() {
            let is_ours = match bound {
                // Without elements any address will do.
                Some(_) if tensor.bytes == 0 => value.shape(tensor.dtype)? == tensor.shape,
                Some(ours) => value.address()? == *ours,
                None => false,
            };
            if !is_ours {
                left.push((index, value.given(tensor.dtype)?));
            }
        }
        Ok(Left(left))
    }

    /// With the index of each, in the model's order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &Given)> + Clone {
        self.0.iter().map(|(index, given)| (*index, given))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Given> {
        self.iter().find(|(at, _)| *at == index).map(|(_, given)| given)
    }

    /// Gives a job's outputs the shapes that the run made them, and with them their places in the
    /// reply.
    ///
    /// # Errors
    /// As [`Job::place_outputs`].
    pub(crate) fn place(&self, job: &mut Job) -> Result<(), EngineError> {
        let agreed = Arc::clone(&job.binding);
        let shapes = agreed.outputs.iter().enumerate().map(|(index, tensor)| {
            self.get(index).map_or(tensor.shape.as_slice(), |given| given.shape.as_slice())
        });
        job.place_outputs(shapes)
    }
}

/// The outputs of the last run of `binding`, in the order in which they were bound.
fn outputs_of(binding: &IoBinding) -> ort::Result<Vec<Value>> {
    let mut allocator: *mut OrtAllocator = std::ptr::null_mut();
    // SAFETY: a place of ours for a pointer to the library's own allocator, which lives as long as
    // the library.
    check(unsafe { (ort::api().GetAllocatorWithDefaultOptions)(&raw mut allocator) })?;
    let (mut array, mut count): (*mut *mut OrtValue, usize) = (std::ptr::null_mut(), 0);
    // SAFETY: the binding is alive, and the two results are places of ours.
    check(unsafe {
        (ort::api().GetBoundOutputValues)(binding.ptr(), allocator, &raw mut array, &raw mut count)
    })?;
    if array.is_null() {
        return Ok(Vec::new());
    }
    // SAFETY: the call made an array of `count` values, which are ours from now on.
    let values = unsafe { std::slice::from_raw_parts(array, count) };
    let values: Vec<Value> = values.iter().copied().filter_map(NonNull::new).map(Value).collect();
    // SAFETY: the array was made by this allocator and is not used again.
    check(unsafe { (ort::api().AllocatorFree)(allocator, array.cast()) })?;
    Ok(values)
}

impl Value {
    /// Takes over a value that the library has just made for us; `None` if it made none.
    pub(crate) fn own(value: *mut OrtValue) -> Option<Value> {
        NonNull::new(value).map(Value)
    }

    pub(crate) fn as_ptr(&self) -> *mut OrtValue {
        self.0.as_ptr()
    }

    /// Where the elements are. Refuses what is no tensor.
    pub(crate) fn address(&self) -> ort::Result<usize> {
        let mut is_tensor = 0;
        // SAFETY: the value is alive, and the result is a place of ours.
        check(unsafe { (ort::api().IsTensor)(self.0.as_ptr(), &raw mut is_tensor) })?;
        if is_tensor == 0 {
            return Err(ort::Error::new("the model gave no tensor"));
        }
        let mut data = std::ptr::null_mut();
        // SAFETY: as above; the call reads nothing behind the address.
        check(unsafe { (ort::api().GetTensorMutableData)(self.0.as_ptr(), &raw mut data) })?;
        Ok(data.addr())
    }

    /// The shape. Refuses elements of another type than `dtype`.
    pub(crate) fn shape(&self, dtype: DType) -> ort::Result<Vec<u64>> {
        let mut info: *mut OrtTensorTypeAndShapeInfo = std::ptr::null_mut();
        // SAFETY: the value is alive, and the result is a place of ours.
        check(unsafe { (ort::api().GetTensorTypeAndShape)(self.0.as_ptr(), &raw mut info) })?;
        let told = read(info, dtype);
        // SAFETY: just made for us, and not used again.
        unsafe { (ort::api().ReleaseTensorTypeAndShapeInfo)(info) };
        told
    }

    /// With all that is known of it.
    pub(crate) fn given(self, dtype: DType) -> ort::Result<Given> {
        let (shape, address) = (self.shape(dtype)?, self.address()?);
        let bytes = usize::try_from(dtype.bytes_of(&shape)).map_err(ort::Error::wrap)?;
        Ok(Given { value: self, shape, address, bytes })
    }
}

fn read(info: *const OrtTensorTypeAndShapeInfo, dtype: DType) -> ort::Result<Vec<u64>> {
    let mut element = ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    // SAFETY: the caller's `info` is alive, and the result is a place of ours.
    check(unsafe { (ort::api().GetTensorElementType)(info, &raw mut element) })?;
    if element != element_type(dtype) {
        return Err(ort::Error::new(format!("the model gave {element:?}, and declares {dtype}")));
    }
    let mut rank = 0;
    // SAFETY: as above.
    check(unsafe { (ort::api().GetDimensionsCount)(info, &raw mut rank) })?;
    let mut shape = vec![0_i64; rank];
    // SAFETY: as above; `shape` has room for `rank` dimensions.
    check(unsafe { (ort::api().GetDimensions)(info, shape.as_mut_ptr(), rank) })?;
    shape.into_iter().map(u64::try_from).collect::<Result<_, _>>().map_err(ort::Error::wrap)
}

impl Given {
    /// The elements of a tensor of the host. It may lie in one of `ours`, memory that we bound and
    /// that a peer may write: then they are a copy. Elsewhere it is the library's own.
    pub(crate) fn elements(&self, ours: &[View<'_>]) -> Result<Cow<'_, [u8]>, EngineError> {
        let Given { address, bytes, .. } = *self;
        if bytes == 0 {
            return Ok(Cow::Borrowed(&[]));
        }
        for bound in ours {
            let base = bound.host().map_or(usize::MAX, |base| base.addr().get());
            if let Some(at) = address.checked_sub(base).filter(|&at| at < bound.bytes()) {
                let mut copy = vec![0; bytes];
                bound.copy_out(at, &mut copy)?;
                return Ok(Cow::Owned(copy));
            }
        }
        let mut data = std::ptr::null_mut();
        // SAFETY: the value is alive, and the result is a place of ours.
        check(unsafe { (ort::api().GetTensorMutableData)(self.value.0.as_ptr(), &raw mut data) })
            .map_err(super::failed)?;
        let Some(data) = NonNull::new(data.cast::<u8>()) else {
            return Err(EngineError::Run("an output without memory".to_owned()));
        };
        // SAFETY: a tensor of the host has `bytes` bytes there by its shape and element type, for
        // as long as the value lives. It is not in memory that we bound (looked above), so it is a
        // weight, which nobody writes, or was allocated by the library for this run, which is over.
        let elements = unsafe { std::slice::from_raw_parts(data.as_ptr(), bytes) };
        Ok(Cow::Borrowed(elements))
    }
}
