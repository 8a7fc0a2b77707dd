//! Why something was not measured.

/// Why something was not measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The session says so.
    #[error(transparent)]
    Client(#[from] ferry_client::Error),
    /// The server refused a call of the control plane, or cannot be reached.
    #[error("{} ({:?})", .0.message(), .0.code())]
    Call(Box<tonic::Status>),
    /// What was asked for cannot be measured.
    #[error("{0}")]
    Usage(String),
    /// Requests failed before or while it was measured.
    #[error("{failed} requests failed; the first: {first}")]
    Requests {
        /// How many.
        failed: u64,
        /// Why the first one did.
        first: String,
    },
    /// Anything else.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Error {
        Error::Call(Box::new(status))
    }
}
