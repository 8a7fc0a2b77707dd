//! The fence around libibverbs: every `unsafe` of this crate is in here.
//!
//! Objects own what they wrap and keep what it needs: a queue pair its completion queue and its
//! protection domain, a registration its memory. Nothing here panics when a device is taken away:
//! what cannot be destroyed any more is logged and left to the kernel, which frees it with the
//! process.
//!
//! A work request names bytes by a [`Part`] of a [`Registration`] that is alive, and never by an
//! address: what is sent inline is read by the processor.
//!
//! ```
//! # use ferry_rdma::verbs::{QueuePair, Registration, Rts, VerbsError, Write};
//! # fn hold(pair: &QueuePair<Rts>, registration: &Registration) -> Result<(), VerbsError> {
//! let part = registration.part(0, 64)?;
//! let write = Write { id: 1, part, remote_address: 0, remote_key: 0, immediate: 0 };
//! pair.write(&write)
//! # }
//! ```
//!
//! ```compile_fail,E0451
//! # use ferry_rdma::verbs::{Part, QueuePair, Registration, Rts, VerbsError, Write};
//! # fn hold(pair: &QueuePair<Rts>, registration: &Registration) -> Result<(), VerbsError> {
//! let part = Part { address: 0x1000, bytes: 64, registration };
//! let write = Write { id: 1, part, remote_address: 0, remote_key: 0, immediate: 0 };
//! pair.write(&write)
//! # }
//! ```

mod completion;
mod device;
mod memory;
mod peer_memory;
mod queue_pair;
mod registration;
mod status;
mod sys;

pub use completion::{Completion, CompletionQueue, Operation};
pub use device::{Device, DeviceEvent, DeviceFacts, LinkLayer, PortFacts};
pub use memory::{Domain, Window};
pub use queue_pair::{Depth, Init, Path, QueuePair, Rts, Write};
pub use registration::{Access, By, Part, Registration};
pub use status::CompletionStatus;

use std::os::fd::AsFd;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// A verb that failed.
#[derive(Debug, thiserror::Error)]
#[error("{verb}: {error}")]
pub struct VerbsError {
    /// The function of libibverbs.
    pub verb: &'static str,
    /// What it said.
    pub error: std::io::Error,
}

impl VerbsError {
    /// By `errno`, for verbs that return a null pointer or -1.
    fn last(verb: &'static str) -> VerbsError {
        VerbsError { verb, error: std::io::Error::last_os_error() }
    }

    /// `Ok` for 0, else the error that the verb returned.
    fn check(verb: &'static str, returned: i32) -> Result<(), VerbsError> {
        match returned {
            0 => Ok(()),
            -1 => Err(VerbsError::last(verb)),
            errno => Err(VerbsError {
                verb,
                error: std::io::Error::from_raw_os_error(errno.saturating_abs()),
            }),
        }
    }

    /// Whether the system said one of these numbers.
    fn is_one_of(&self, numbers: &[i32]) -> bool {
        self.error.raw_os_error().is_some_and(|number| numbers.contains(&number))
    }

    /// For destructors: there is nobody to tell.
    fn log(verb: &'static str, returned: i32) {
        if let Err(error) = VerbsError::check(verb, returned) {
            tracing::error!(%error, "left to the kernel, which frees it with the process");
        }
    }
}

impl From<VerbsError> for ferry_transport::LinkError {
    fn from(error: VerbsError) -> Self {
        ferry_transport::LinkError::os(error.verb, error.error)
    }
}

/// Has reads of a descriptor of the library return at once where nothing waits. Whoever reads one
/// asks for this before there is a value that could be read, or dropped with a read.
fn never_blocks(descriptor: impl AsFd) -> Result<(), VerbsError> {
    let descriptor = descriptor.as_fd();
    let told =
        fcntl_getfl(descriptor).and_then(|flags| fcntl_setfl(descriptor, flags | OFlags::NONBLOCK));
    told.map_err(|errno| VerbsError { verb: "fcntl", error: errno.into() })
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    #[test]
    fn a_descriptor_never_blocks_or_is_refused() {
        let (mut empty, _writer) = std::io::pipe().unwrap();
        never_blocks(&empty).unwrap();
        let read = empty.read(&mut [0]).unwrap_err();
        assert_eq!(read.kind(), std::io::ErrorKind::WouldBlock);

        // A descriptor whose flags nobody may set.
        let mut options = std::fs::OpenOptions::new();
        let no_flags = options.read(true).custom_flags(libc::O_PATH).open("/").unwrap();
        let refused = never_blocks(&no_flags).unwrap_err();
        assert_eq!((refused.verb, refused.error.raw_os_error()), ("fcntl", Some(libc::EBADF)));
    }
}
