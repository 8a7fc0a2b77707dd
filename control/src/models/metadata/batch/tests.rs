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

/// What comes of it for a model with this input.
fn of(metadata: &Metadata, input: &str) -> Result<Result<BatchOptions, String>, String> {
    let signature = Signature { inputs: vec![spec(input)], outputs: vec![spec("n 10")] };
    Batch::options(metadata, &signature, &BTreeMap::new())
}

#[test]
fn nothing_is_batched_unless_a_table_says_that_rows_are_apart() {
    let why = |input: &str| of(&metadata(None), input).unwrap().unwrap_err();
    assert!(why("n 3 h w").contains("[batch]"));
    assert!(why("1 3").contains("not open"), "what no table can change comes first");
}

#[test]
fn a_table_without_sizes_takes_32_rows_and_waits_for_none() {
    let options = of(&metadata(Some(Batch::default())), "n 3 h w").unwrap().unwrap();
    assert_eq!((options.rows_max, options.delay), (32, Duration::ZERO));
    assert_eq!(options.elements_max, ShapeLimits::default().elements_max);
    let eight = ShapeLimits { batch_max: 8, ..ShapeLimits::default() };
    let options = of(&Metadata { shapes: eight, ..metadata(Some(Batch::default())) }, "n 3");
    assert_eq!(options.unwrap().unwrap().rows_max, 8);
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
    let built = |max| Batch::options(&metadata(Some(table(max))), &signature, &dims);
    assert_eq!(built(None).unwrap().unwrap().rows_max, 8);
    assert!(built(Some(9)).unwrap_err().contains("[dims]"));
}
