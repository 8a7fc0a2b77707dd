//! The compiled half of the Python package `tensorferry`: the blocking SDK as Python classes. What
//! needs no speed is Python (`python/tensorferry`).
//!
//! Each array has as its base a [`memory::Memory`], which holds the slot: its bytes stay mapped, and
//! are nobody else's, for as long as the array or a view of it refers to them.

mod answers;
mod client;
mod errors;
mod home;
mod memory;
mod reply;
mod session;
mod slot;
mod turns;

#[pyo3::pymodule]
mod _native {
    #[pymodule_export]
    #[expect(non_upper_case_globals, reason = "Python's name")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
    #[pymodule_export]
    use crate::client::Client;
    #[pymodule_export]
    use crate::home::{forked, threads_away};
    #[pymodule_export]
    use crate::memory::{DeviceMemory, Memory};
    #[pymodule_export]
    use crate::reply::Reply;
    #[pymodule_export]
    use crate::session::{Pending, Session, Watch};
    #[pymodule_export]
    use crate::slot::Slot;
}
