use ferry_core::{DType, TensorSpec};

use super::*;
use crate::models::ShapeLimits;

fn spec(dims: &str) -> TensorSpec {
    let dim = |dim: &str| dim.parse().map_or(Dim::Named(dim.to_owned()), Dim::Fixed);
    let shape = dims.split_whitespace().map(dim).collect();
    TensorSpec { name: "t".to_owned(), dtype: DType::F32, shape }
}

fn signature(input: &str) -> Signature {
    Signature { inputs: vec![spec(input)], outputs: vec![spec("n 10")] }
}

fn metadata(batch: Option<Batch>) -> Metadata {
    Metadata { batch, ..Metadata::unnamed(1, 64) }
}

static NO_DIMS: BTreeMap<String, DimSizes> = BTreeMap::new();

/// A model on a CPU whose rows are shown to be apart.
fn loaded(signature: &Signature) -> Loaded<'_> {
    Loaded { signature, engine: "onnx", on_gpu: false, dims: &NO_DIMS, doubt: None }
}

/// What comes of it for a model with this input.
fn of(metadata: &Metadata, input: &str) -> Result<Batches, String> {
    Batch::decide(metadata, loaded(&signature(input)))
}

#[test]
fn without_a_table_only_models_are_batched_whose_rows_are_shown_to_be_apart() {
    let plain = metadata(None);
    let by_itself = of(&plain, "n 3 h w").unwrap();
    let options = by_itself.options.clone().unwrap();
    assert_eq!((options.rows_max, options.delay), (32, Duration::ZERO), "it waits for nothing");
    assert_eq!(options.elements_max, ELEMENTS_DEFAULT);
    assert!(by_itself.told().starts_with("up to 32 rows a run: its graph shows"));
    assert!(of(&plain, "1 3").unwrap().told().starts_with("off: the first dimension"));
    let open = signature("n 3");
    let why = |metadata: &Metadata, model: Loaded<'_>| {
        let off = Batch::decide(metadata, model).unwrap();
        assert!(off.options.is_none(), "{off:?}");
        off.told()
    };
    let doubt = why(&plain, Loaded { doubt: Some("operator NonZero"), ..loaded(&open) });
    assert!(doubt.contains("operator NonZero") && doubt.contains("[batch]"), "{doubt}");
    assert!(why(&plain, Loaded { on_gpu: true, ..loaded(&open) }).contains("GPU"));
    assert!(why(&plain, Loaded { engine: "tract", ..loaded(&open) }).contains("tract"));
    let lane = Metadata { run: RunOn::Lane, ..metadata(None) };
    assert!(why(&lane, loaded(&open)).contains("lane"));
    let one = ShapeLimits { batch_max: 1, ..ShapeLimits::default() };
    let one = Metadata { shapes: one, ..metadata(None) };
    assert!(why(&one, loaded(&open)).contains("max_batch = 1"));
}

#[test]
fn a_table_for_a_model_in_doubt_is_a_promise_and_said_to_be_one() {
    let (open, table) = (signature("n 3"), metadata(Some(Batch::default())));
    let promised = Loaded { doubt: Some("operator NonZero"), on_gpu: true, ..loaded(&open) };
    let promised = Batch::decide(&table, promised).unwrap();
    assert!(promised.options.is_some() && promised.is_promise);
    assert!(promised.why.contains("promises") && promised.why.contains("operator NonZero"));
    assert!(!of(&table, "n 3").unwrap().is_promise);
}

#[test]
fn a_table_without_sizes_takes_32_rows_and_waits_for_none() {
    let options = of(&metadata(Some(Batch::default())), "n 3 h w").unwrap().options.unwrap();
    assert_eq!((options.rows_max, options.delay), (32, Duration::ZERO));
    assert_eq!(options.elements_max, ShapeLimits::default().elements_max);
    let eight = ShapeLimits { batch_max: 8, ..ShapeLimits::default() };
    let options = of(&Metadata { shapes: eight, ..metadata(Some(Batch::default())) }, "n 3");
    assert_eq!(options.unwrap().options.unwrap().rows_max, 8);
}

#[test]
fn a_table_decides_within_what_the_model_may_be_given() {
    let table = |max| Batch { max, delay_us: 250, preferred: vec![4], ..Batch::default() };
    let batches = of(&metadata(Some(table(Some(64)))), "n").unwrap();
    assert!(batches.told().contains("64 rows a run, preferred 4, waiting for at most 250 µs"));
    let options = batches.options.unwrap();
    let delay = Duration::from_micros(250);
    assert_eq!((options.rows_max, options.delay, options.preferred), (64, delay, vec![4]));
    let off = Batch { enabled: Some(false), ..table(None) };
    assert!(of(&metadata(Some(off)), "n 3").unwrap().told().contains("enabled"));
    let told = of(&metadata(Some(table(Some(257)))), "n 3").unwrap_err();
    assert!(told.contains("257") && told.contains("256") && told.contains("max_batch"), "{told}");
    let open = signature("n 3");
    let dims = [("n".to_owned(), DimSizes { min: 1, typical: 4, max: 8 })].into();
    let model = Loaded { dims: &dims, ..loaded(&open) };
    let built = |max| Batch::decide(&metadata(Some(table(max))), model);
    assert_eq!(built(None).unwrap().options.unwrap().rows_max, 8);
    assert!(built(Some(9)).unwrap_err().contains("[dims]"));
}

#[test]
fn a_table_that_leaves_no_batch_is_told_with_the_key_that_does() {
    let one = ShapeLimits { batch_max: 1, ..ShapeLimits::default() };
    let told =
        of(&Metadata { shapes: one, ..metadata(Some(Batch::default())) }, "n 3").unwrap_err();
    assert!(told.contains("max_batch") && told.contains("[batch]"), "{told}");
    for (batch, key) in [
        (Batch { max: Some(-1), ..Batch::default() }, "batch.max = -1"),
        (Batch { delay_us: -5, ..Batch::default() }, "batch.delay_us = -5"),
        (Batch { preferred: vec![4, -8], ..Batch::default() }, "batch.preferred = -8"),
    ] {
        let told = of(&metadata(Some(batch)), "n 3").unwrap_err();
        assert!(told.contains(key) && told.contains("negative"), "{told}");
    }
}
