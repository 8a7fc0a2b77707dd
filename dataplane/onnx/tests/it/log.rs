//! What clients' requests make the library write.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ferry_engine::EngineError;
use ferry_memory::PeerAccess;
use ferry_onnx::EngineChoice;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::common::{finish, job, model, table};
use crate::tiny::{D, FLOAT, INT64, file, onnx};

/// One line: where it comes from, what it says, and how many before it were left out.
#[derive(Clone, Debug, Default)]
struct Line {
    location: String,
    text: String,
    left_out: Option<u64>,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.text = format!("{value:?}");
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "location" {
            self.location = value.to_owned();
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "left_out" {
            self.left_out = Some(value);
        }
    }
}

/// Keeps the lines of the library.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<Line>>>);

impl Subscriber for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        if line.text.starts_with("onnxruntime: ") {
            self.0.lock().unwrap().push(line);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn requests_that_fail_are_told_once_a_second_with_their_number() {
    let directory = tempfile::tempdir().unwrap();
    let content = onnx(
        &[("Gather", &["table", "at"], &["y"])],
        &[("table", &[3], &[10.0, 20.0, 30.0])],
        &[("at", INT64, &[D::Of(1)])],
        &[("y", FLOAT, &[D::Of(1)])],
    );
    let model = model(EngineChoice::Ort, &file(directory.path(), "gather.onnx", &content));
    let binding = Arc::new(model.signature().bind(&[]).unwrap());
    let mut engine = model.instance().unwrap();
    let slots = table(&binding, PeerAccess::Writes, 1);
    let lines = Lines::default();
    let start = Instant::now();
    let mut failed = 0_u64;
    tracing::subscriber::with_default(lines.clone(), || {
        // Until a line says that there were more: the second one of its kind.
        while !lines.0.lock().unwrap().iter().any(|line| line.left_out > Some(1)) {
            assert!(start.elapsed() < Duration::from_secs(30), "nothing is told of {failed}");
            let outcome = finish(&mut *engine, job(&slots, &binding, &(1_i64 << 40).to_le_bytes()));
            assert!(matches!(outcome, Err(EngineError::Input(_))), "{outcome:?}");
            failed += 1;
        }
    });
    let told = lines.0.lock().unwrap();
    let kinds: HashSet<_> = told.iter().map(|line| &line.location).collect();
    let most = (kinds.len() as u64) * (start.elapsed().as_secs() + 1);
    assert!(told.len() as u64 <= most, "{} lines of {kinds:?}", told.len());
    assert!(told.iter().all(|line| line.left_out.is_some()), "{told:?}");
}
