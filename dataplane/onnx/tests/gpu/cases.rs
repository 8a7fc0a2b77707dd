//! Models as others export them, on a device: the right numbers, or a clear refusal.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use ferry_conformance::cases::{Case, onnx, run};
use ferry_engine::{Engine, EngineError};
use ferry_onnx::{Completion, CudaModel, CudaOptions};

use crate::common::{EVERYWHERE, search, table_of};

/// Names the case first: a library that ends the process says nothing of it.
fn open(case: &Case, path: &Path, options: CudaOptions) -> Result<Box<dyn Engine>, EngineError> {
    let say = |what: &str| {
        eprintln!("case {} {:?}: {what}", case.name, options.completion);
        std::io::stderr().flush().unwrap();
    };
    say("load");
    let model = CudaModel::open(path, &search(), options).inspect_err(|error| {
        say(&format!("refused: {error}"));
    })?;
    say(if model.has_graphs() { "with graphs" } else { "without graphs" });
    Ok(Box::new(Arc::new(model).instance()?))
}

#[test]
fn the_device_answers_right_or_refuses_clearly() {
    for completion in [Completion::Poll, Completion::Wait] {
        let options = CudaOptions { completion, poison: true, ..CudaOptions::default() };
        for at in EVERYWHERE {
            let slots = table_of(run::LAYOUT.request_bytes, run::LAYOUT.reply_bytes, at, 1);
            let of =
                |case: &Case| run::wrongs(case, &slots, |path| open(case, path, options), false);
            let wrongs: Vec<String> = onnx().iter().flat_map(of).collect();
            assert!(wrongs.is_empty(), "{at:?}: {} wrong:\n{}", wrongs.len(), wrongs.join("\n"));
        }
    }
}

/// What ONNX Runtime itself cannot do on a device: the case, and of what its refusal tells.
const NOT_ON_A_DEVICE: [(&str, &str); 1] =
    [("zero_rows_sum", "Can't reduce on dim with value of 0")];

/// Nothing that ONNX Runtime serves is refused by us, but what cannot be sent: sizes are what the
/// model makes them.
#[test]
fn the_device_serves_all_that_can_be_sent() {
    let options = CudaOptions { poison: true, ..CudaOptions::default() };
    let mut refused = Vec::new();
    for case in onnx().iter().filter(|case| case.name != "forest_zipmap") {
        let slots = table_of(run::LAYOUT.request_bytes, run::LAYOUT.reply_bytes, EVERYWHERE[0], 1);
        let mut engine = match open(case, &case.model, options) {
            Ok(engine) => engine,
            Err(error) => {
                refused.push(format!("{}: {error}", case.name));
                continue;
            }
        };
        for exchange in &case.requests {
            let Err(error) = run::ask(&mut *engine, &slots, exchange) else { continue };
            let told = error.to_string();
            if !NOT_ON_A_DEVICE.iter().any(|(name, why)| *name == case.name && told.contains(why)) {
                refused.push(format!("{}: {told}", case.name));
            }
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}
