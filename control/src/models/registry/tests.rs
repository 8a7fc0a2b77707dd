//! A model whose device is lost; models that make room, and where they are placed.

mod residency;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use ferry_core::{
    Generation, MemoryChoice, Request, RequestKind, SessionId, Signature, SlotLayout,
};
use ferry_engine::{Echo, Engine, EngineError, FileDigest, Finished, Job, Work};
use ferry_memory::{Arrival, Departure, PeerId, ReplyTo, SlotTable};

use super::*;
use crate::models::{Instances, LoadSpec, Progress};

/// Echo on a device that goes at the first request.
struct Mortal(Echo);

impl Engine for Mortal {
    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn depth(&self) -> usize {
        1
    }

    fn submit(&mut self, job: Job) -> Option<Finished> {
        Some(Finished { job, outcome: Err(EngineError::Lost("error 700".to_owned())) })
    }

    fn poll(&mut self, _finished: &mut Vec<Finished>) {}
}

#[derive(Debug)]
struct Loader;

impl EngineLoader for Loader {
    fn load(&self, spec: &LoadSpec<'_>) -> Result<Instances, EngineError> {
        Ok(Instances {
            engines: vec![Box::new(Mortal(Echo::new()))],
            engine: "mortal",
            engine_version: String::new(),
            device: None,
            device_why: String::new(),
            weights_bytes: 0,
            precision: None,
            dims: BTreeMap::new(),
            doubt: None,
            files: vec![FileDigest::of(spec.file).unwrap()],
            rebuild: None,
        })
    }
}

#[derive(Debug, Default)]
struct Inbox(Mutex<Vec<Departure>>, Condvar);

impl ReplyTo for Inbox {
    fn depart(&self, departure: Departure) {
        self.0.lock().unwrap().push(departure);
        self.1.notify_all();
    }
}

/// Sends one request and waits for its answer.
fn request(served: &Served) {
    let shapes = [("input".to_owned(), vec![1]), ("output".to_owned(), vec![1])];
    let binding = Arc::new(served.signature().bind(&shapes).unwrap());
    let layout = SlotLayout { slots: 1, request_bytes: 1, reply_bytes: 1024 };
    let table = SlotTable::private(layout).unwrap();
    let now = Instant::now();
    let arrival = Arrival {
        peer: PeerId(1),
        session: SessionId(1),
        generation: Generation::FIRST,
        request: 1,
        what: Request::of(RequestKind::Tensor),
        payload_bytes: 1,
        slot: table.acquire().unwrap(),
        seen: now,
        visible: now,
    };
    let inbox = Arc::new(Inbox::default());
    let reply_to = Arc::clone(&inbox) as Arc<dyn ReplyTo>;
    let work = Work { arrival, binding, memory: MemoryChoice::Auto, reply_to, deadline: None };
    assert!(served.pool.dispatch(work).is_none(), "a worker runs it");
    let replies = inbox.0.lock().unwrap();
    let watchdog = Duration::from_secs(30);
    let (replies, _) =
        inbox.1.wait_timeout_while(replies, watchdog, |replies| replies.is_empty()).unwrap();
    assert_eq!(replies.len(), 1);
}

fn models(folder: &Path) -> Models {
    std::fs::write(folder.join("m.onnx"), b"any").unwrap();
    let models = Models::new(
        Some(folder.to_owned()),
        Arc::new(Loader),
        Metadata::unnamed(1, 4),
        ModelControl::None,
    );
    models.load_all(&AtomicBool::new(false), &Progress::default()).unwrap();
    models
}

#[test]
fn a_model_that_lost_its_device_is_failed_and_can_be_loaded_again() {
    let folder = tempfile::tempdir().unwrap();
    let models = models(folder.path());
    let Residency::Resident(served) = models.hold("m", 0).unwrap() else { panic!("absent") };
    let same = models.load("m", 0).unwrap();
    assert!(Arc::ptr_eq(&same.served, &served), "an unchanged file is not loaded");
    assert!(!same.is_new() && same.turnover.retired.is_empty());
    request(&served);
    let deadline = Instant::now() + Duration::from_secs(30);
    while !served.pool.is_dead() {
        assert!(Instant::now() < deadline, "the pool still takes requests");
        std::thread::sleep(Duration::from_millis(1));
    }
    let refused = models.get("m", 0).unwrap_err().to_string();
    assert!(refused.contains("restart the server"), "{refused}");
    assert!(matches!(&models.list()[0].state, State::Failed(why) if why.contains("device")));
    let Loading { served: again, changed, turnover } = models.load("m", 0).unwrap();
    assert!(turnover.made.len() == 1 && changed == ["its instances were lost"], "{changed:?}");
    assert!(Arc::ptr_eq(&turnover.retired[0], &served), "the dead one is to be retired");
    assert!(Arc::ptr_eq(&models.get("m", 0).unwrap(), &again.profile));
}
