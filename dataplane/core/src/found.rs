//! What was looked for on a machine, for people: what `ferry doctor` prints.

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What.
    pub name: String,
    /// Whether it can be used.
    pub usable: bool,
    /// What was found.
    pub detail: String,
    /// What to do where it cannot; empty where it can.
    pub fix: String,
}

impl Found {
    /// It can be used.
    pub fn good(name: impl Into<String>, detail: impl Into<String>) -> Found {
        Found { name: name.into(), usable: true, detail: detail.into(), fix: String::new() }
    }

    /// It cannot be used; what to do about it.
    pub fn bad(
        name: impl Into<String>,
        detail: impl Into<String>,
        fix: impl Into<String>,
    ) -> Found {
        Found { name: name.into(), usable: false, detail: detail.into(), fix: fix.into() }
    }
}
