//! Whether the server takes anything new.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::ApiError;

/// Open until the server drains.
#[derive(Debug, Default)]
pub struct Gate {
    closed: AtomicBool,
}

impl Gate {
    /// Whether new sessions and calls are taken.
    ///
    /// # Errors
    /// [`ApiError::Draining`] if not.
    pub fn takes_new(&self) -> Result<(), ApiError> {
        if self.closed.load(Ordering::SeqCst) { Err(ApiError::Draining) } else { Ok(()) }
    }

    /// Takes nothing new from now on; whether that is a change.
    pub fn close(&self) -> bool {
        !self.closed.swap(true, Ordering::SeqCst)
    }
}
