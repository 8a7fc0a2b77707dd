//! Errors as gRPC has them: the one table of codes, and details for programs.

use std::borrow::Cow;

use ferry_core::{Status, error_text, without_middle};
use ferry_proto::WireError;
use ferry_proto::channel::{OUTPUT_SHAPES_METADATA, STATUS_METADATA};
use tonic::Code;
use tonic::metadata::MetadataValue;
use tonic_types::{ErrorDetails, StatusExt};

use crate::error::ApiError;
use crate::models::ModelError;
use crate::store::{QueryError, StoreError};

impl From<WireError> for ApiError {
    fn from(error: WireError) -> ApiError {
        match error {
            WireError::Missing(field) => ApiError::field(field, "it is not set"),
            WireError::Invalid { field, why } => ApiError::Field { field, why },
        }
    }
}

/// The code of an error.
fn code(error: &ApiError) -> Code {
    match error {
        ApiError::Field { .. } => Code::InvalidArgument,
        ApiError::Model(error) => match error {
            ModelError::Shapes(_) | ModelError::Field { .. } => Code::InvalidArgument,
            ModelError::NotFound { .. } => Code::NotFound,
            ModelError::NotServed { .. }
            | ModelError::NotReloaded { .. }
            | ModelError::NameTaken { .. }
            | ModelError::Polled { .. } => Code::FailedPrecondition,
            ModelError::NoRoom { .. } => Code::ResourceExhausted,
        },
        // A key that is nobody's must be told apart from a session that is not (or no more) there.
        ApiError::NotFound { .. } | ApiError::NoSuchSession => Code::NotFound,
        ApiError::Exists { .. } => Code::AlreadyExists,
        ApiError::Late(_) => Code::DeadlineExceeded,
        ApiError::Unsupported { .. } => Code::Unimplemented,
        ApiError::Transport { .. }
        | ApiError::Protocol { .. }
        | ApiError::Finished { .. }
        | ApiError::NotAttachable(_) => Code::FailedPrecondition,
        ApiError::Quota { .. } | ApiError::Busy(_) => Code::ResourceExhausted,
        ApiError::Key => Code::Unauthenticated,
        ApiError::NotOperator | ApiError::NotTenant => Code::PermissionDenied,
        ApiError::Loading { .. } | ApiError::Draining | ApiError::Lane { .. } => Code::Unavailable,
        ApiError::Request { status, .. } => code_of(*status),
        ApiError::ReplyTooLarge { .. } => code_of(Status::ReplyTooLarge),
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

/// Longest text of an answer, in bytes. Clients take headers of 8 KiB, in which a text may stand
/// twice: escaped, up to three times as long, and within the details in base64.
const TEXT_BYTES_MAX: usize = 1200;

fn short(text: &str) -> Cow<'_, str> {
    without_middle(text, TEXT_BYTES_MAX)
}

/// One of two texts of a detail.
fn half(text: &str) -> Cow<'_, str> {
    without_middle(text, TEXT_BYTES_MAX / 2)
}

/// What a program may do about an error.
fn details(error: &ApiError, text: &str) -> ErrorDetails {
    match error {
        ApiError::Field { field, .. } | ApiError::Model(ModelError::Field { field, .. }) => {
            ErrorDetails::with_bad_request_violation(*field, text)
        }
        ApiError::Model(ModelError::Shapes(_)) => {
            ErrorDetails::with_bad_request_violation("shapes", text)
        }
        ApiError::Model(ModelError::NotFound { name, hint }) => {
            ErrorDetails::with_resource_info("model", half(name), "", half(hint))
        }
        ApiError::Model(
            ModelError::NotServed { name, why } | ModelError::NotReloaded { name, why },
        ) => ErrorDetails::with_precondition_failure_violation("MODEL", half(name), half(why)),
        ApiError::NotFound { kind, name, hint } | ApiError::Exists { kind, name, hint } => {
            ErrorDetails::with_resource_info(*kind, half(name), "", half(hint))
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

/// How the outcome of a request is called in gRPC.
fn code_of(status: Status) -> Code {
    match status {
        Status::Ok => Code::Ok,
        Status::BadRequest | Status::BadPicture => Code::InvalidArgument,
        Status::Overloaded => Code::ResourceExhausted,
        Status::Draining => Code::Aborted,
        Status::LinkLost => Code::Unavailable,
        Status::EngineFailed => Code::Internal,
        Status::ReplyTooLarge => Code::OutOfRange,
        Status::SessionEnded => Code::NotFound,
        Status::Unsupported => Code::FailedPrecondition,
        Status::Late => Code::DeadlineExceeded,
        Status::Cancelled => Code::Cancelled,
        Status::RateLimited => Code::ResourceExhausted,
    }
}

impl From<ApiError> for tonic::Status {
    fn from(error: ApiError) -> tonic::Status {
        let text = error_text(&error);
        let text = short(&text);
        let details = details(&error, &text);
        let mut made = tonic::Status::with_error_details(code(&error), text, details);
        let (status, outputs) = match error {
            ApiError::Request { status, .. } => (status, None),
            ApiError::ReplyTooLarge { outputs, .. } => (Status::ReplyTooLarge, outputs),
            _ => return made,
        };
        // The exact outcome, where several share a code of gRPC.
        let metadata = made.metadata_mut();
        metadata.insert(STATUS_METADATA, MetadataValue::from_static(status.name()));
        if let Some(outputs) = outputs {
            let mut bytes = Vec::with_capacity(outputs.encoded_bytes());
            outputs.encode(&mut bytes);
            let value = MetadataValue::from_bytes(&bytes);
            metadata.insert_bin(OUTPUT_SHAPES_METADATA, value);
        }
        made
    }
}

#[cfg(test)]
mod tests {
    use ferry_core::Transport;

    use super::*;

    #[test]
    fn no_text_is_longer_than_clients_take() {
        let long = "ü".repeat(100_000);
        let of_model = ModelError::NotFound { name: long.clone(), hint: long.clone() };
        let not_served = ModelError::NotServed { name: long.clone(), why: long.clone() };
        for error in [of_model.into(), not_served.into(), ApiError::field("key", long)] {
            let status = tonic::Status::from(error);
            let escaped = status.message().len() * 3;
            let in_base64 = status.details().len() * 4 / 3;
            assert!(escaped + in_base64 < 8 << 10, "{escaped} and {in_base64} bytes");
        }
    }

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
