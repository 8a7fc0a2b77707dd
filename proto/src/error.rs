//! Why a message of the wire has no meaning here.

/// A field of a message that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The field is needed and not set.
    #[error("field {0} is not set")]
    Missing(&'static str),
    /// The field has a value with no meaning.
    #[error("field {field}: {why}")]
    Invalid {
        /// Its name.
        field: &'static str,
        /// What is wrong, and what is allowed.
        why: String,
    },
}

impl WireError {
    /// An invalid field.
    pub fn invalid(field: &'static str, why: impl std::fmt::Display) -> WireError {
        WireError::Invalid { field, why: why.to_string() }
    }
}

impl From<WireError> for tonic::Status {
    fn from(error: WireError) -> tonic::Status {
        use tonic_types::{ErrorDetails, StatusExt};
        match &error {
            WireError::Missing(field) | WireError::Invalid { field, .. } => {
                let details = ErrorDetails::with_bad_request_violation(*field, error.to_string());
                let code = tonic::Code::InvalidArgument;
                tonic::Status::with_error_details(code, error.to_string(), details)
            }
        }
    }
}
