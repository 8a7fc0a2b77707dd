//! `[[warmup]]`: what a model answers before it serves.

use std::collections::BTreeMap;
use std::path::Path;

use ferry_engine::FileDigest;
use serde::Deserialize;

use crate::models::warmup::{Filling, WARMUPS_MAX, Warmup, WarmupInput};

/// What the file says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WarmupTable {
    #[serde(default)]
    name: Option<String>,
    #[serde(default = "one")]
    count: u64,
    #[serde(default)]
    inputs: BTreeMap<String, InputTable>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct InputTable {
    shape: Option<Vec<u64>>,
    data: Data,
    file: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Data {
    #[default]
    Zero,
    Random,
}

fn one() -> u64 {
    1
}

impl WarmupTable {
    /// Reads them, and the files of `folder` that they name.
    pub(super) fn parse(
        all: Vec<WarmupTable>,
        folder: &Path,
        files: &mut Vec<FileDigest>,
    ) -> Result<Vec<Warmup>, String> {
        if all.len() > WARMUPS_MAX {
            return Err(format!("{} tables [[warmup]]; at most {WARMUPS_MAX}", all.len()));
        }
        let numbered = all.into_iter().enumerate();
        numbered.map(|(at, table)| table.one(at + 1, folder, files)).collect()
    }

    fn one(
        self,
        number: usize,
        folder: &Path,
        files: &mut Vec<FileDigest>,
    ) -> Result<Warmup, String> {
        let name = self.name.unwrap_or_else(|| number.to_string());
        let mut inputs = Vec::new();
        for (input, InputTable { shape, data, file }) in self.inputs {
            let wrong = |why| format!("warmup {name:?}: inputs.{input}: {why}");
            let filling = match (file, data) {
                (None, Data::Zero) => Filling::Zero,
                (None, Data::Random) => Filling::Random,
                (Some(file), Data::Zero) => Filling::read(folder, &file, files).map_err(wrong)?,
                (Some(_), Data::Random) => return Err(wrong("give data or file".to_owned())),
            };
            inputs.push(WarmupInput { name: input, dtype: None, shape, filling });
        }
        let wrong = format!("warmup {name:?}");
        Warmup::new(name, self.count, inputs).map_err(|why| format!("{wrong}: {why}"))
    }
}
