//! Keeps what waits for the whole device away from recordings.
//!
//! While any stream is recorded, whoever waits for the device is refused, and the recording is
//! spoilt. The library does so where it tries out algorithms and where it opens and closes sessions,
//! of whatever model.

use std::ops::Deref;
use std::sync::{PoisonError, RwLock};

use ort::session::Session;

/// Written by who records, read by who may wait for the device. Of the process, as are devices.
static RECORDING: RwLock<()> = RwLock::new(());

/// Runs what records a stream, while nothing waits for the device.
pub(super) fn recording<R>(work: impl FnOnce() -> R) -> R {
    let _alone = RECORDING.write().unwrap_or_else(PoisonError::into_inner);
    work()
}

/// Runs what may wait for the device, while nothing is recorded.
pub(super) fn not_recording<R>(work: impl FnOnce() -> R) -> R {
    let _shared = RECORDING.read().unwrap_or_else(PoisonError::into_inner);
    work()
}

/// A session that is closed while nothing is recorded.
#[derive(Debug)]
pub(super) struct CudaSession(Option<Session>);

impl From<Session> for CudaSession {
    fn from(session: Session) -> CudaSession {
        CudaSession(Some(session))
    }
}

impl Deref for CudaSession {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.0.as_ref().expect("it is taken where it is dropped")
    }
}

impl Drop for CudaSession {
    fn drop(&mut self) {
        not_recording(|| drop(self.0.take()));
    }
}
