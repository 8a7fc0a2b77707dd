//! `config.pbtxt`: from its bytes to what a model is loaded with.

use std::future::ready;
use std::path::Path;

use ferry_control::models::Metadata;

fn target(folder: &Path, input: &[u8]) -> String {
    let path = folder.join("config.pbtxt");
    std::fs::write(&path, input).unwrap();
    let metadata = match Metadata::read(&path, "m", Metadata::unnamed(3, 9)) {
        Ok(metadata) => metadata,
        Err(error) => {
            let told = error.to_string();
            assert!(told.contains("config.pbtxt"), "{told}");
            // What is wrong stands behind the file; the parser has quotation marks of its own.
            let why = told.split_once("config.pbtxt").unwrap().1;
            return super::shape(&why.replace('\'', "\""));
        }
    };
    let Metadata { instances, threads, queue, batch, warmup, notes, files, gpu, .. } = &metadata;
    assert!((1..=256).contains(instances) && (1..=1024).contains(threads), "{metadata:?}");
    assert!(gpu.streams >= 1, "{metadata:?}");
    assert!(queue.levels >= 1 && queue.default_level <= queue.levels, "{metadata:?}");
    assert!(warmup.len() <= 64, "{metadata:?}");
    if let Some(batch) = batch {
        assert!(batch.max.is_none_or(|max| max > 0) && batch.delay_us >= 0, "{metadata:?}");
        assert!(batch.preferred.is_sorted() && batch.preferred.iter().all(|&it| it > 0));
    }
    let notes: Vec<String> = notes.iter().map(|it| super::shape(it)).collect();
    let device = super::shape(&format!("{:?}", metadata.device));
    let parts = (metadata.engine.as_str(), device, batch.is_some(), files.len(), notes);
    format!("read {parts:?}")
}

#[tokio::test]
async fn bytes_of_a_configuration_are_read_or_refused_by_what_is_wrong() {
    // In memory: each input is a file.
    let folder = tempfile::Builder::new().prefix("ferry-fuzz-").tempdir_in("/dev/shm").unwrap();
    std::fs::create_dir(folder.path().join("warmup")).unwrap();
    std::fs::write(folder.path().join("l.txt"), "cat\ndog\n").unwrap();
    std::fs::write(folder.path().join("warmup/raw"), [1; 8]).unwrap();
    let did = super::search("config_pbtxt", |input| ready(target(folder.path(), &input))).await;
    for reached in ["read (\"onnx\"", "true, 3", "end of input", "line  field", "deep"] {
        assert!(did.iter().any(|it| it.contains(reached)), "{reached:?} is not in {did:#?}");
    }
}
