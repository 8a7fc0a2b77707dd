//! That somebody wants an end before the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Asked for once, heard by everybody who has a clone. Rounds end with what is in flight.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks for the end.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked for.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
