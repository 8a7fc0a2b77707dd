//! Why a call is refused, and the one table that makes a gRPC status of it.

use ferry_core::{BindError, Status, Transport, error_text};
use ferry_proto::WireError;
use tonic::Code;
use tonic_types::{ErrorDetails, StatusExt};

use crate::store::{QueryError, StoreError};

/// gRPC metadata of an error with the name of a [`Status`], where a request was served without
/// success.
pub const STATUS_METADATA: &str = "ferry-status";

/// Why a call is refused: one variant per thing that a caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// A field has no meaning.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Shapes that the model does not take.
    #[error(transparent)]
    Shapes(#[from] BindError),
    /// A field is outside its bounds.
    #[error("{field}: {why}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What is wrong, and what is allowed.
        why: String,
    },
    /// There is no such model, session or run.
    #[error("no {kind} {name}; {hint}")]
    NotFound {
        /// `model`, `session`, `run`.
        kind: &'static str,
        /// What was asked for.
        name: String,
        /// What there is, or what to do.
        hint: String,
    },
    /// A model that is there and is not served.
    #[error("model {name} is not served: {why}")]
    Model {
        /// Its name and version.
        name: String,
        /// Why, and what to do.
        why: String,
    },
    /// A model that serves and could not be loaded again.
    #[error("model {name} is not loaded again, and goes on as it was: {why}")]
    Reload {
        /// Its name and version.
        name: String,
        /// Why, and what to do.
        why: String,
    },
    /// A transport that is not usable here.
    #[error("transport {transport} is not usable: {why}; {fix}")]
    Transport {
        /// Which.
        transport: Transport,
        /// Why.
        why: String,
        /// What to do.
        fix: String,
    },
    /// No frame version that both ends speak.
    #[error("the client speaks frame versions {min} to {max}, this server {ours}: update {older}")]
    Protocol {
        /// The client's lowest.
        min: u32,
        /// The client's highest.
        max: u32,
        /// Ours.
        ours: u16,
        /// Whoever is behind.
        older: &'static str,
    },
    /// A quota is used up.
    #[error(
        "tenant {tenant}: quota {quota} is {limit} and would be {wanted}; close sessions, or ask \
         the operator to raise quota-{quota}"
    )]
    Quota {
        /// Whose.
        tenant: String,
        /// `sessions`, `slots`, `bytes` or `in-flight`.
        quota: &'static str,
        /// Its value.
        limit: u64,
        /// What it would have become.
        wanted: u64,
    },
    /// Something bounded is full for now.
    #[error("{0}")]
    Busy(String),
    /// Session, token and generation do not fit together. One answer for all.
    #[error("no such session, or its token or generation does not fit: resume it or open another")]
    Credentials,
    /// The tenant's key is missing or wrong.
    #[error("metadata ferry-key is not the key of a tenant: ask the operator for one")]
    Key,
    /// What only a tenant may do.
    #[error("metadata ferry-key is the operator's, who holds no sessions: use the key of a tenant")]
    NotTenant,
    /// What only the operator may do.
    #[error("metadata ferry-key is not the operator's (operator-key of the configuration)")]
    NotOperator,
    /// The server is not built yet.
    #[error(
        "loading: {loaded} of {of} models; the server answers when all are loaded or failed: try \
         again then"
    )]
    Loading {
        /// Models that are loaded, or failed.
        loaded: usize,
        /// Models in the folder.
        of: usize,
    },
    /// The server takes nothing new.
    #[error("the server is draining: use another one")]
    Draining,
    /// The request was served, and not with success.
    #[error("{text}")]
    Request {
        /// How it ended.
        status: Status,
        /// What the server says of it.
        text: String,
    },
    /// A session whose client does not attach over the control plane, or not any more.
    #[error("{0}")]
    NotAttachable(String),
    /// A lane does not do its work.
    #[error("lane {lane}: {why}")]
    Lane {
        /// Its name.
        lane: String,
        /// What it says.
        why: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A query.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// A defect, or a machine without threads, randomness or memory.
    #[error("{0}")]
    Internal(String),
}

impl ApiError {
    /// A field outside its bounds.
    pub fn field(field: &'static str, why: impl Into<String>) -> ApiError {
        ApiError::Field { field, why: why.into() }
    }

    fn code(&self) -> Code {
        match self {
            ApiError::Wire(_) | ApiError::Shapes(_) | ApiError::Field { .. } => {
                Code::InvalidArgument
            }
            ApiError::NotFound { .. } => Code::NotFound,
            ApiError::Model { .. }
            | ApiError::Reload { .. }
            | ApiError::Transport { .. }
            | ApiError::Protocol { .. }
            | ApiError::NotAttachable(_) => Code::FailedPrecondition,
            ApiError::Quota { .. } | ApiError::Busy(_) => Code::ResourceExhausted,
            ApiError::Credentials | ApiError::Key => Code::Unauthenticated,
            ApiError::NotOperator | ApiError::NotTenant => Code::PermissionDenied,
            ApiError::Loading { .. } | ApiError::Draining | ApiError::Lane { .. } => {
                Code::Unavailable
            }
            ApiError::Request { status, .. } => code_of(*status),
            ApiError::Store(error) => match error {
                StoreError::NoSuchRun { .. } => Code::NotFound,
                _ => Code::Unavailable,
            },
            ApiError::Query(error) => match error {
                QueryError::Unavailable { .. } => Code::Unavailable,
                QueryError::Busy { .. } => Code::ResourceExhausted,
                QueryError::TimeLimit { .. } => Code::DeadlineExceeded,
                QueryError::RowLimit { .. } | QueryError::CellTooLarge { .. } => Code::OutOfRange,
                _ => Code::InvalidArgument,
            },
            ApiError::Internal(_) => Code::Internal,
        }
    }

    fn details(&self, text: &str) -> ErrorDetails {
        match self {
            ApiError::Wire(WireError::Missing(field) | WireError::Invalid { field, .. })
            | ApiError::Field { field, .. } => {
                ErrorDetails::with_bad_request_violation(*field, text)
            }
            ApiError::Shapes(_) => ErrorDetails::with_bad_request_violation("shapes", text),
            ApiError::NotFound { kind, name, hint } => {
                ErrorDetails::with_resource_info(*kind, name, "", hint)
            }
            ApiError::Model { name, why } | ApiError::Reload { name, why } => {
                ErrorDetails::with_precondition_failure_violation("MODEL", name, why)
            }
            ApiError::Transport { transport, fix, .. } => {
                let subject = transport.name();
                ErrorDetails::with_precondition_failure_violation("TRANSPORT", subject, fix)
            }
            ApiError::Protocol { older, .. } => {
                let fix = format!("update {older}");
                ErrorDetails::with_precondition_failure_violation("PROTOCOL", "frame", fix)
            }
            ApiError::Quota { tenant, quota, .. } => {
                ErrorDetails::with_quota_failure_violation(format!("{tenant}/{quota}"), text)
            }
            _ => ErrorDetails::new(),
        }
    }
}

/// How the outcome of a request is called in gRPC.
fn code_of(status: Status) -> Code {
    match status {
        Status::Ok => Code::Ok,
        Status::BadRequest | Status::BadPicture => Code::InvalidArgument,
        Status::Overloaded => Code::ResourceExhausted,
        Status::Draining => Code::Aborted,
        Status::LinkLost => Code::Unavailable,
        Status::EngineFailed => Code::Internal,
        Status::SessionEnded => Code::NotFound,
        Status::Unsupported => Code::FailedPrecondition,
    }
}

impl From<ApiError> for tonic::Status {
    fn from(error: ApiError) -> tonic::Status {
        let text = error_text(&error);
        let details = error.details(&text);
        let mut made = tonic::Status::with_error_details(error.code(), text, details);
        if let ApiError::Request { status, .. } = error {
            // The exact outcome, where several share a code of gRPC.
            let name = tonic::metadata::MetadataValue::from_static(status.name());
            made.metadata_mut().insert(STATUS_METADATA, name);
        }
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_named_in_text_and_details() {
        let error = ApiError::Quota { tenant: "t".into(), quota: "slots", limit: 4, wanted: 6 };
        let status = tonic::Status::from(error);
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().contains("slots is 4"), "{}", status.message());
        let failure = status.get_details_quota_failure().unwrap();
        assert_eq!(failure.violations[0].subject, "t/slots");
    }

    #[test]
    fn a_transport_that_is_not_here_says_what_to_do() {
        let error = ApiError::Transport {
            transport: Transport::Rdma,
            why: "not in this build".into(),
            fix: "use tcp".into(),
        };
        let status = tonic::Status::from(error);
        assert_eq!(status.code(), Code::FailedPrecondition);
        let failure = status.get_details_precondition_failure().unwrap();
        assert_eq!(failure.violations[0].description, "use tcp");
    }
}
