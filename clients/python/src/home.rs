//! The process that an object belongs to, and the threads of it that are away from Python.
//!
//! After `fork()` the child has copies of everything but the threads behind it, and a link that two
//! processes drive carries nonsense. At its end the interpreter must not find a thread in here: one
//! that came back later would have nowhere to go.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use pyo3::prelude::*;

use crate::errors::ForkedError;

/// How many forks lie between this process and the one that loaded the module.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// Threads that do not hold the interpreter while they work here.
static AWAY: AtomicUsize = AtomicUsize::new(0);

/// The process in which something was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Home(u64);

impl Home {
    /// This process.
    pub(crate) fn here() -> Home {
        Home(FORKS.load(Ordering::Relaxed))
    }

    /// Whether it is this process.
    pub(crate) fn is_here(self) -> bool {
        self.0 == FORKS.load(Ordering::Relaxed)
    }

    /// # Errors
    /// `ForkedError` if it is another process.
    pub(crate) fn check(self) -> PyResult<()> {
        if self.is_here() {
            return Ok(());
        }
        Err(ForkedError::new_err(
            "this was made before fork(), and belongs to the parent process: make a Client of its \
             own in each process, or start processes by `spawn` (multiprocessing.set_start_method)",
        ))
    }
}

/// Works without the interpreter, which other threads of Python have meanwhile.
pub(crate) fn away<T: Send>(py: Python<'_>, work: impl Send + FnOnce() -> T) -> T {
    AWAY.fetch_add(1, Ordering::Relaxed);
    let done = py.detach(work);
    AWAY.fetch_sub(1, Ordering::Relaxed);
    done
}

/// As [`away`], where something is dropped: also while the interpreter ends.
pub(crate) fn away_if_held<T: Send>(work: impl Send + FnOnce() -> T) -> T {
    let mut work = Some(work);
    let done = Python::try_attach(|py| work.take().map(|work| away(py, work))).flatten();
    match (done, work) {
        (Some(done), _) => done,
        (None, Some(work)) => work(),
        (None, None) => unreachable!("the work is taken where it is done"),
    }
}

/// This process is a child: called by `os.register_at_fork`.
#[pyfunction]
pub(crate) fn forked() {
    FORKS.fetch_add(1, Ordering::Relaxed);
    // The threads that were away are the parent's.
    AWAY.store(0, Ordering::Relaxed);
}

/// How many threads are away.
#[pyfunction]
pub(crate) fn threads_away() -> usize {
    AWAY.load(Ordering::Relaxed)
}
