//! Work that takes too long for a thread that serves connections: inflating, and long JSON.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::error::ApiError;

/// JSON up to this length is read and written where it came, in bytes: tens of microseconds.
pub(super) const SHORT: usize = 32 << 10;

/// Threads for such work.
#[derive(Debug)]
pub(super) struct Work(Arc<Semaphore>);

impl Work {
    /// Half of the cores: the others serve.
    pub(super) fn new() -> Work {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Work(Arc::new(Semaphore::new((cores / 2).max(1))))
    }

    /// Does `work` on another thread, once one is free.
    ///
    /// # Errors
    /// [`ApiError::Internal`] if it panicked, or the server ends.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let gone = |error: String| ApiError::Internal(format!("work for a call: {error}"));
        let permit = Arc::clone(&self.0).acquire_owned().await;
        let permit = permit.map_err(|error| gone(error.to_string()))?;
        let done = tokio::task::spawn_blocking(move || {
            // Its own, since nobody may wait for it any more.
            let _permit = permit;
            work()
        });
        done.await.map_err(|error| gone(error.to_string()))
    }

    /// Does `work` on another thread if it is `long`, else here.
    ///
    /// # Errors
    /// As [`run`](Work::run).
    pub(super) async fn run_if<T: Send + 'static>(
        &self,
        long: bool,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        if long { self.run(work).await } else { Ok(work()) }
    }
}
