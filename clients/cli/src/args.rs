//! What can be typed.

use std::path::PathBuf;

use clap::{Args as Group, Parser, Subcommand, ValueEnum};
use ferry_client::{SlotPlace, Transport, WaitPolicy};
use ferry_proto::channel::ADDRESS_DEFAULT;

mod rdma;
mod shapes;
mod tune;
mod zoo;

pub(crate) use rdma::RdmaArgs;
pub(crate) use shapes::ShapeArgs;
pub(crate) use tune::TuneArgs;
pub(crate) use zoo::{ZooArgs, ZooPrecision, ZooVerb};

/// Exit codes, for `--help`.
const EXIT_CODES: &str = "Exit codes: 0 done · 1 failed · 2 wrong usage · 3 the server cannot be \
    reached · 4 the server refused · 5 some requests failed · \
    130 interrupted";

/// Talks to ferryd: infers, measures, and asks where the time went.
#[derive(Debug, Parser)]
#[command(name = "ferry", version, after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Print JSON, one object per line, for programs.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a model once on a picture or on tensors.
    Infer(InferArgs),
    /// Measure transports under load, or the links alone beside bare references.
    Bench(Box<BenchArgs>),
    /// Find the settings of a model that serve most requests within a bound of latency.
    Tune(Box<TuneArgs>),
    /// List, load and unload models.
    Models(ModelsArgs),
    /// Write the reference models as ONNX files, offline.
    Zoo(ZooArgs),
    /// List and evict sessions.
    Sessions(SessionsArgs),
    /// List, show and compare runs.
    Runs(RunsArgs),
    /// Ask the run history with one SELECT.
    Sql(SqlArgs),
    /// Say what works on this machine, and what to do about the rest.
    Doctor(DoctorArgs),
}

/// Which server to talk to.
// Global: taken before a command's own verb and after it.
#[derive(Clone, Debug, Group)]
pub(crate) struct Server {
    /// Address of ferryd's control plane: HOST:PORT or http://HOST:PORT.
    #[arg(long = "server", global = true, env = "FERRY_SERVER", default_value = ADDRESS_DEFAULT)]
    pub(crate) url: String,
    /// Key of the tenant, where the server has tenants.
    #[arg(long, global = true, env = "FERRY_KEY", hide_env_values = true)]
    pub(crate) key: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PictureKind {
    /// The file as it is (JPEG, PNG or WebP); the server decodes it.
    #[value(name = "image", alias = "jpeg")]
    Jpeg,
    /// Pixels; an encoded picture is decoded here first, as the server would.
    Raw,
}

impl From<PictureKind> for ferry_bench::PictureKind {
    fn from(kind: PictureKind) -> Self {
        match kind {
            PictureKind::Jpeg => Self::Jpeg,
            PictureKind::Raw => Self::Raw,
        }
    }
}

#[derive(Debug, Group)]
pub(crate) struct InferArgs {
    #[command(flatten)]
    pub(crate) server: Server,
    /// Name of the model.
    #[arg(long)]
    pub(crate) model: String,
    /// Version of the model; 0 is the latest.
    #[arg(long, default_value_t = 0)]
    pub(crate) version: u64,
    /// local, shm, tcp, zmq, grpc, …; auto lets the server choose.
    #[arg(long, default_value = "auto", value_parser = transport)]
    pub(crate) transport: Choice,
    /// A picture: JPEG, PNG or WebP, or PPM/PGM pixels.
    #[arg(long, value_name = "FILE", conflicts_with = "inputs")]
    pub(crate) image: Option<PathBuf>,
    /// How the picture is sent; an encoded one is sent as it is if not said.
    #[arg(long, value_name = "KIND", requires = "image")]
    pub(crate) kind: Option<PictureKind>,
    /// An input tensor; once per input.
    #[arg(long = "input", value_name = "NAME=FILE.npy")]
    pub(crate) inputs: Vec<String>,
    #[command(flatten)]
    pub(crate) shapes: ShapeArgs,
    /// Writes each output as DIR/NAME.npy; what a file's name may not hold is written as %2F.
    #[arg(long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
    /// How to wait for the reply.
    #[arg(long, default_value_t = WaitPolicy::Adaptive)]
    pub(crate) wait: WaitPolicy,
    /// What the slots are to the model's GPU: auto, pageable, pinned, mapped, or cuda:N.
    #[arg(long, value_parser = slot_place)]
    pub(crate) memory: Option<SlotPlace>,
    /// Larger is more urgent.
    #[arg(long, default_value_t = 0)]
    pub(crate) priority: u8,
    /// Give up after this many seconds.
    #[arg(long, default_value_t = 60)]
    pub(crate) timeout_s: u64,
    #[command(flatten)]
    pub(crate) rdma: RdmaArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    /// Sessions of our SDK.
    Ferry,
    /// The Open Inference Protocol, of ferryd or any other server: grpc sends tensors in messages,
    /// shm puts them into system shared memory.
    Oip,
}

#[derive(Debug, Group)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(crate) server: Server,
    /// Name of the model.
    #[arg(long, default_value = "echo")]
    pub(crate) model: String,
    /// Version of the model; 0 is the latest.
    #[arg(long, default_value_t = 0)]
    pub(crate) version: u64,
    /// Protocols to measure, in turn within one run.
    #[arg(
        long = "protocol",
        value_name = "PROTOCOL",
        value_delimiter = ',',
        default_value = "ferry",
        conflicts_with = "floor"
    )]
    pub(crate) protocols: Vec<Protocol>,
    /// Transports to measure, in turn within one run; those that a protocol lacks are left out of
    /// its turn [default: all that the server has].
    #[arg(long = "transport", value_delimiter = ',', value_parser = transport_name)]
    pub(crate) transports: Vec<Transport>,
    /// What the slots are to a model's GPU, in turn within one run: auto, pageable, pinned, mapped,
    /// or cuda:N for its own memory.
    #[arg(long = "memory", value_delimiter = ',', value_parser = slot_place)]
    pub(crate) memory: Vec<SlotPlace>,
    /// Clients at once, each with a thread and a session (or, over oip, a connection) of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) clients: u32,
    /// Measured requests per client.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) requests: u64,
    /// Requests per client before measuring starts.
    #[arg(long, default_value_t = 100)]
    pub(crate) warmup: u64,
    /// Requests that one client has in flight.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) window: u32,
    /// How both ends of a session wait: spin, adaptive or block.
    #[arg(long, default_value_t = WaitPolicy::Adaptive)]
    pub(crate) wait: WaitPolicy,
    /// Rounds in which the transports take turns.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) rounds: u64,
    /// Store no timings of the requests.
    #[arg(long)]
    pub(crate) no_record: bool,
    /// Bytes of a request, for the model `echo`.
    #[arg(long, default_value_t = 602_112, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) in_bytes: u64,
    /// Bytes of a reply, for the model `echo` [default: 4000, or as many as --in-bytes with the
    /// protocol oip, where it is the identity].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) out_bytes: Option<u64>,
    #[command(flatten)]
    pub(crate) shapes: ShapeArgs,
    #[command(flatten)]
    pub(crate) rdma: RdmaArgs,
    /// Sends this picture instead of tensors.
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
    /// How the picture is sent.
    #[arg(long, value_name = "KIND", requires = "image")]
    pub(crate) kind: Option<PictureKind>,
    /// Larger is more urgent.
    #[arg(long, default_value_t = 0)]
    pub(crate) priority: u8,
    /// Name of the run in the store.
    #[arg(long, default_value = "")]
    pub(crate) name: String,
    /// Measures our links beside bare references, interleaved, with a server of its own.
    #[arg(long)]
    pub(crate) floor: bool,
    /// Only these links, for `--floor`, of those with a bare reference; or rdma beside perftest.
    #[arg(long = "link", value_delimiter = ',', requires = "floor", value_parser = transport_name)]
    pub(crate) links: Vec<Transport>,
}

#[derive(Debug, Group)]
pub(crate) struct ModelsArgs {
    #[command(flatten)]
    pub(crate) server: Server,
    #[command(subcommand)]
    pub(crate) verb: Option<ModelsVerb>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsVerb {
    /// Every model of the server (the default).
    List,
    /// One model with its signature.
    Get {
        name: String,
        #[arg(long, default_value_t = 0)]
        version: u64,
    },
    /// Load a model from the model folder.
    Load {
        name: String,
        #[arg(long, default_value_t = 0)]
        version: u64,
        /// A TOML of this machine that takes the place of the model's own, until the next load.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Stop serving a model.
    Unload {
        name: String,
        #[arg(long, default_value_t = 0)]
        version: u64,
    },
}

#[derive(Debug, Group)]
pub(crate) struct SessionsArgs {
    #[command(flatten)]
    pub(crate) server: Server,
    #[command(subcommand)]
    pub(crate) verb: Option<SessionsVerb>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SessionsVerb {
    /// Every open session (the default).
    List,
    /// End a session.
    Evict {
        /// The session, as `list` prints it.
        session: String,
    },
}

#[derive(Debug, Group)]
pub(crate) struct RunsArgs {
    #[command(flatten)]
    pub(crate) server: Server,
    #[command(subcommand)]
    pub(crate) verb: Option<RunsVerb>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RunsVerb {
    /// The latest runs (the default).
    List {
        /// How many.
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// One run: options, machine, and its stages.
    Show { run_id: i64 },
    /// Two runs side by side, as ratios.
    Compare { run_a: i64, run_b: i64 },
}

#[derive(Debug, Group)]
pub(crate) struct SqlArgs {
    /// The store's file, opened read-only; without it the server is asked.
    #[arg(long, value_name = "sqlite:PATH")]
    pub(crate) store: Option<String>,
    #[command(flatten)]
    pub(crate) server: Server,
    /// One SELECT.
    pub(crate) query: String,
    /// Most rows.
    #[arg(long, default_value_t = 100_000)]
    pub(crate) rows_max: u64,
}

#[derive(Debug, Group)]
pub(crate) struct DoctorArgs {
    /// Where none runs, one is started for the question: on this host.
    #[command(flatten)]
    pub(crate) server: Server,
    #[command(flatten)]
    pub(crate) rdma: RdmaArgs,
}

/// A transport, or the server's choice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice(pub(crate) Option<Transport>);

fn transport(name: &str) -> Result<Choice, String> {
    if name == "auto" {
        return Ok(Choice(None));
    }
    transport_name(name).map(|transport| Choice(Some(transport)))
}

fn transport_name(name: &str) -> Result<Transport, String> {
    name.parse().map_err(|error: ferry_core::transport::UnknownName| error.to_string())
}

fn slot_place(name: &str) -> Result<SlotPlace, String> {
    name.parse().map_err(|error: ferry_core::transport::UnknownName| error.to_string())
}
