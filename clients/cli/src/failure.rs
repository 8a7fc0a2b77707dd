//! Why a command failed, and its exit code.

use ferry_client::Error;

/// A failed command.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Anything that is not below.
    Failed(anyhow::Error),
    /// What was typed cannot be done.
    Usage(String),
    /// The server cannot be reached.
    Unreachable(anyhow::Error),
    /// The server refused.
    Refused(anyhow::Error),
    /// Some requests failed; what is known was printed.
    Requests {
        /// How many.
        failed: u64,
        /// Why the first one did.
        first: String,
    },
}

impl Failure {
    /// The exit code; `ferry --help` lists them.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Failure::Failed(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Unreachable(_) => 3,
            Failure::Refused(_) => 4,
            Failure::Requests { .. } => 5,
        }
    }

    /// The whole story in one line.
    pub(crate) fn text(&self) -> String {
        match self {
            Failure::Failed(error) | Failure::Unreachable(error) | Failure::Refused(error) => {
                format!("{error:#}")
            }
            Failure::Usage(text) => text.clone(),
            Failure::Requests { failed, first } => {
                format!("{failed} requests failed; the first: {first}")
            }
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match &error {
            Error::Connect { .. } => Failure::Unreachable(error.into()),
            Error::Refused { status, .. } if status.code() == UNAVAILABLE => {
                Failure::Unreachable(error.into())
            }
            Error::Refused { .. } => Failure::Refused(error.into()),
            Error::Request { .. } => Failure::Requests { failed: 1, first: error.to_string() },
            Error::NoTensor { .. } | Error::Size { .. } => Failure::Usage(error.to_string()),
            _ => Failure::Failed(error.into()),
        }
    }
}

const UNAVAILABLE: tonic::Code = tonic::Code::Unavailable;

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Failure {
        let error = anyhow::anyhow!("{} ({:?})", status.message(), status.code());
        if status.code() == UNAVAILABLE {
            Failure::Unreachable(error)
        } else {
            Failure::Refused(error)
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Failed(error)
    }
}
