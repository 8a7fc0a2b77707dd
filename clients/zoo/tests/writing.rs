//! What is on the disk after a write, a repeated write and a write that failed.

use std::fs::{self, DirEntry};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use ferry_zoo::{Precision, Progress, ZooError, describe, digits, names, write, write_in};

const SMALL: &str = "mobilenetv3-small";

fn file_names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("the directory exists");
    let name = |entry: io::Result<DirEntry>| {
        entry.expect("its entries are readable").file_name().to_string_lossy().into_owned()
    };
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

#[test]
fn a_model_is_written_with_its_metadata_and_reported_progress() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("made/on/demand");
    let mut reports: Vec<Progress> = vec![];
    let written = write(SMALL, &target, 1, &mut |progress| reports.push(progress)).unwrap();

    assert_eq!(file_names(&target), ["mobilenetv3-small.onnx", "mobilenetv3-small.toml"]);
    assert_eq!(written.model, target.join("mobilenetv3-small.onnx"));
    assert_eq!(written.companions, [target.join("mobilenetv3-small.toml")]);
    let file_bytes = fs::metadata(&written.model).unwrap().len();
    assert_eq!(written.model_bytes, file_bytes);
    assert_eq!(describe(SMALL).unwrap().file_bytes, file_bytes);

    assert!(reports.len() > 5, "ten megabytes are written in one-megabyte chunks");
    assert!(reports.is_sorted_by(|a, b| a.written_bytes < b.written_bytes));
    assert!(reports.iter().all(|report| report.total_bytes == file_bytes));
    assert_eq!(reports.last().unwrap().written_bytes, file_bytes);
}

#[test]
fn one_seed_gives_the_same_bytes_and_another_seed_others() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = |seed| {
        let written = write(SMALL, directory.path(), seed, &mut |_| {}).unwrap();
        fs::read(written.model).unwrap()
    };
    let first = bytes(1);
    assert!(first == bytes(1), "one seed gave two files");
    let other = bytes(u64::MAX);
    assert_eq!(first.len(), other.len());
    let different = first.iter().zip(&other).filter(|(a, b)| a != b).count();
    assert!(different > first.len() / 2, "only {different} bytes differ");
}

#[test]
fn digits_come_with_labels_and_a_picture() {
    let directory = tempfile::tempdir().unwrap();
    let written = write("digits", directory.path(), 1, &mut |_| {}).unwrap();
    assert_eq!(
        file_names(directory.path()),
        ["digit-7.jpg", "digits.labels.txt", "digits.onnx", "digits.toml"]
    );
    assert_eq!(fs::read(written.model).unwrap(), digits::onnx());
    let labels = fs::read_to_string(directory.path().join("digits.labels.txt")).unwrap();
    assert_eq!(labels, "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n");
    let picture = fs::read(directory.path().join("digit-7.jpg")).unwrap();
    assert_eq!(picture, digits::demo_jpeg().bytes);

    let metadata = fs::read_to_string(directory.path().join("digits.toml")).unwrap();
    let metadata: toml::Table = metadata.parse().unwrap();
    assert_eq!(metadata["labels"].as_str(), Some("digits.labels.txt"));
    assert_eq!(metadata["picture"]["channels"].as_str(), Some("gray"));
    assert_eq!(metadata["picture"]["width"].as_integer(), Some(8));
    assert_eq!(metadata["picture"]["scale"].as_float(), Some(1.0 / 255.0));
}

#[test]
fn both_precisions_of_a_model_fit_into_one_folder() {
    let directory = tempfile::tempdir().unwrap();
    for name in [SMALL, "digits"] {
        let full = write(name, directory.path(), 1, &mut |_| {}).unwrap();
        let mut last = None;
        let half = write_in(Precision::Fp16, name, directory.path(), 1, &mut |it| last = Some(it));
        let half = half.unwrap();
        assert_eq!(half.model, directory.path().join(format!("{name}-fp16.onnx")));
        let file_bytes = fs::metadata(&half.model).unwrap().len();
        assert_eq!(half.model_bytes, file_bytes);
        assert_eq!(last, Some(Progress { written_bytes: file_bytes, total_bytes: file_bytes }));
        assert!(file_bytes * 10 < full.model_bytes * 6, "{name}: {file_bytes} bytes");
        assert_eq!(describe(name).unwrap().file_bytes, fs::metadata(&full.model).unwrap().len());
    }
    assert_eq!(fs::read(directory.path().join("digits.onnx")).unwrap(), digits::onnx());
    let metadata = fs::read_to_string(directory.path().join("digits-fp16.toml")).unwrap();
    let metadata: toml::Table = metadata.parse().unwrap();
    assert_eq!(metadata["labels"].as_str(), Some("digits-fp16.labels.txt"));
    assert!(directory.path().join("digits-fp16.labels.txt").exists());
    assert!(metadata["description"].as_str().unwrap().ends_with("half precision"));
}

#[test]
fn the_bytes_of_a_model_in_single_precision_are_what_they_always_were() {
    let directory = tempfile::tempdir().unwrap();
    let written = write(SMALL, directory.path(), 1, &mut |_| {}).unwrap();
    let bytes = fs::read(written.model).unwrap();
    // Behind the version of this crate, which the file names. FNV-1a, 64 bits.
    let hash = bytes[128..].iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    assert_eq!((bytes.len(), hash), (10_255_223, 0xa585_4828_10fc_7851));
}

#[test]
fn an_interrupted_write_leaves_the_old_model_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let written = write(SMALL, directory.path(), 1, &mut |_| {}).unwrap();
    let before = fs::read(&written.model).unwrap();
    let interrupted = catch_unwind(AssertUnwindSafe(|| {
        write(SMALL, directory.path(), 2, &mut |progress| {
            assert!(progress.written_bytes < 3_000_000, "interrupted");
        })
    }));
    assert!(interrupted.is_err());
    assert!(fs::read(&written.model).unwrap() == before, "the old model was touched");
    assert_eq!(file_names(directory.path()), ["mobilenetv3-small.onnx", "mobilenetv3-small.toml"]);
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "in the way").unwrap();
    let target = file.join("models");
    let error = write("digits", &target, 1, &mut |_| {}).unwrap_err();
    assert!(matches!(&error, ZooError::Directory { path, .. } if *path == target), "{error:?}");
    assert!(error.to_string().contains(&target.display().to_string()), "{error}");
}

#[test]
fn a_file_that_cannot_be_replaced_is_named_and_nothing_partial_stays() {
    let directory = tempfile::tempdir().unwrap();
    let in_the_way = directory.path().join("digits.onnx");
    fs::create_dir(&in_the_way).unwrap();
    let error = write("digits", directory.path(), 1, &mut |_| {}).unwrap_err();
    assert!(matches!(&error, ZooError::Write { path, .. } if *path == in_the_way), "{error:?}");
    assert!(file_names(directory.path()).iter().all(|name| !name.contains("partial")));
}

#[test]
fn an_unknown_model_is_answered_with_the_known_ones() {
    let directory = tempfile::tempdir().unwrap();
    let error = write("resnet51", directory.path(), 1, &mut |_| {}).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("\"resnet51\""), "{message}");
    assert!(names().iter().all(|name| message.contains(name)), "{message}");
    assert!(file_names(directory.path()).is_empty());
}
