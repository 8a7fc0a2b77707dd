use ferry_core::{DType, TensorSpec};

use super::*;
use crate::models::ShapeLimits;

fn spec(dims: &str) -> TensorSpec {
    let dim = |dim: &str| dim.parse().map_or(Dim::Named(dim.to_owned()), Dim::Fixed);
    let shape = dims.split_whitespace().map(dim).collect();
    TensorSpec { name: "t".to_owned(), dtype: DType::F32, shape }
}

fn metadata(batch: Option<Batch>) -> Metadata {
    Metadata { batch, ..Metadata::unnamed(1, 64) }
}

/// What comes of it for a model with this input, on a CPU.
fn of(metadata: &Metadata, input: &str) -> Result<Result<BatchOptions, String>, String> {
    let signature = Signature { inputs: vec![spec(input)], outputs: vec![spec("n 10")] };
    Batch::options(metadata, &signature, &BTreeMap::new(), false)
}

#[test]
fn models_with_rows_are_batched_on_a_cpu_and_none_waits() {
    let options = of(&metadata(None), "n 3 h w").unwrap().unwrap();
    assert_eq!((options.rows_max, options.delay), (32, Duration::ZERO));
    assert_eq!(options.elements_max, ShapeLimits::default().elements_max);
    let why = |metadata: &Metadata, input: &str| of(metadata, input).unwrap().unwrap_err();
    assert!(why(&metadata(None), "1 3").contains("not open"));
    assert!(why(&metadata(None), "n").contains("one dimension"));
    let on_the_lane = Metadata { run: RunOn::Lane, ..metadata(None) };
    assert!(why(&on_the_lane, "n 3").contains("lane"));
    let one = ShapeLimits { batch_max: 1, ..ShapeLimits::default() };
    assert!(why(&Metadata { shapes: one, ..metadata(None) }, "n 3").contains("one row"));
    let signature = Signature { inputs: vec![spec("n 3")], outputs: vec![spec("n")] };
    let on_a_gpu = Batch::options(&metadata(None), &signature, &BTreeMap::new(), true);
    assert!(on_a_gpu.unwrap().unwrap_err().contains("[batch]"));
}

#[test]
fn a_table_decides_within_what_the_model_may_be_given() {
    let table = |max| Batch { max, delay_us: 250, preferred: vec![4], ..Batch::default() };
    let options = of(&metadata(Some(table(Some(64)))), "n").unwrap().unwrap();
    let delay = Duration::from_micros(250);
    assert_eq!((options.rows_max, options.delay, options.preferred), (64, delay, vec![4]));
    let off = Batch { enabled: Some(false), ..table(None) };
    assert!(of(&metadata(Some(off)), "n 3").unwrap().unwrap_err().contains("enabled"));
    let told = of(&metadata(Some(table(Some(257)))), "n 3").unwrap_err();
    assert!(told.contains("257") && told.contains("256") && told.contains("max_batch"), "{told}");
    let signature = Signature { inputs: vec![spec("n 3")], outputs: vec![spec("n")] };
    let dims = [("n".to_owned(), DimSizes { min: 1, typical: 4, max: 8 })].into();
    let built = |max| Batch::options(&metadata(Some(table(max))), &signature, &dims, true);
    assert_eq!(built(None).unwrap().unwrap().rows_max, 8);
    assert!(built(Some(9)).unwrap_err().contains("[dims]"));
}
