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

/// What kind of thing was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// A transport that sessions can be opened with.
    Transport,
    /// What runs models.
    Engine,
    /// GPUs, their driver and libraries.
    Gpu,
    /// Devices for RDMA.
    Rdma,
    /// What the system allows.
    Limit,
}

impl Area {
    /// The name for people.
    pub const fn name(self) -> &'static str {
        match self {
            Area::Transport => "transport",
            Area::Engine => "engine",
            Area::Gpu => "gpu",
            Area::Rdma => "rdma",
            Area::Limit => "limit",
        }
    }
}

/// Something that was looked at, and what kind of thing it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The kind.
    pub area: Area,
    /// What was found.
    pub found: Found,
}
