//! Where the libraries are.

use std::path::{Path, PathBuf};

use ferry_tensorrt::{EnginePlan, FETCHED, Precision, Probe, Search, probe};

/// Where `fetch-tensorrt` puts the libraries. Without them a test fails, and says what to do.
pub(crate) fn search() -> Search {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let search = Search { explicit: Some(Path::new(root).join(FETCHED)), candidates: Vec::new() };
    if let Probe::Missing { why, fix } = probe(&search) {
        panic!("this test needs TensorRT-RTX: {why}: {fix}");
    }
    search
}

/// Builds for all GPUs.
pub(crate) fn build(path: &Path, precision: Precision) -> EnginePlan {
    let options = ferry_tensorrt::BuildOptions { precision, ..Default::default() };
    ferry_tensorrt::build(path, &search(), &options)
        .unwrap_or_else(|error| panic!("{} {precision:?}: {error}", path.display()))
}

/// Writes a model of the zoo.
pub(crate) fn zoo(directory: &Path, name: &str) -> PathBuf {
    ferry_zoo::write(name, directory, 1, &mut |_| {}).unwrap().model
}

pub(crate) fn bytes_of(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}
