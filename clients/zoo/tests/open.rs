//! Models that take any number of inputs at once.

use ferry_onnx_file::rows::doubt;
use ferry_zoo::{Batch, Precision, ZooError, write_as};

#[test]
fn every_model_is_written_with_an_open_batch_whose_rows_are_apart_or_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut refused = Vec::new();
    // The others are of the same layers, and take seconds.
    for name in ["digits", "mobilenetv3-small", "efficientnet-b0", "yolov4"] {
        let written = write_as(Precision::Fp32, Batch::Open, name, folder.path(), 1, &mut |_| {});
        match written {
            Ok(written) => assert_eq!(doubt(&std::fs::read(written.model).unwrap()), None),
            Err(ZooError::FixedBatch { name, why }) => {
                assert!(!folder.path().join(format!("{name}.onnx")).exists());
                refused.push((name, why));
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused.iter().all(|(name, _)| name == "yolov4"), "{refused:?}");
}
