//! A built engine, and what it was built from.

use std::collections::BTreeMap;

use ferry_core::{Dim, Signature};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::options::{BuildOptions, Capability, DimRange, Precision};

/// An engine as TensorRT serialises it, with what it takes and gives.
#[derive(Clone, Debug)]
pub struct EnginePlan {
    pub(crate) about: About,
    pub(crate) engine: Vec<u8>,
}

/// What is known of a plan without its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    pub(crate) signature: Signature,
    pub(crate) precision: Precision,
    pub(crate) capability: Option<Capability>,
    pub(crate) library_version: String,
    /// Of the open dimensions of the inputs.
    pub(crate) ranges: BTreeMap<String, DimRange>,
}

impl EnginePlan {
    /// What the model takes and gives.
    pub fn signature(&self) -> &Signature {
        &self.about.signature
    }

    /// The engine, for TensorRT.
    pub fn engine_bytes(&self) -> &[u8] {
        &self.engine
    }

    /// What it computes with.
    pub fn precision(&self) -> Precision {
        self.about.precision
    }

    /// The GPU that it was built for; `None` if for all that the library supports.
    pub fn capability(&self) -> Option<Capability> {
        self.about.capability
    }

    /// The library that built it, such as `1.7.1.116`; no other version can run it.
    pub fn library_version(&self) -> &str {
        &self.about.library_version
    }

    /// The sizes that each open dimension of the inputs may take.
    pub fn ranges(&self) -> &BTreeMap<String, DimRange> {
        &self.about.ranges
    }
}

/// The ranges of the dimensions that are open.
pub(crate) fn ranges(signature: &Signature, options: &BuildOptions) -> BTreeMap<String, DimRange> {
    let dims = signature.inputs.iter().flat_map(|input| &input.shape);
    let named = dims.filter_map(|dim| match dim {
        Dim::Named(name) => Some((name.clone(), options.range(name))),
        Dim::Fixed(_) | Dim::Any => None,
    });
    named.collect()
}

/// What a plan is found by: all that its bytes depend on.
pub(crate) fn key(
    model_sha256: &[u8; 32],
    library_version: &str,
    options: &BuildOptions,
) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut field = |bytes: &[u8]| {
        // Lengths first, so that no two lists of fields run into the same bytes.
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    field(model_sha256);
    field(crate::LIBRARY.as_bytes());
    field(library_version.as_bytes());
    field(options.capability.map_or("any".to_owned(), |it| it.to_string()).as_bytes());
    field(options.precision.name().as_bytes());
    for (name, range) in &options.ranges {
        field(name.as_bytes());
        field(range.to_string().as_bytes());
    }
    hash.finalize().into()
}
