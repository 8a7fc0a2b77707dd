//! A configuration that comes with a call, in place of the one in the folder.

use std::sync::Arc;

use ferry_core::error_text;

use super::{Metadata, MetadataError, ModelError, Source, VersionPolicy, model_config};

/// Longest text of one, in bytes: it is kept for as long as its model serves.
const BYTES_MAX: usize = 128 << 10;

/// What an operator said of a model in the call that loaded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// The text of a TOML.
    Toml(Arc<str>),
    /// What a `config.pbtxt` says, as JSON.
    Json(Arc<str>),
}

impl Given {
    /// The field that it comes in.
    pub(super) fn field(&self) -> &'static str {
        match self {
            Given::Toml(_) => "config_toml",
            Given::Json(_) => "config",
        }
    }

    fn text(&self) -> Result<&str, ModelError> {
        let (Given::Toml(text) | Given::Json(text)) = self;
        if text.len() > BYTES_MAX {
            let bytes = text.len();
            return Err(self.wrong(format!("{bytes} bytes; at most {BYTES_MAX} are allowed")));
        }
        Ok(text)
    }

    fn wrong(&self, why: impl Into<String>) -> ModelError {
        ModelError::field(self.field(), why)
    }

    /// What it says of the file of a version, and of which versions serve.
    ///
    /// # Errors
    /// [`ModelError::Field`] with what has no meaning.
    pub(super) fn layout(
        &self,
        source: &Source,
        base: Metadata,
    ) -> Result<(Option<String>, Option<VersionPolicy>), ModelError> {
        match self {
            Given::Toml(_) => Ok((None, self.read(source, base)?.versions)),
            Given::Json(_) => {
                let config =
                    model_config::from_json(self.text()?).map_err(|why| self.wrong(why))?;
                let layout = model_config::layout(&config).map_err(|why| self.wrong(why))?;
                let is_said = !config.default_model_filename.is_empty();
                let file = is_said.then_some(layout.file);
                Ok((file, layout.versions.filter(|_| config.version_policy.is_some())))
            }
        }
    }

    /// What it says of the model of `source`. Files that it names are looked for where those of a
    /// file would be.
    ///
    /// # Errors
    /// [`ModelError::Field`] with what has no meaning.
    pub(super) fn read(&self, source: &Source, base: Metadata) -> Result<Metadata, ModelError> {
        let beside = source.metadata.as_ref().unwrap_or(&source.file);
        let read = match self {
            Given::Toml(_) => {
                let path = beside.with_file_name(self.field());
                let read = Metadata::parse(self.text()?, &path, base, Vec::new());
                read.map_err(|error| match error {
                    MetadataError::Meaning { why, .. } | MetadataError::Told(why) => why,
                    MetadataError::File(error) => error_text(&error),
                })
            }
            Given::Json(_) => {
                let folder = &source.folder;
                let place = model_config::Place { name: &source.name, folder };
                model_config::from_json(self.text()?)
                    .and_then(|config| model_config::metadata(&config, place, base, Vec::new()))
            }
        };
        let read = read.map_err(|why| self.wrong(why))?;
        Ok(Metadata { given: Some(self.clone()), ..read })
    }
}
