//! Every metric that is told: its name, unit, labels and meaning. `docs/OBSERVING.md` has this table
//! for people, and a test compares the two.

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from 0 at the start of what its labels name.
    Counter,
    /// As it is now.
    Gauge,
    /// 1; its labels are what it tells.
    Info,
    /// How often something was how large.
    Histogram,
}

/// A metric.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name, without the ending that its kind gives it. Units stand at the end: seconds, bytes,
    /// joules, a ratio between 0 and 1; what has none counts what it names.
    pub base: &'static str,
    /// What kind of number it is.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}

impl Family {
    /// Its name as queries have it. A histogram has `_bucket`, `_sum` and `_count` behind it.
    pub fn name(&self) -> String {
        let ending = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        format!("{}{ending}", self.base)
    }
}

macro_rules! families {
    ($($name:ident = $kind:ident $base:literal $labels:expr, $help:literal;)*) => {
        $(
            pub(super) const $name: Family =
                Family { base: $base, kind: Kind::$kind, labels: &$labels, help: $help };
        )*

        /// All of them, in the order in which they are told.
        pub const FAMILIES: &[Family] = &[$($name,)*];
    };
}

families! {
    BUILD = Info "ferry_build" ["version", "commit"], "The build of ferryd";
    DRAINING = Gauge "ferry_draining" [], "1 once nothing new is taken, else 0";
    SESSIONS = Gauge "ferry_sessions" [], "Live sessions";
    IN_FLIGHT = Gauge "ferry_requests_in_flight" [],
        "Requests that are being served, on lanes and in calls";
    REFUSALS = Counter "ferry_refusals" ["link", "what"],
        "Attempts that were refused, by where they came in and why; docs/THREATS.md names the kinds";
    LEFT_OUT = Gauge "ferry_metrics_left_out" ["what"],
        "Models or tenants that are not told here, since there are more than 256";

    MODELS = Gauge "ferry_models" ["state"],
        "Versions of models that are loaded, absent (they made room), available or failed";
    MODELS_MEMORY = Gauge "ferry_models_memory_bytes" ["place"],
        "What the weights of models take of the host's memory and of each GPU's, as far as their engines know";
    MODELS_MEMORY_MAX = Gauge "ferry_models_memory_max_bytes" ["place"],
        "What they may take, where the operator bounds it";
    MODEL = Info "ferry_model" ["model", "version", "engine", "device", "precision"],
        "A version of a model that is loaded: what runs it, where, and in which numbers";
    LOADS = Counter "ferry_model_loads" ["model", "version"],
        "How often a model came into memory";
    EVICTIONS = Counter "ferry_model_evictions" ["model", "version"],
        "How often a model made room for another";
    LAST_LOAD = Gauge "ferry_model_last_load_seconds" ["model", "version"],
        "What the last load of a model took, without the wait for room";
    REQUESTS = Counter "ferry_requests" ["model", "version", "transport", "status"],
        "Requests to a model by how they ended, since it was loaded; calls without a session are grpc";
    REQUEST_BYTES = Counter "ferry_request_payload_bytes" ["model", "version", "transport"],
        "Payloads of requests to a model, since it was loaded";
    REPLY_BYTES = Counter "ferry_reply_payload_bytes" ["model", "version", "transport"],
        "Payloads of its replies that ended well";
    STAGE = Histogram "ferry_stage_duration_seconds" ["model", "version", "transport", "stage"],
        "How long a stage of requests took that ended well; docs/MEASURING.md says where each begins and ends, server is all of them";
    BATCH = Histogram "ferry_batch_rows" ["model", "version"],
        "Rows that a model computed in one run";
    QUEUED = Gauge "ferry_model_queued_requests" ["model", "version"],
        "Requests that wait for an instance of a model";
    RUNNING = Gauge "ferry_model_running_requests" ["model", "version"],
        "Requests that are with the instances of a model";
    INSTANCES = Gauge "ferry_model_instances" ["model", "version", "state"],
        "Instances of a model that are alive, and those that are dead: it panicked and could not be rebuilt, or drains";
    BUSY = Counter "ferry_model_busy_seconds" ["model", "version"],
        "Stages of the requests that the instances of a model ended, without their waiting; several in flight at once are each counted";
    CACHE = Counter "ferry_cache_lookups" ["model", "version", "result"],
        "Requests to a model whose answers are kept, by whether the answer was there (hit, miss)";

    TENANT_SESSIONS = Gauge "ferry_tenant_sessions" ["tenant"], "Sessions that a tenant has";
    TENANT_SLOTS = Gauge "ferry_tenant_slots" ["tenant"], "Slots of a tenant's sessions";
    TENANT_BYTES = Gauge "ferry_tenant_slot_bytes" ["tenant"], "Memory of a tenant's slots";
    TENANT_IN_FLIGHT = Gauge "ferry_tenant_requests_in_flight" ["tenant"],
        "Requests of a tenant that are being served";

    LANE_ALIVE = Gauge "ferry_lane_alive" ["lane"], "1 while the lane's thread runs, else 0";
    LANE_SESSIONS = Gauge "ferry_lane_sessions" ["lane"], "Sessions on the lane";
    LANE_IN_FLIGHT = Gauge "ferry_lane_requests_in_flight" ["lane"],
        "Requests of the lane that are with its models";
    LANE_LEAVING = Gauge "ferry_lane_replies_leaving" ["lane"],
        "Replies that the link took and has not handed on: their clients read slowly";
    LANE_ARRIVALS = Counter "ferry_lane_arrivals" ["lane"],
        "Requests that the lane's link accepted, pings included";
    LANE_PINGS = Counter "ferry_lane_pings" ["lane"], "Pings that the lane answered itself";
    LANE_TURNED_AWAY = Counter "ferry_lane_turned_away" ["lane"],
        "Requests that the lane refused because it drains or has too many in flight";
    LANE_REPLIES = Counter "ferry_lane_replies" ["lane", "outcome"],
        "Replies by what became of them: sent, stale (the session is gone), unsent (the link did not take it)";
    LANE_REFUSALS = Counter "ferry_lane_refusals" ["lane"],
        "Breaches and forgeries that the lane's link refused";
    LANE_CLIENTS = Counter "ferry_lane_clients" ["lane", "event"],
        "Clients that joined the lane, and those that are gone";
    LANE_POLLS = Counter "ferry_lane_polls" ["lane"], "How often the lane looked at its link";
    LANE_PARKS = Counter "ferry_lane_parks" ["lane"], "How often the lane slept";

    RECORDER_GOOD = Gauge "ferry_recorder_good" [],
        "1 while the store takes what is recorded, 0 while it fails or is full";
    RECORDER_QUEUE = Gauge "ferry_recorder_queued_rows" [], "Rows that wait to be stored";
    RECORDER_WRITTEN = Counter "ferry_recorder_rows_written" [], "Rows of requests stored";
    RECORDER_LOST = Counter "ferry_recorder_rows_lost" [],
        "Rows of requests lost, for whatever reason";
    RECORDER_EVENTS_LOST = Counter "ferry_recorder_events_lost" [],
        "Rows of sessions, refusals, samples and models lost";

    GPU_MEMORY = Gauge "ferry_gpu_memory_used_bytes" ["gpu"],
        "Memory in use on a GPU that a model runs on, by all processes";
    GPU_BUSY = Gauge "ferry_gpu_busy_ratio" ["gpu"],
        "Share of the driver's last period in which a kernel ran";
    GPU_PCIE = Counter "ferry_gpu_pcie_bytes" ["gpu"],
        "Sent and received over PCIe since the server first looked at the GPU";
    GPU_NVLINK = Counter "ferry_gpu_nvlink_bytes" ["gpu"],
        "Sent and received over all NVLinks since then";
    GPU_ENERGY = Counter "ferry_gpu_energy_joules" ["gpu"], "Energy since the driver was loaded";

    PROCESS_CPU = Counter "process_cpu_seconds" [], "Processor time of ferryd";
    PROCESS_MEMORY = Gauge "process_resident_memory_bytes" [], "Resident memory of ferryd";
    PROCESS_START = Gauge "process_start_time_seconds" [],
        "When ferryd was started, in seconds since 1970";
    PROCESS_THREADS = Gauge "process_threads" [], "Threads of ferryd";
    PROCESS_FDS = Gauge "process_open_fds" [], "Descriptors that ferryd has open";
    PROCESS_FDS_MAX = Gauge "process_max_fds" [], "Descriptors that it may have open";
}
