//! NumPy's C interface: an array over memory that another object owns. The only room of this crate
//! that has `unsafe` of its own.

use std::ffi::c_int;
use std::ptr::{null_mut, with_exposed_provenance_mut};

use ferry_client::DType;
use numpy::npyffi::{
    NPY_ARRAY_ALIGNED, NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_WRITEABLE, NpyTypes, get_type_object,
};
use numpy::{PY_ARRAY_API, PyArrayDescr, PyArrayDescrMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::{Memory, Place, typestr};

/// An array over all of the memory, which it keeps as its base.
pub(super) fn over(memory: Bound<'_, Memory>) -> PyResult<Bound<'_, PyAny>> {
    let py = memory.py();
    let Place { address, dtype, shape } = &memory.get().place;
    let too_long = |_| PyValueError::new_err(format!("an array has no {} dimensions", shape.len()));
    let rank = c_int::try_from(shape.len()).map_err(too_long)?;
    let mut flags = NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_WRITEABLE;
    if (*address as u64).is_multiple_of(dtype.bytes()) {
        flags |= NPY_ARRAY_ALIGNED;
    }
    let descr = descr(py, *dtype)?.into_dtype_ptr();
    let data = with_exposed_provenance_mut(*address);
    // SAFETY: NumPy's own type, which lives as long as the interpreter.
    let ndarray = unsafe { get_type_object(py, NpyTypes::PyArray_Type) };
    // SAFETY: `dims` has `rank` numbers, which are only read. The call takes over the reference to `descr`, also where it
    // fails. `data` is the start of as many bytes as the shape takes (`Place::new` compared them),
    // and they are writable: it came of an exclusive slice.
    let array = unsafe {
        let (dims, strides, of) = (shape.as_ptr().cast_mut(), null_mut(), null_mut());
        PY_ARRAY_API.PyArray_NewFromDescr(py, ndarray, descr, rank, dims, strides, data, flags, of)
    };
    // SAFETY: a new reference, or null with an exception.
    let array = unsafe { Bound::from_owned_ptr_or_err(py, array) }?;
    // SAFETY: an array, as it was just made, without a base. The call takes over the reference to the
    // memory, also where it fails; then the array goes before anybody has seen it. Otherwise the
    // array, and each view of it, keeps the memory, whose owner keeps the bytes mapped and from
    // every other holder of the slot.
    let kept =
        unsafe { PY_ARRAY_API.PyArray_SetBaseObject(py, array.as_ptr().cast(), memory.into_ptr()) };
    if kept == 0 { Ok(array) } else { Err(PyErr::fetch(py)) }
}

/// Whether anybody but the caller refers to an array, or to a view of it, which refers to it. On a
/// Python that keeps more than a count there, the answer may be yes where it is no.
pub(crate) fn is_kept(array: &Bound<'_, PyAny>) -> bool {
    // SAFETY: an object that lives, of which the interpreter is held.
    let references = unsafe { pyo3::ffi::Py_REFCNT(array.as_ptr()) };
    references > 1
}

/// NumPy's description of a type.
fn descr(py: Python<'_>, dtype: DType) -> PyResult<Bound<'_, PyArrayDescr>> {
    static DESCRS: [PyOnceLock<Py<PyArrayDescr>>; DType::ALL.len()] =
        [const { PyOnceLock::new() }; DType::ALL.len()];
    let make = || PyArrayDescr::new(py, typestr(dtype)).map(Bound::unbind);
    match DESCRS.get(dtype as usize) {
        Some(kept) => Ok(kept.get_or_try_init(py, make)?.bind(py).clone()),
        None => Ok(make()?.into_bound(py)),
    }
}
