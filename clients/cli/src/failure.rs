//! Why a command failed, and its exit code.

use ferry_client::Error;
use ferry_core::error_text;
use ferry_proto::channel::STATUS_METADATA;

/// What shells tell of a program that SIGINT ended.
pub(crate) const INTERRUPTED: u8 = 130;

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
    /// Somebody wanted an end; what is known was printed.
    Interrupted(String),
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
            Failure::Interrupted(_) => INTERRUPTED,
        }
    }

    /// The whole story in one line.
    pub(crate) fn text(&self) -> String {
        match self {
            Failure::Failed(error) | Failure::Unreachable(error) | Failure::Refused(error) => {
                format!("{error:#}")
            }
            Failure::Usage(text) | Failure::Interrupted(text) => text.clone(),
            Failure::Requests { failed, first } => {
                format!("{failed} requests failed; the first: {first}")
            }
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        // Where a session could not be taken up again, the reason for that decides.
        let decisive = match &error {
            Error::Resume { source, .. } => source,
            other => other,
        };
        match decisive {
            Error::Connect { .. } => Failure::Unreachable(error.into()),
            Error::Refused { status, .. } if status.code() == UNAVAILABLE => {
                Failure::Unreachable(error.into())
            }
            Error::Refused { .. } => Failure::Refused(error.into()),
            Error::Request { .. } | Error::ReplyTooLarge { .. } => {
                Failure::Requests { failed: 1, first: error_text(&error) }
            }
            Error::Address { .. } | Error::NoTensor { .. } | Error::Size { .. } => {
                Failure::Usage(error.to_string())
            }
            _ => Failure::Failed(error.into()),
        }
    }
}

const UNAVAILABLE: tonic::Code = tonic::Code::Unavailable;

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Failure {
        let message = match (status.code(), status.message()) {
            // What any server of gRPC says of a service that it does not know.
            (tonic::Code::Unimplemented, "") => {
                "the server does not serve ferry.v1: it is not ferryd"
            }
            (_, message) => message,
        };
        let error = anyhow::anyhow!("{message} ({:?})", status.code());
        if status.metadata().contains_key(STATUS_METADATA) {
            // How a request ended, inside the server.
            Failure::Requests { failed: 1, first: status.message().to_owned() }
        } else if status.code() == UNAVAILABLE {
            Failure::Unreachable(error)
        } else {
            Failure::Refused(error)
        }
    }
}

impl From<ferry_bench::Error> for Failure {
    fn from(error: ferry_bench::Error) -> Failure {
        use ferry_bench::Error;
        match error {
            Error::Client(error) => error.into(),
            Error::Call(status) => (*status).into(),
            Error::Usage(text) => Failure::Usage(text),
            Error::Requests { failed, first } => Failure::Requests { failed, first },
            Error::Failed(error) => Failure::Failed(error),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Failed(error)
    }
}

#[cfg(test)]
mod tests {
    use ferry_client::LinkError;

    use super::*;

    #[test]
    fn a_session_that_is_not_taken_up_again_tells_how_its_link_ended_and_why_not() {
        for (code, exit) in [(UNAVAILABLE, 3), (tonic::Code::PermissionDenied, 4)] {
            let status = Box::new(tonic::Status::new(code, "nobody is there"));
            let source = Box::new(Error::Refused { doing: "resume the session", status });
            let lost = LinkError::os("RDMA write", "transport retries exceeded");
            let failure = Failure::from(Error::Resume { lost, source });
            assert_eq!(failure.code(), exit);
            let text = failure.text();
            let (link, control) = (text.find("RDMA write"), text.find("nobody is there"));
            assert!(link.is_some() && link < control, "{text}");
        }
    }
}
