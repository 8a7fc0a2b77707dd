//! What is stored, as plain data.

use ferry_core::{MemoryChoice, Placement, RequestRecord, SessionId, Transport, WaitPolicy};

/// The machine that a run ran on. No host name: results are passed around.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// As the kernel names the processor.
    pub cpu_model: String,
    /// Cores that the process may use.
    pub cpu_cores: u32,
    /// Name and release of the kernel.
    pub kernel: String,
}

/// A run that begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRun {
    /// What a person calls it.
    pub name: String,
    /// `serve` for a server's own life, `bench`, `infer`, ….
    pub kind: String,
    /// Wall clock, nanoseconds since 1970.
    pub started_unix_ns: u64,
    /// Where it runs.
    pub machine: Machine,
    /// The commit that the binary was built from.
    pub git_commit: String,
    /// Its options, a JSON object.
    pub options_json: String,
    /// Versions of the native libraries, a JSON object.
    pub libraries_json: String,
    /// Requests sent before those that are stored.
    pub warmup: u64,
    /// Whatever else explains it.
    pub notes: String,
    /// Whose it is; `None`: the server's own, or the operator's.
    pub tenant: Option<String>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunEnd {
    /// Wall clock, nanoseconds since 1970.
    pub finished_unix_ns: u64,
    /// Replaces the notes, if there are any.
    pub notes: Option<String>,
}

/// A run as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its id.
    pub id: i64,
    /// What it began with.
    pub new: NewRun,
    /// Wall clock at its end; `None` while it goes on, or when it was cut off.
    pub finished_unix_ns: Option<u64>,
    /// Request rows that could not be stored.
    pub lost: u64,
}

/// How a session's bytes travel between the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// Client and server talk without anybody between them.
    Direct,
}

impl Connection {
    /// The name in SQL.
    pub const fn name(self) -> &'static str {
        match self {
            Connection::Direct => "direct",
        }
    }
}

/// A session that was opened. Its id must be unique over the life of the store: random 64 bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// Its id.
    pub id: SessionId,
    /// The run that it was opened in; 0 is the server's own.
    pub run: i64,
    /// Who opened it.
    pub tenant: String,
    /// The model that it talks to.
    pub model: String,
    /// The model's version.
    pub version: String,
    /// What runs the model.
    pub engine: String,
    /// Where the model runs: `cpu`, `cuda:N`.
    pub device: String,
    /// In which numbers the model computes; `None` where nothing is computed.
    pub precision: Option<&'static str>,
    /// The transport, which names the link.
    pub transport: Transport,
    /// Where its slots live on the server.
    pub placement: Placement,
    /// What kind of host memory they are, or are staged through.
    pub memory: MemoryChoice,
    /// How its bytes travel.
    pub connection: Connection,
    /// How the client waits.
    pub wait: WaitPolicy,
    /// How many requests may be in flight.
    pub slots: u32,
    /// Wall clock, nanoseconds since 1970.
    pub opened_unix_ns: u64,
}

/// An attempt that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Wall clock, nanoseconds since 1970.
    pub unix_ns: u64,
    /// The session, where one could be told.
    pub session: Option<SessionId>,
    /// The tenant, where one could be told.
    pub tenant: Option<String>,
    /// The link that it came over, or `grpc`.
    pub link: &'static str,
    /// What was refused, such as `forged_token` or `stale_generation`.
    pub what: &'static str,
    /// How often since the last row of its kind.
    pub count: u64,
}

/// What the machine and the process had used at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ResourceSample {
    /// The run; 0 is the server's own.
    pub run: i64,
    /// Wall clock, nanoseconds since 1970.
    pub unix_ns: u64,
    /// CPU time of the process in user mode.
    pub process_user_ns: u64,
    /// CPU time of the process in the kernel.
    pub process_system_ns: u64,
    /// CPU time of all cores in user mode.
    pub machine_user_ns: u64,
    /// CPU time of all cores in the kernel.
    pub machine_system_ns: u64,
    /// Resident memory of the process.
    pub rss_bytes: u64,
    /// Memory used on the GPUs that models run on, or ran on, since the server started. This and
    /// what follows is of all of them; `None` where one does not tell.
    pub gpu_memory_bytes: Option<u64>,
    /// Their mean utilisation, 0 to 100.
    pub gpu_busy_percent: Option<f64>,
    /// Their traffic over PCIe, both directions, since the server first looked at each.
    pub pcie_bytes: Option<u64>,
    /// Their traffic over NVLink, likewise.
    pub nvlink_bytes: Option<u64>,
    /// Their energy since the driver was loaded, in microjoules.
    pub gpu_energy_uj: Option<u64>,
}

/// A model that was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelRow {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What runs it.
    pub engine: String,
    /// Where it runs: `cpu`, `cuda:N`.
    pub device: String,
    /// In which numbers it computes; `None` where nothing is computed.
    pub precision: Option<&'static str>,
    /// Hash of its file; empty for a built-in model.
    pub sha256: String,
    /// Wall clock, nanoseconds since 1970.
    pub loaded_unix_ns: u64,
}

/// What happens seldom, beside the requests.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A session was opened, or resumed on a server that did not know it.
    Opened(Box<SessionRow>),
    /// A session ended.
    Closed {
        /// Which.
        id: SessionId,
        /// Wall clock, nanoseconds since 1970.
        unix_ns: u64,
        /// Such as `closed`, `expired` or `evicted`.
        reason: &'static str,
    },
    /// An attempt was refused.
    Refused(Box<Refusal>),
    /// A model was loaded.
    Loaded(Box<ModelRow>),
    /// A model was unloaded.
    Unloaded {
        /// Its name.
        name: String,
        /// Its version.
        version: String,
        /// When it was loaded: one that takes its place has the same name and version.
        loaded_unix_ns: u64,
        /// Wall clock, nanoseconds since 1970.
        unix_ns: u64,
    },
}

/// What is stored in one transaction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// The run that number 0 stands for.
    pub own_run: i64,
    /// Stored first, in this order.
    pub events: Vec<Event>,
    /// What was in use.
    pub samples: Vec<ResourceSample>,
    /// Stored after the events.
    pub requests: Vec<RequestRecord>,
    /// Requests lost, by run.
    pub lost: Vec<(i64, u64)>,
}

impl Batch {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
            && self.samples.is_empty()
            && self.requests.is_empty()
            && self.lost.is_empty()
    }

    /// The run that a record means.
    pub(crate) fn run(&self, run: i64) -> i64 {
        if run == 0 { self.own_run } else { run }
    }
}
