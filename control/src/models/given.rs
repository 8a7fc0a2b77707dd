//! A configuration that comes with a call, in place of the one in the folder.

use std::sync::Arc;

use ferry_core::error_text;

use super::{Metadata, MetadataError, ModelError, Source};

/// Longest text of one, in bytes: it is kept for as long as its model serves.
const BYTES_MAX: usize = 128 << 10;

/// What an operator said of a model in the call that loaded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// The text of a TOML.
    Toml(Arc<str>),
}

impl Given {
    /// The field that it comes in.
    pub(super) fn field(&self) -> &'static str {
        match self {
            Given::Toml(_) => "config_toml",
        }
    }

    /// What it says of the model of `source`. Labels are looked for where those of a file would
    /// be.
    ///
    /// # Errors
    /// [`ModelError::Field`] with what has no meaning.
    pub(super) fn read(&self, source: &Source, base: Metadata) -> Result<Metadata, ModelError> {
        let wrong = |why| ModelError::field(self.field(), why);
        let Given::Toml(text) = self;
        if text.len() > BYTES_MAX {
            let bytes = text.len();
            return Err(wrong(format!("{bytes} bytes; at most {BYTES_MAX} are allowed")));
        }
        let beside = source.metadata.as_ref().unwrap_or(&source.file);
        let path = beside.with_file_name(self.field());
        let read = Metadata::parse(text, &path, base, Vec::new());
        let read = read.map_err(|error| match error {
            MetadataError::Meaning { why, .. } => wrong(why),
            MetadataError::File(error) => wrong(error_text(&error)),
        });
        Ok(Metadata { given: Some(self.clone()), ..read? })
    }
}
