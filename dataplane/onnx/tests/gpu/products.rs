//! Products of matrices: cuBLAS computes large ones in parts, in a workspace that streams must not
//! share.

use std::path::Path;
use std::sync::Arc;

use ferry_engine::{Engine, Finished};
use ferry_onnx::{CudaOptions, OrtEngine, OrtOptions};

use crate::common::{
    At, again, bytes_of, finish, floats_of, job, model, noise, relative_error, reply, search, table,
};
use crate::tiny::{self, D, FLOAT};

const STREAMS: usize = 16;

/// Rows, the length of the sum, and columns: few results of long sums are what is split.
const SIZES: [[u64; 3]; 5] =
    [[1, 2048, 1000], [16, 2048, 1000], [64, 16384, 64], [8, 32768, 8], [512, 768, 3072]];

/// A file with one product, `rows` x `sum` by `sum` x `columns`.
fn product(directory: &Path, [rows, sum, columns]: [u64; 3]) -> std::path::PathBuf {
    let leak = |dims: Vec<u64>| -> &'static [u64] { Vec::leak(dims) };
    let shape = |dims: [u64; 2]| -> &'static [D] { Vec::leak(dims.map(D::Of).to_vec()) };
    let count = usize::try_from(sum * columns).unwrap();
    let weights: &'static [f32] = Vec::leak(noise(count, 3));
    let content = tiny::onnx(
        &[("MatMul", &["x", "w"], &["y"])],
        &[("w", leak(vec![sum, columns]), weights)],
        &[("x", FLOAT, shape([rows, sum]))],
        &[("y", FLOAT, shape([rows, columns]))],
    );
    tiny::file(directory, &format!("{rows}x{sum}x{columns}.onnx"), &content)
}

#[test]
fn streams_do_not_share_what_products_are_computed_in() {
    let directory = tempfile::tempdir().unwrap();
    for size in SIZES {
        let path = product(directory.path(), size);
        let options = CudaOptions { streams: STREAMS, ..CudaOptions::default() };
        let model = model(&path, options);
        let mut engine = model.instance().unwrap();
        let mut cpu = OrtEngine::load(&path, &search(), OrtOptions { threads: 8 }).unwrap();
        let binding = Arc::new(engine.signature().bind(&[]).unwrap());
        let values = usize::try_from(binding.request_bytes()).unwrap() / 4;
        let tables: Vec<_> = (0..STREAMS).map(|_| table(&binding, At::Device, 1)).collect();
        let own = table(&binding, At::Pageable, 1);
        let mut right = Vec::new();
        for (i, slots) in tables.iter().enumerate() {
            let request = bytes_of(&noise(values, u32::try_from(i).unwrap() + 10));
            let reference = finish(&mut cpu, job(&own, &binding, &request, 1, 0));
            right.push(floats_of(&reply(&reference)));
            let first = finish(&mut engine, job(slots, &binding, &request, i as u64 + 1, 0));
            let error = relative_error(&floats_of(&reply(&first)), &right[i]);
            assert!(error < 1e-4, "{size:?} session {i} alone: {error}");
        }
        let mut worst = 0.0_f64;
        for _ in 0..200 {
            let mut finished: Vec<Finished> = Vec::new();
            for (i, slots) in tables.iter().enumerate() {
                let slot = slots.acquire().unwrap();
                let job = again(slot, &binding, values * 4, i as u64 + 1, 0);
                finished.extend(engine.submit(job));
            }
            while finished.len() < STREAMS {
                engine.poll(&mut finished);
            }
            for done in &finished {
                let i = usize::try_from(done.job.arrival.request).unwrap() - 1;
                worst = worst.max(relative_error(&floats_of(&reply(done)), &right[i]));
            }
        }
        eprintln!("{size:?}: graphs {}, worst error {worst:.1e}", model.has_graphs());
        assert!(worst < 1e-4, "{size:?} side by side: {worst}");
    }
}
