//! Who decides which models are loaded.

use std::collections::BTreeSet;
use std::time::Duration;

use super::ModelError;

/// What is loaded at the start, and by whom later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ModelControl {
    /// All at the start; later by calls.
    #[default]
    None,
    /// All at the start; later what changed in the folder, which is looked at so often.
    Poll(Duration),
    /// These at the start, `*` being all; later by calls.
    Explicit(Vec<String>),
}

impl ModelControl {
    /// Whether calls may load and unload.
    ///
    /// # Errors
    /// [`ModelError::Polled`].
    pub(super) fn takes_calls(&self) -> Result<(), ModelError> {
        match self {
            ModelControl::None | ModelControl::Explicit(_) => Ok(()),
            ModelControl::Poll(every) => Err(ModelError::Polled { every: *every }),
        }
    }

    /// The models that are to be loaded at the start and are not `there`.
    pub(super) fn missing<'a>(&'a self, there: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
        let there: BTreeSet<&str> = there.collect();
        let ModelControl::Explicit(names) = self else { return Vec::new() };
        let named = names.iter().map(String::as_str);
        named.filter(|name| *name != "*" && !there.contains(name)).collect()
    }

    /// Whether a model is loaded at the start.
    pub(super) fn begins_with(&self, name: &str) -> bool {
        match self {
            ModelControl::None | ModelControl::Poll(_) => true,
            ModelControl::Explicit(names) => names.iter().any(|it| it == "*" || it == name),
        }
    }
}
