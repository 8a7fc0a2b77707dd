//! Why something that was asked for is refused. What protocols make of it is theirs.

use ferry_core::{OutputShapes, Status, Transport};

use crate::models::ModelError;
use crate::store::{QueryError, StoreError};

/// Why a call is refused: one variant per thing that a caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// A field has no meaning, or is outside its bounds.
    #[error("{field}: {why}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What is wrong, and what is allowed.
        why: String,
    },
    /// There is no such session or run.
    #[error("no {kind} {name}; {hint}")]
    NotFound {
        /// `session`, `run`.
        kind: &'static str,
        /// What was asked for.
        name: String,
        /// What there is, or what to do.
        hint: String,
    },
    /// There is one of this name already.
    #[error("{kind} {name} is there already: {hint}")]
    Exists {
        /// `shared memory region`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What to do.
        hint: String,
    },
    /// What a model says.
    #[error(transparent)]
    Model(#[from] ModelError),
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
        ours: u8,
        /// Whoever is behind.
        older: &'static str,
    },
    /// A run that is finished.
    #[error("run {run} is finished already")]
    Finished {
        /// The run.
        run: i64,
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
    /// The time that the caller allowed is over.
    #[error("{0}")]
    Late(String),
    /// What a protocol allows and this server does not do.
    #[error("{what} is not served: {why}")]
    Unsupported {
        /// By name.
        what: String,
        /// Why, and what to do instead.
        why: String,
    },
    /// No session that the caller proves to be its own: there is none, or its token or generation
    /// does not fit. One answer for all, so that nobody learns which sessions there are.
    #[error("no such session, or its token or generation does not fit: resume it or open another")]
    NoSuchSession,
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
    /// The model ran, and the session has no room for its outputs.
    #[error("{text}")]
    ReplyTooLarge {
        /// Their shapes.
        outputs: Option<Box<OutputShapes>>,
        /// What does not fit, and what would.
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
}
