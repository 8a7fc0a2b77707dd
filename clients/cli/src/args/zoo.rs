//! What `ferry zoo` is asked.

use std::path::PathBuf;

use clap::{Args as Group, Subcommand, ValueEnum};

#[derive(Debug, Group)]
pub(crate) struct ZooArgs {
    #[command(subcommand)]
    pub(crate) verb: ZooVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ZooVerb {
    /// The models that can be written.
    List,
    /// Write one, or `all`.
    Write {
        /// Name of the model, or `all`.
        name: String,
        /// The folder to write into.
        #[arg(long)]
        out: PathBuf,
        /// Seed of the weights.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// In which numbers: `fp16` writes NAME-fp16, whose inputs and outputs are 16-bit floats
        /// too.
        #[arg(long, value_enum, default_value_t = ZooPrecision::Fp32)]
        precision: ZooPrecision,
        /// With an open first dimension, so that the model takes any number of pictures at once.
        #[arg(long)]
        open_batch: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ZooPrecision {
    /// Single precision.
    Fp32,
    /// Half precision.
    Fp16,
}
