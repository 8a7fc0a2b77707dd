//! `[limits]`: how often each tenant may ask a model.

use serde::Deserialize;

use crate::host::rate::Rate;

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RateTable {
    /// Of each tenant.
    requests_per_s: f64,
    /// At once; what a second brings, where it is not said.
    burst: Option<u64>,
}

impl RateTable {
    /// What it means.
    ///
    /// # Errors
    /// A text that names what is out of bounds.
    pub(super) fn rate(self) -> Result<Rate, String> {
        Rate::new(self.requests_per_s, self.burst).map_err(|why| format!("limits: {why}"))
    }
}
