//! What can go wrong while a model is written.

use std::io;
use std::path::PathBuf;

/// Why a model was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ZooError {
    /// No model of this name: pick one of those the message lists.
    #[error("the zoo has no model {name:?}; it has {}", crate::names().join(", "))]
    UnknownModel {
        /// The name that was asked for.
        name: String,
    },
    /// The directory is missing and could not be made: name another, or give the right to make it.
    #[error("cannot make the directory {}; name one that you may write to", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be written: free some space, or give the right to write there.
    #[error("cannot write {}; check that its directory is writable and has room", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A model that takes one input at a time, whatever its file says.
    #[error("{name} has no open batch: {why}; write it without")]
    FixedBatch {
        /// The model.
        name: String,
        /// What in its graph is in the way.
        why: String,
    },
}
