//! What `ferry tune` is asked.

use std::path::PathBuf;

use clap::Args as Group;

use super::{Choice, PictureKind, RdmaArgs, Server, ShapeArgs, transport};

#[derive(Debug, Group)]
pub(crate) struct TuneArgs {
    /// Name of the model, which serves.
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) server: Server,
    /// Key of the operator, who alone may load models, where the server has tenants; --key is that
    /// of the tenant whose requests are the load.
    #[arg(long, env = "FERRY_OPERATOR_KEY", hide_env_values = true)]
    pub(crate) operator_key: Option<String>,
    /// Version of the model; 0 is the latest.
    #[arg(long, default_value_t = 0)]
    pub(crate) version: u64,
    /// The bound: 99 of 100 requests take no longer than so many milliseconds.
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    pub(crate) slo_ms: f64,
    /// Writes the TOML with the settings that were found.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Most measurements before the last rounds.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(2..=1000))]
    pub(crate) trials: u64,
    /// How long to search, about.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(5..=86_400))]
    pub(crate) seconds: u64,
    /// Most clients at once, each with one request in flight.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) clients_max: u32,
    /// How requests reach the server; auto lets the server choose.
    #[arg(long, default_value = "auto", value_parser = transport)]
    pub(crate) transport: Choice,
    /// Tries batches though the TOML has no `[batch]` table. Only where rows mean nothing to each
    /// other: else answers are wrong.
    #[arg(long)]
    pub(crate) try_batches: bool,
    #[command(flatten)]
    pub(crate) shapes: ShapeArgs,
    /// Sends this picture instead of tensors.
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
    /// How the picture is sent.
    #[arg(long, value_name = "KIND", requires = "image")]
    pub(crate) kind: Option<PictureKind>,
    #[command(flatten)]
    pub(crate) rdma: RdmaArgs,
}

fn milliseconds(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|it: &f64| it.is_finite() && *it > 0.0 && *it <= 6e5);
    number.ok_or_else(|| "a number of milliseconds above 0, at most 600000".to_owned())
}
