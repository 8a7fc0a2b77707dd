//! Work that a call begins and nothing breaks off.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Runs where it is awaited, which costs no change of threads. If its caller goes away in the
/// middle, or the control plane is restarted, the rest runs in the runtime that outlives both: a
/// session is never half open.
pub(super) struct Whole<T: Send + 'static> {
    /// `None` once it is done.
    work: Option<Work<T>>,
    runtime: Handle,
}

impl<T: Send + 'static> Whole<T> {
    pub(super) fn new(
        runtime: &Handle,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Whole<T> {
        Whole { work: Some(Box::pin(work)), runtime: runtime.clone() }
    }
}

impl<T: Send + 'static> Future for Whole<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        // Timers and tasks of the work belong to the runtime that may have to finish it.
        let runtime = self.runtime.clone();
        let _entered = runtime.enter();
        let Some(work) = self.work.as_mut() else { return Poll::Pending };
        let done = work.as_mut().poll(context);
        if done.is_ready() {
            self.work = None;
        }
        done
    }
}

impl<T: Send + 'static> Drop for Whole<T> {
    fn drop(&mut self) {
        // Work that panicked cannot go on.
        if let Some(work) = self.work.take().filter(|_| !std::thread::panicking()) {
            drop(self.runtime.spawn(work));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    #[test]
    fn what_was_begun_is_finished_although_its_caller_and_runtime_are_gone() {
        let outlives = runtime();
        let (go, may_go) = oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::sync_channel(2);
        let work = Whole::new(outlives.handle(), async move {
            tell.send("begun").unwrap();
            may_go.await.unwrap();
            // A timer of the caller's runtime would panic here.
            tokio::time::sleep(Duration::from_millis(1)).await;
            tell.send("done").unwrap();
        });
        let callers = runtime();
        callers.spawn(work);
        assert_eq!(told.recv_timeout(LONG).unwrap(), "begun");
        callers.shutdown_timeout(LONG);
        go.send(()).unwrap();
        assert_eq!(told.recv_timeout(LONG).unwrap(), "done");
    }

    #[test]
    fn what_was_never_awaited_is_done_all_the_same() {
        let outlives = runtime();
        let (tell, told) = std::sync::mpsc::sync_channel(2);
        drop(Whole::new(outlives.handle(), async move { tell.send(()).unwrap() }));
        told.recv_timeout(LONG).unwrap();
    }
}
