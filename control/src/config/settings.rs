//! The options as they are written, and how file and command line become a [`Config`].

mod values;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ferry_rdma::RdmaOptions;
use serde::Deserialize;

use super::{Config, Front, LaneCounts, LibrarySearch};
use crate::models::Budget;
use crate::tenants::Quota;
use values::{
    address, at_least_1, engine_cache, fence, model_control, operator_key, seconds, tenants,
};

/// One source of options. The same names serve the command line and the file.
#[derive(Clone, Debug, Default, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Settings {
    /// HOST:PORT of the gRPC control plane; port 0 lets the system choose [default: 127.0.0.1:7077]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// HOST:PORT where the Open Inference Protocol is served over HTTP [default: it is not]
    #[arg(long, value_name = "HOST:PORT")]
    pub http: Option<String>,
    /// HOST:PORT where Prometheus finds /metrics; who may read it is in docs/OBSERVING.md [default: nowhere]
    #[arg(long, value_name = "HOST:PORT")]
    pub metrics: Option<String>,
    /// Host that tcp and zmq bind and announce [default: that of --listen]
    #[arg(long, value_name = "HOST")]
    pub data_host: Option<String>,
    /// Where timings are stored
    #[arg(long, value_name = "sqlite:PATH")]
    pub store: Option<String>,
    /// Most that the store may grow to, beside a log of some 64 MiB; beyond it rows are lost and
    /// counted [default: what the disk holds]
    #[arg(long, value_name = "BYTES")]
    pub store_bytes_max: Option<u64>,
    /// Folder with NAME.onnx or NAME/VERSION/model.onnx
    #[arg(long, value_name = "DIR")]
    pub models: Option<PathBuf>,
    /// none: all models are loaded at the start; poll: and what changes in the folder; explicit:
    /// those of --load-model [default: none]
    #[arg(long, value_name = "MODE")]
    pub model_control: Option<String>,
    /// How often the folder is looked at with --model-control poll [default: 15]
    #[arg(long, value_name = "SECONDS")]
    pub model_poll_seconds: Option<f64>,
    /// Model that is loaded at the start with --model-control explicit, `*` for all; may be given
    /// again
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub load_model: Option<Vec<String>>,
    /// Most host memory of the weights of all models; beyond it, models that were not used for
    /// longest make room, and come back when they are asked for [default: no bound]
    #[arg(long, value_name = "BYTES")]
    pub models_bytes_max: Option<u64>,
    /// The same, of the memory of each GPU [default: no bound]
    #[arg(long, value_name = "BYTES")]
    pub gpu_models_bytes_max: Option<u64>,
    /// Path of libonnxruntime.so
    #[arg(long, value_name = "PATH")]
    pub onnxruntime: Option<PathBuf>,
    /// Path of libtensorrt_rtx.so.1, or of its folder
    #[arg(long, value_name = "PATH")]
    pub tensorrt: Option<PathBuf>,
    /// Folder of engines that TensorRT built; whoever may write there chooses what this server
    /// runs [default: $XDG_CACHE_HOME/ferry/engines, or ~/.cache/ferry/engines]
    #[arg(long, value_name = "DIR")]
    pub engine_cache: Option<PathBuf>,
    /// Most that this folder may hold; what was not used for longest goes [default: 8 GiB]
    #[arg(long, value_name = "BYTES")]
    pub engine_cache_bytes_max: Option<u64>,
    /// Folders with libraries of CUDA 13 and cuDNN 9, or above them, such as a site-packages;
    /// searched before those of Python and of the toolkit
    #[arg(long, value_name = "DIR[,DIR]", env = "FERRY_CUDA_LIBRARIES", value_delimiter = ',')]
    pub cuda_libraries: Option<Vec<PathBuf>>,
    /// Threads that serve a link; 0 turns it off [default: 1; 2 for shm and tcp]
    #[arg(long, value_name = "LINK=N[,LINK=N]")]
    pub lanes: Option<LaneCounts>,
    /// Users of this machine that shared memory is given to, by number [default: whoever has a
    /// session's token]
    #[arg(long, value_name = "UID[,UID]", value_delimiter = ',')]
    pub shm_uids: Option<Vec<u32>>,
    /// RDMA device, as ibv_devices shows it [default: the first with an active port]
    #[arg(long, value_name = "NAME")]
    pub rdma_device: Option<String>,
    /// Entry of the RDMA port's table of addresses [default: by rank, see ferry doctor]
    #[arg(long, value_name = "INDEX")]
    pub rdma_gid_index: Option<u8>,
    /// How RDMA clients are kept from memory that is not theirs any more: auto, window or
    /// registration
    #[arg(long, value_name = "FENCE")]
    pub rdma_fence: Option<String>,
    /// How long a session lives without a heartbeat
    #[arg(long, value_name = "SECONDS")]
    pub lease_seconds: Option<f64>,
    /// Most requests that wait for one model, where its metadata does not say
    #[arg(long, value_name = "N")]
    pub queue: Option<usize>,
    /// Threads of one instance of a model, where its metadata does not say
    #[arg(long, value_name = "N")]
    pub engine_threads: Option<usize>,
    /// Largest request that a session may ask room for beyond its tensors
    #[arg(long, value_name = "BYTES")]
    pub request_bytes_max: Option<u64>,
    /// Most concurrent calls of one connection
    #[arg(long, value_name = "N")]
    pub streams_max: Option<u32>,
    /// Most connections of the control plane; lowered to what sessions leave of the limit of descriptors, or a quarter of it
    #[arg(long, value_name = "N")]
    pub connections_max: Option<usize>,
    /// Most bytes of messages that are under way in calls, of all connections together; one
    /// connection may have a quarter of it
    #[arg(long, value_name = "BYTES")]
    pub calls_bytes_max: Option<u64>,
    /// How long a connection may take to begin HTTP/2, or to send the head of a first request
    #[arg(long, value_name = "SECONDS")]
    pub handshake_seconds: Option<f64>,
    /// How long the message of a call may take; long ones get a second more for each 4 MiB
    #[arg(long, value_name = "SECONDS")]
    pub body_seconds: Option<f64>,
    /// How long a drain waits for what is in flight
    #[arg(long, value_name = "SECONDS")]
    pub drain_seconds: Option<f64>,
    /// How often resources are sampled; 0 turns it off
    #[arg(long, value_name = "SECONDS")]
    pub sample_seconds: Option<f64>,
    /// Most sessions of a tenant
    #[arg(long, value_name = "N")]
    pub quota_sessions: Option<u64>,
    /// Most slots of a tenant, over all its sessions
    #[arg(long, value_name = "N")]
    pub quota_slots: Option<u64>,
    /// Most memory of a tenant's slots
    #[arg(long, value_name = "BYTES")]
    pub quota_bytes: Option<u64>,
    /// Most requests of a tenant that are being served at once
    #[arg(long, value_name = "N")]
    pub quota_in_flight: Option<u64>,
    /// What operators present as metadata `ferry-key`: only in the file, since a command line can
    /// be read by everybody.
    #[arg(skip)]
    pub operator_key: Option<String>,
    /// `[tenants.NAME]`: only in the file.
    #[arg(skip)]
    pub tenants: BTreeMap<String, TenantSettings>,
}

/// `[tenants.NAME]` of the file. Quotas that it does not name are those of everybody.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TenantSettings {
    /// What its clients present as gRPC metadata `ferry-key`.
    pub key: String,
    /// Most sessions.
    pub quota_sessions: Option<u64>,
    /// Most slots.
    pub quota_slots: Option<u64>,
    /// Most bytes of slots.
    pub quota_bytes: Option<u64>,
    /// Most requests being served at once.
    pub quota_in_flight: Option<u64>,
    /// Most requests a second, to all models together; as many as it likes where it is not said.
    pub requests_per_s: Option<f64>,
    /// Most of them at once; what a second brings, where it is not said.
    pub burst: Option<u64>,
}

/// Why options make no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read {}; does --config name the right file?", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML, or has a key that is not known.
    #[error("{} is not usable: {why}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong where, with the keys that are known.
        why: String,
    },
    /// A value has no meaning.
    #[error("{name}: {why}")]
    Value {
        /// The option.
        name: &'static str,
        /// What is wrong and what is allowed.
        why: String,
    },
}

fn bad(name: &'static str, why: impl Into<String>) -> ConfigError {
    ConfigError::Value { name, why: why.into() }
}

impl Settings {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError`] if it cannot be read, or names something unknown.
    pub fn read(path: &Path) -> Result<Settings, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            why: error.to_string().trim().to_owned(),
        })
    }

    /// The configuration: what `self` (the command line) says, else what `file` says, else the
    /// default.
    ///
    /// # Errors
    /// [`ConfigError::Value`] names the option that has no meaning.
    pub fn over(self, file: Settings) -> Result<Config, ConfigError> {
        let base = Config::default();
        let quota = Quota {
            sessions: self.quota_sessions.or(file.quota_sessions).unwrap_or(base.quota.sessions),
            slots: self.quota_slots.or(file.quota_slots).unwrap_or(base.quota.slots),
            bytes: self.quota_bytes.or(file.quota_bytes).unwrap_or(base.quota.bytes),
            in_flight: self
                .quota_in_flight
                .or(file.quota_in_flight)
                .unwrap_or(base.quota.in_flight),
        };
        let config = Config {
            listen: address("listen", self.listen.or(file.listen).unwrap_or(base.listen))?,
            http: self.http.or(file.http).map(|it| address("http", it)).transpose()?,
            metrics: self.metrics.or(file.metrics).map(|it| address("metrics", it)).transpose()?,
            data_host: self.data_host.or(file.data_host),
            store: self.store.or(file.store).unwrap_or(base.store),
            store_bytes_max: self.store_bytes_max.or(file.store_bytes_max),
            models: self.models.or(file.models),
            model_control: model_control(
                self.model_control.or(file.model_control),
                self.model_poll_seconds.or(file.model_poll_seconds),
                self.load_model.or(file.load_model),
            )?,
            models_budget: Budget {
                host_bytes_max: self.models_bytes_max.or(file.models_bytes_max),
                gpu_bytes_max: self.gpu_models_bytes_max.or(file.gpu_models_bytes_max),
            },
            onnxruntime: self.onnxruntime.or(file.onnxruntime),
            tensorrt: self.tensorrt.or(file.tensorrt),
            engine_cache: self
                .engine_cache
                .or(file.engine_cache)
                .or_else(|| engine_cache(|name| std::env::var_os(name))),
            engine_cache_bytes_max: self
                .engine_cache_bytes_max
                .or(file.engine_cache_bytes_max)
                .unwrap_or(base.engine_cache_bytes_max),
            cuda_libraries: LibrarySearch {
                explicit: self.cuda_libraries.or(file.cuda_libraries).unwrap_or_default(),
                ..base.cuda_libraries
            },
            lanes: self.lanes.unwrap_or_default().over(file.lanes.unwrap_or_default()),
            shm_uids: self.shm_uids.or(file.shm_uids),
            rdma: RdmaOptions {
                device: self.rdma_device.or(file.rdma_device),
                gid_index: self.rdma_gid_index.or(file.rdma_gid_index),
                fence: fence(self.rdma_fence.or(file.rdma_fence))?,
                ..base.rdma
            },
            lease: seconds("lease-seconds", self.lease_seconds.or(file.lease_seconds), base.lease)?,
            queue: at_least_1("queue", self.queue.or(file.queue).unwrap_or(base.queue))?,
            engine_threads: at_least_1(
                "engine-threads",
                self.engine_threads.or(file.engine_threads).unwrap_or(base.engine_threads),
            )?,
            request_bytes_max: self
                .request_bytes_max
                .or(file.request_bytes_max)
                .unwrap_or(base.request_bytes_max),
            streams_max: self.streams_max.or(file.streams_max).unwrap_or(base.streams_max).max(1),
            front: Front {
                connections_max: at_least_1(
                    "connections-max",
                    self.connections_max
                        .or(file.connections_max)
                        .unwrap_or(base.front.connections_max),
                )?,
                calls_bytes_max: self
                    .calls_bytes_max
                    .or(file.calls_bytes_max)
                    .unwrap_or(base.front.calls_bytes_max),
                begins_within: seconds(
                    "handshake-seconds",
                    self.handshake_seconds.or(file.handshake_seconds),
                    base.front.begins_within,
                )?,
                body_within: seconds(
                    "body-seconds",
                    self.body_seconds.or(file.body_seconds),
                    base.front.body_within,
                )?,
            },
            drain: seconds("drain-seconds", self.drain_seconds.or(file.drain_seconds), base.drain)?,
            sample_every: seconds(
                "sample-seconds",
                self.sample_seconds.or(file.sample_seconds),
                base.sample_every,
            )?,
            operator_key: operator_key(file.operator_key, &file.tenants)?,
            tenants: tenants(file.tenants, &quota)?,
            quota,
        };
        if config.lease.is_zero() {
            return Err(bad("lease-seconds", "0; a session needs time for its first heartbeat"));
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests;
