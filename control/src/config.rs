//! What an operator may set: on the command line, in a TOML file with the same names, or not.

mod lanes;
mod settings;

use std::path::PathBuf;
use std::time::Duration;

pub use ferry_cuda::libraries::LibrarySearch;
pub use ferry_rdma::RdmaOptions;

use crate::models::{Budget, ModelControl};
use crate::tenants::{Quota, TenantConfig};

pub use lanes::{LANES_MAX, LaneCounts};
pub use settings::{ConfigError, Settings};

/// Everything that the server is built from, parsed and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// `HOST:PORT` of the control plane; port 0 lets the system choose.
    pub listen: String,
    /// `HOST:PORT` of the Open Inference Protocol over HTTP; `None`: it is not served.
    pub http: Option<String>,
    /// `HOST:PORT` where metrics are told; `None`: they are not.
    pub metrics: Option<String>,
    /// Address that tcp and zmq bind and announce; `None`: the host of `listen`.
    pub data_host: Option<String>,
    /// Where timings go.
    pub store: String,
    /// Most bytes that the store's file may grow to; `None`: what the disk holds.
    pub store_bytes_max: Option<u64>,
    /// The model folder.
    pub models: Option<PathBuf>,
    /// Who decides which of its models are loaded.
    pub model_control: ModelControl,
    /// Most bytes of the models that are in memory.
    pub models_budget: Budget,
    /// The native library of ONNX Runtime; `None`: the loader's own search.
    pub onnxruntime: Option<PathBuf>,
    /// The native library of TensorRT, or its folder; `None`: the loader's own search.
    pub tensorrt: Option<PathBuf>,
    /// Where engines that were built are kept; `None`: they are built at every start.
    pub engine_cache: Option<PathBuf>,
    /// Most bytes of them together.
    pub engine_cache_bytes_max: u64,
    /// Where the CUDA libraries are looked for.
    pub cuda_libraries: LibrarySearch,
    /// Lanes of the links that are to have another number than their default.
    pub lanes: LaneCounts,
    /// Users of this machine that shared memory is given to; `None`: whoever has a token.
    pub shm_uids: Option<Vec<u32>>,
    /// The RDMA device, and how it is used.
    pub rdma: RdmaOptions,
    /// How long a session lives without a heartbeat.
    pub lease: Duration,
    /// Most requests that wait for a model, where its metadata does not say.
    pub queue: usize,
    /// Threads of one instance of a model, where its metadata does not say.
    pub engine_threads: usize,
    /// Largest request half of a slot that a client may ask for beyond its tensors, in bytes.
    pub request_bytes_max: u64,
    /// Most HTTP/2 streams of one connection at a time.
    pub streams_max: u32,
    /// What strangers and callers may cost the control plane.
    pub front: Front,
    /// How long a drain waits for what is in flight.
    pub drain: Duration,
    /// How often resources are sampled; zero: never.
    pub sample_every: Duration,
    /// Quotas of the tenant `default`, where no tenants are named.
    pub quota: Quota,
    /// What an operator presents, where there are tenants.
    pub operator_key: Option<String>,
    /// The tenants; empty: everybody is `default`.
    pub tenants: Vec<TenantConfig>,
}

/// What strangers and callers may cost the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Front {
    /// Most connections.
    pub connections_max: usize,
    /// Most bytes of messages that are under way, of all calls together.
    pub calls_bytes_max: u64,
    /// How long a connection may take to begin HTTP/2, or to send the head of a first request.
    pub begins_within: Duration,
    /// How long the message of a call may take; long ones get a second more for each 4 MiB.
    pub body_within: Duration,
}

impl Default for Front {
    fn default() -> Self {
        Front {
            // One for each client program, and one for each session on grpc.
            connections_max: 4096,
            // Eight of the longest messages, or 1,700 of ResNet50's inputs.
            calls_bytes_max: 1 << 30,
            begins_within: Duration::from_secs(5),
            body_within: Duration::from_secs(20),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: ferry_proto::channel::ADDRESS_DEFAULT.into(),
            http: None,
            metrics: None,
            data_host: None,
            store: "sqlite:ferry.sqlite".into(),
            store_bytes_max: None,
            models: None,
            model_control: ModelControl::None,
            models_budget: Budget::default(),
            onnxruntime: None,
            tensorrt: None,
            engine_cache: None,
            // Fifty of large vision models, or hundreds of small ones.
            engine_cache_bytes_max: 8 << 30,
            cuda_libraries: LibrarySearch::default(),
            lanes: LaneCounts::default(),
            shm_uids: None,
            rdma: RdmaOptions::default(),
            lease: Duration::from_secs(30),
            queue: 64,
            engine_threads: 1,
            // Room for the largest JPEG file that is decoded.
            request_bytes_max: 64 << 20,
            streams_max: 256,
            front: Front::default(),
            drain: Duration::from_secs(30),
            sample_every: Duration::from_secs(1),
            quota: Quota::default(),
            operator_key: None,
            tenants: Vec::new(),
        }
    }
}

impl Config {
    /// Most sessions that the tenants may have together.
    pub fn sessions_max(&self) -> u64 {
        let all = self.tenants.iter().map(|tenant| tenant.quota.sessions);
        let wanted = if self.tenants.is_empty() { self.quota.sessions } else { all.sum() };
        wanted.min(crate::tenants::SESSIONS_MAX as u64)
    }

    /// The address where other machines may reach the server and everybody is an operator.
    pub fn open_to_others(&self) -> Option<&str> {
        let is_local = |address: &str| {
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
            let host = host.trim_matches(['[', ']']);
            host == "localhost"
                || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        };
        let all = [Some(self.listen.as_str()), self.http.as_deref(), self.metrics.as_deref()];
        all.into_iter().flatten().find(|address| !self.has_keys() && !is_local(address))
    }

    /// Whether it matters who calls.
    pub fn has_keys(&self) -> bool {
        !self.tenants.is_empty() || self.operator_key.is_some()
    }

    /// The host that data-plane links bind and announce.
    pub fn data_host(&self) -> &str {
        let own = || self.listen.rsplit_once(':').map_or(self.listen.as_str(), |(host, _)| host);
        self.data_host.as_deref().unwrap_or_else(own)
    }
}
