//! Errors of the SDK as exceptions, which are classes in Python (`tensorferry/errors.py`).

use ferry_client::Error;
use ferry_core::error_text;
use pyo3::PyErr;

pyo3::import_exception!(tensorferry.errors, ClosedError);
pyo3::import_exception!(tensorferry.errors, ConnectionFailed);
pyo3::import_exception!(tensorferry.errors, DeviceError);
pyo3::import_exception!(tensorferry.errors, ForkedError);
pyo3::import_exception!(tensorferry.errors, LinkLost);
pyo3::import_exception!(tensorferry.errors, RefusedError);
pyo3::import_exception!(tensorferry.errors, ReplyTimeout);
pyo3::import_exception!(tensorferry.errors, RequestError);
pyo3::import_exception!(tensorferry.errors, SlotError);
pyo3::import_exception!(tensorferry.errors, TensorError);
pyo3::import_exception!(tensorferry.errors, TensorferryError);
pyo3::import_exception!(tensorferry.errors, UnknownName);

/// Why a session gave no answer.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It was closed here.
    Closed,
    /// Somebody took it before.
    Taken,
    /// What the SDK says.
    Sdk(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault::Sdk(error)
    }
}

impl From<Fault> for PyErr {
    fn from(fault: Fault) -> PyErr {
        match fault {
            Fault::Closed => ClosedError::new_err("the session is closed: open another one"),
            Fault::Taken => {
                SlotError::new_err("the reply was taken before: keep what the first result() gave")
            }
            Fault::Sdk(error) => raise(error),
        }
    }
}

/// An error of the SDK as an exception, by what its caller can do about it.
pub(crate) fn raise(error: Error) -> PyErr {
    let text = error_text(&error);
    match error {
        Error::Address { .. } | Error::Connect { .. } => ConnectionFailed::new_err(text),
        Error::Refused { status, .. } => {
            RefusedError::new_err((text, format!("{:?}", status.code())))
        }
        Error::LinkLost(_) | Error::Resume { .. } | Error::Attach { .. } => LinkLost::new_err(text),
        Error::Request { request, status, .. } => {
            RequestError::new_err((text, status.to_string(), request))
        }
        Error::ReplyTooLarge { request, .. } => {
            let status = ferry_client::Status::ReplyTooLarge.to_string();
            RequestError::new_err((text, status, request))
        }
        Error::Timeout(_) => ReplyTimeout::new_err(text),
        Error::SlotsInUse(slots) => SlotError::new_err(format!(
            "all {slots} slots of the session are in use: drop a reply and the arrays of it \
             (copy() what is to stay), take the result of what was submitted, or open the session \
             with more slots="
        )),
        Error::RepliesWait(waiting) => SlotError::new_err(format!(
            "{waiting} replies wait: take them with result() before sending more"
        )),
        Error::ForeignSlot => SlotError::new_err(
            "the slot is not of this session's present lease: take a new one with slot()",
        ),
        Error::NoTensor { .. } | Error::Size { .. } => TensorError::new_err(text),
        Error::OnDevice { .. } | Error::NotOnDevice(_) | Error::Memory { .. } => {
            DeviceError::new_err(text)
        }
        Error::Answer { .. } | Error::Start { .. } => TensorferryError::new_err(text),
    }
}
