//! Models that make room for others, and the GPUs that they are placed on: by a loader whose models
//! are as large as their files, and whose GPUs are made up.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ferry_engine::Echo;

use super::super::*;
use crate::models::{
    GpuFacts, Instances, LoadSpec, Place, Progress, ResidencyState, Shortage, Used,
};

/// What a load was told of the GPU that `auto` is.
type Placed = (String, Option<u32>);

#[derive(Debug, Default)]
struct Sized {
    gpus: Vec<GpuFacts>,
    placed: Mutex<Vec<Placed>>,
    /// What a model turns out to take beside its file.
    beside: u64,
}

impl EngineLoader for Sized {
    fn load(&self, spec: &LoadSpec<'_>) -> Result<Instances, ferry_engine::EngineError> {
        let digest = ferry_engine::FileDigest::of(spec.file).unwrap();
        let name = spec.file.file_stem().unwrap().to_string_lossy().into_owned();
        self.placed.lock().unwrap().push((name, spec.auto_gpu.map(|it| it.ordinal)));
        if std::fs::read(spec.file).unwrap().starts_with(b"broken") {
            return Err(ferry_engine::EngineError::Model("it is broken".into()));
        }
        Ok(Instances {
            engines: vec![Box::new(Echo::new())],
            engine: "sized",
            engine_version: String::new(),
            device: None,
            device_why: spec.auto_gpu.map(|it| it.why.clone()).unwrap_or_default(),
            weights_bytes: digest.bytes + self.beside,
            precision: None,
            dims: BTreeMap::new(),
            doubt: None,
            files: vec![digest],
            rebuild: None,
        })
    }

    fn gpus(&self, _engine: &str) -> Vec<GpuFacts> {
        self.gpus.clone()
    }
}

/// A folder with models of so many bytes, within a budget.
struct Folder {
    folder: tempfile::TempDir,
    loader: Arc<Sized>,
    models: Models,
}

impl Folder {
    fn of(files: &[(&str, usize)], bytes_max: u64) -> Folder {
        Folder::with(files, bytes_max, Sized::default())
    }

    fn with(files: &[(&str, usize)], bytes_max: u64, loader: Sized) -> Folder {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            std::fs::write(folder.path().join(format!("{name}.onnx")), vec![0; *bytes]).unwrap();
        }
        let loader = Arc::new(loader);
        let models = Models::new(
            Some(folder.path().to_owned()),
            Arc::clone(&loader) as Arc<dyn EngineLoader>,
            Metadata::unnamed(1, 4),
            ModelControl::None,
        );
        let budget = Budget { host_bytes_max: Some(bytes_max), gpu_bytes_max: Some(bytes_max) };
        Folder { folder, loader, models: models.within(budget) }
    }

    fn started(self) -> Folder {
        self.models.load_all(&AtomicBool::new(false), &Progress::default()).unwrap();
        self
    }

    fn put(&self, name: &str, content: &[u8]) {
        std::fs::write(self.folder.path().join(name), content).unwrap();
    }

    /// What each model is, by its first letter: R for resident, a for absent, F for failed.
    fn states(&self) -> String {
        let one = |listed: Listed| match (&listed.state, listed.presence.map(|it| it.state)) {
            (State::Loaded(_), Some(ResidencyState::Resident)) => 'R',
            (State::Absent(_), Some(ResidencyState::Absent)) => 'a',
            (State::Failed(_), None) => 'F',
            (State::Available, None) => '-',
            other => panic!("{other:?}"),
        };
        self.models.list().into_iter().map(one).collect()
    }

    fn held(&self) -> u64 {
        self.models.memory()[0].bytes_now
    }

    fn recall(&self, name: &str) -> Result<Used, ModelError> {
        self.models.recall(&(name.to_owned(), 1))
    }

    fn short(&self, name: &str) -> Shortage {
        match self.recall(name).unwrap_err() {
            ModelError::NoRoom { shortage, .. } => shortage,
            other => panic!("{other}"),
        }
    }
}

#[test]
fn at_the_start_each_model_is_loaded_once_and_the_first_ones_make_room() {
    let folder = Folder::of(&[("a", 40), ("b", 40), ("c", 40), ("d", 200)], 100).started();
    assert_eq!(folder.states(), "aRRF");
    assert_eq!(folder.held(), 80);
    let why = folder.models.get("d", 0).unwrap_err().to_string();
    assert!(why.contains("200 bytes") && why.contains("--models-bytes-max is 100"), "{why}");
    // What is known of a model stays known.
    assert_eq!(folder.models.get("a", 0).unwrap().weights_bytes, 40);
    assert!(matches!(folder.models.hold("a", 0), Ok(Residency::Absent(key)) if key.0 == "a"));
}

#[test]
fn the_model_that_was_not_used_for_longest_makes_room_and_comes_back() {
    let folder = Folder::of(&[("a", 40), ("b", 40), ("c", 40)], 100).started();
    drop(folder.models.hold("b", 0).unwrap());
    let used = folder.recall("a").unwrap();
    assert_eq!((folder.states().as_str(), folder.held()), ("RRa", 80));
    let presence = used.presence(ResidencyState::Resident);
    assert_eq!((presence.loads, presence.evictions, presence.place), (2, 1, Place::Host));
    // It was recalled by somebody else meanwhile.
    assert!(Arc::ptr_eq(&folder.recall("a").unwrap(), &used));
}

#[test]
fn sessions_and_keep_protect_a_model_and_a_refusal_unloads_nothing() {
    let folder = Folder::of(&[("a", 40), ("b", 30), ("c", 60)], 100);
    folder.put("b.toml", b"keep = true");
    let folder = folder.started();
    assert_eq!(folder.states(), "aRR");
    let Residency::Resident(call) = folder.models.hold("c", 0).unwrap() else { panic!() };
    let session = call.by_session();
    drop(call);
    let shortage = folder.short("a");
    let wanted = Shortage { place: Place::Host, needs: 40, bytes_max: 100, protected: 90 };
    assert_eq!(shortage, wanted);
    assert_eq!(folder.states(), "aRR", "nothing went, and the model is listed as before");
    drop(session);
    folder.recall("a").unwrap();
    assert_eq!(folder.states(), "RRa");
}

#[test]
fn a_model_with_requests_makes_room_once_they_are_done_and_takes_no_more_meanwhile() {
    let folder = Folder::of(&[("a", 60), ("b", 60)], 100).started();
    let Residency::Resident(call) = folder.models.hold("b", 0).unwrap() else { panic!() };
    std::thread::scope(|scope| {
        let recalled = scope.spawn(|| folder.recall("a").map(drop));
        let is_leaving = || {
            let presence = folder.models.list()[1].presence.unwrap();
            presence.state == ResidencyState::Leaving
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_leaving() {
            assert!(Instant::now() < deadline, "it is never asked to go");
            std::thread::yield_now();
        }
        assert!(matches!(folder.models.hold("b", 0), Ok(Residency::Absent(_))));
        assert!(!recalled.is_finished(), "it went with a request in flight");
        drop(call);
        recalled.join().unwrap().unwrap();
    });
    assert_eq!((folder.states().as_str(), folder.held()), ("Ra", 60));
}

#[test]
fn what_a_model_turns_out_to_take_counts() {
    let loader = Sized { beside: 30, ..Sized::default() };
    // Either fits by its file; both do not by what they take.
    let folder = Folder::with(&[("a", 40), ("b", 40)], 100, loader).started();
    assert_eq!((folder.states().as_str(), folder.held()), ("aR", 70));
    let loader = Sized { beside: 30, ..Sized::default() };
    let folder = Folder::with(&[("a", 40)], 50, loader).started();
    assert_eq!((folder.states().as_str(), folder.held()), ("F", 0));
}

#[test]
fn a_file_that_changed_is_read_when_its_model_comes_back_and_a_broken_one_fails_it() {
    let folder = Folder::of(&[("a", 40), ("b", 60), ("c", 40)], 100).started();
    assert_eq!(folder.states(), "aRR");
    folder.put("a.onnx", &[1; 20]);
    assert_eq!(folder.recall("a").unwrap().files[0].bytes, 20);
    assert_eq!(folder.states(), "RaR");
    folder.put("b.onnx", b"broken");
    let why = folder.recall("b").unwrap_err();
    assert!(matches!(&why, ModelError::NotServed { why, .. } if why.contains("it is broken")));
    assert_eq!(folder.states().chars().nth(1), Some('F'));
    let held: u64 = folder.held();
    assert!(held <= 60, "{held} bytes: what was not loaded takes none");
}

#[test]
fn an_unloaded_model_stays_unloaded() {
    let folder = Folder::of(&[("a", 60), ("b", 60)], 100).started();
    assert!(folder.models.unload("a", 0).unwrap().is_empty(), "nothing is to be retired");
    assert_eq!(folder.states(), "-R");
    assert!(folder.models.hold("a", 0).is_err());
    let why = folder.recall("a").unwrap_err().to_string();
    assert!(why.contains("it is not loaded"), "{why}");
    // A call loads it, and another one makes room.
    folder.models.load("a", 0).unwrap();
    assert_eq!(folder.states(), "Ra");
}

#[test]
fn auto_is_the_gpu_with_room_and_the_reason_is_told() {
    let gpu = |ordinal, free_bytes| GpuFacts { ordinal, name: "a GPU".into(), free_bytes };
    let gpus = vec![gpu(0, Some(1 << 20)), gpu(1, Some(8 << 30))];
    let loader = Sized { gpus, ..Sized::default() };
    let folder = Folder::with(&[("a", 40), ("b", 40), ("c", 40)], 1000, loader);
    folder.put("b.toml", b"device = 'cuda:0'");
    folder.put("c.toml", b"device = 'cpu'");
    let folder = folder.started();
    let placed = folder.loader.placed.lock().unwrap().clone();
    let expected = [("a", Some(1)), ("b", None), ("c", None)];
    assert_eq!(placed, expected.map(|(name, gpu)| (name.to_owned(), gpu)));
    let why = folder.models.get("a", 0).unwrap().device_why.clone();
    assert!(why.starts_with("cuda:1 (a GPU)") && why.contains("cuda:0 1 MiB free"), "{why}");
}

#[test]
fn what_was_refused_for_the_sake_of_others_is_tried_at_each_look() {
    let folder = Folder::of(&[("a", 40), ("c", 10)], 100);
    folder.put("a.toml", b"keep = true\naliases = ['prod']");
    folder.put("c.toml", b"keep = true");
    let folder = folder.started();
    let mut watch = Watch::default();
    let mut look = || (0..4).for_each(|_| drop(folder.models.look(&mut watch).unwrap()));
    look();
    folder.put("b.onnx", &[0; 55]);
    folder.put("c.toml", b"keep = true\naliases = ['prod']");
    look();
    assert_eq!(folder.states(), "RFR", "no room, and an alias that is another one's");
    folder.put("a.toml", b"");
    look();
    // a makes room for b, which has not changed, and c has the name that is free.
    assert_eq!(folder.states(), "aRR");
    assert_eq!(folder.models.get("prod", 0).unwrap().name, "c");
}

#[test]
fn a_model_whose_file_is_gone_makes_no_other_go() {
    let folder = Folder::of(&[("a", 60), ("b", 60)], 100).started();
    assert_eq!(folder.states(), "aR");
    std::fs::remove_file(folder.folder.path().join("a.onnx")).unwrap();
    let why = folder.recall("a").unwrap_err().to_string();
    assert!(why.contains("a.onnx"), "{why}");
    assert_eq!(folder.states(), "FR");
}
