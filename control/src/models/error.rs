//! Why a model does not do what was asked of it.

use std::time::Duration;

use ferry_core::BindError;

use super::Shortage;

/// One variant per thing that a caller can do about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ModelError {
    /// There is none of that name and version.
    #[error("no model {name}; {hint}")]
    NotFound {
        /// What was asked for.
        name: String,
        /// Those that there are.
        hint: String,
    },
    /// It is there and not served.
    #[error("model {name} is not served: {why}")]
    NotServed {
        /// Its name and version.
        name: String,
        /// Why, and what to do.
        why: String,
    },
    /// It serves and could not be loaded again.
    #[error("model {name} is not loaded again, and goes on as it was: {why}")]
    NotReloaded {
        /// Its name and version.
        name: String,
        /// Why, and what to do.
        why: String,
    },
    /// There is no room for it in the memory for models.
    #[error("model {name} is not loaded: {shortage}")]
    NoRoom {
        /// Its name and version.
        name: String,
        /// Why.
        shortage: Shortage,
    },
    /// Another model has its name, or one of its aliases.
    #[error("model {name} is not loaded: {why}")]
    NameTaken {
        /// Its name and version.
        name: String,
        /// Which, and of which model.
        why: String,
    },
    /// No call decides which models are loaded.
    #[error(
        "models are loaded and unloaded by what lies in the model folder, which is looked at every \
         {} s: change that, or start ferryd with --model-control explicit",
        every.as_secs_f64()
    )]
    Polled {
        /// How often.
        every: Duration,
    },
    /// Shapes that it does not take.
    #[error(transparent)]
    Shapes(#[from] BindError),
    /// A field has no meaning for it, or is outside its bounds.
    #[error("{field}: {why}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What is wrong, and what is allowed.
        why: String,
    },
}

impl ModelError {
    /// Whether it is another model's doing, so that it may be loaded later as it is.
    pub(super) fn is_of_others(&self) -> bool {
        matches!(self, ModelError::NoRoom { .. } | ModelError::NameTaken { .. })
    }

    /// A field outside its bounds.
    pub(super) fn field(field: &'static str, why: impl Into<String>) -> ModelError {
        ModelError::Field { field, why: why.into() }
    }
}
