use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;

use ferry_engine::{Echo, EngineError, FileDigest};

use super::*;
use crate::models::{Budget, EngineLoader, Instances, LoadSpec, Metadata, ModelControl, Progress};
use crate::tenants::Quota;

/// A watchdog.
const LONG: Duration = Duration::from_secs(30);

/// Loads models as large as their files; once there is a gate, each load waits for a word there.
#[derive(Debug, Default)]
struct Gated {
    gate: Mutex<Option<mpsc::Receiver<()>>>,
    loads: Mutex<Vec<String>>,
}

impl EngineLoader for Gated {
    fn load(&self, spec: &LoadSpec<'_>) -> Result<Instances, EngineError> {
        let digest = FileDigest::of(spec.file).unwrap();
        let name = spec.file.file_stem().unwrap().to_string_lossy().into_owned();
        self.loads.lock().unwrap().push(name);
        if let Some(gate) = &*self.gate.lock().unwrap() {
            gate.recv_timeout(LONG).unwrap();
        }
        Ok(Instances {
            engines: vec![Box::new(Echo::new())],
            engine: "gated",
            engine_version: String::new(),
            device: None,
            device_why: String::new(),
            weights_bytes: digest.bytes,
            precision: None,
            dims: BTreeMap::new(),
            doubt: None,
            files: vec![digest],
            rebuild: None,
        })
    }
}

struct Rig {
    _folder: tempfile::TempDir,
    loader: Arc<Gated>,
    residents: Arc<Residents>,
    /// A word here lets one load go on.
    word: mpsc::SyncSender<()>,
}

impl Rig {
    /// Models `a` to `d`, and memory for one.
    fn new() -> Rig {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c", "d"] {
            std::fs::write(folder.path().join(format!("{name}.onnx")), [0; 60]).unwrap();
        }
        let loader = Arc::new(Gated::default());
        let of_models = Arc::clone(&loader) as Arc<dyn EngineLoader>;
        let base = Metadata::unnamed(1, 4);
        let path = Some(folder.path().to_owned());
        let models = Models::new(path, of_models, base, ModelControl::None);
        let models = models.within(Budget { host_bytes_max: Some(100), gpu_bytes_max: None });
        models.load_all(&AtomicBool::new(false), &Progress::default()).unwrap();
        let (word, gate) = mpsc::sync_channel(16);
        *loader.gate.lock().unwrap() = Some(gate);
        loader.loads.lock().unwrap().clear();
        let residents = Arc::new(Residents::new(Arc::new(models), Handle::current()));
        Rig { _folder: folder, loader, residents, word }
    }

    fn loads(&self) -> Vec<String> {
        self.loader.loads.lock().unwrap().clone()
    }

    fn take(
        &self,
        tenant: &Arc<Tenant>,
        name: &'static str,
        until: Option<Instant>,
    ) -> tokio::task::JoinHandle<Result<(), ApiError>> {
        let (residents, tenant) = (Arc::clone(&self.residents), Arc::clone(tenant));
        tokio::spawn(async move { residents.take(&tenant, name, 0, until).await.map(drop) })
    }

    async fn until(&self, what: &str, is: impl Fn(&Rig) -> bool) {
        let deadline = Instant::now() + LONG;
        while !is(self) {
            assert!(Instant::now() < deadline, "never: {what}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn tenant(name: &str) -> Arc<Tenant> {
    Tenant::new(name, Quota::default())
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_for_a_model_share_its_load() {
    let (rig, one, other) = (Rig::new(), tenant("one"), tenant("other"));
    let all: Vec<_> = (0..20).map(|at| rig.take([&one, &other][at % 2], "a", None)).collect();
    rig.until("all wait", |_| one.in_flight() + other.in_flight() == 20).await;
    rig.word.send(()).unwrap();
    for one in all {
        one.await.unwrap().unwrap();
    }
    assert_eq!(rig.loads(), ["a"]);
    assert_eq!(one.in_flight() + other.in_flight(), 0);
}

/// On one thread, so that whoever is seen to have its tenant's turn is in line.
#[tokio::test]
async fn a_tenant_has_one_load_at_a_time_and_others_have_their_turn() {
    let (rig, greedy, other) = (Rig::new(), tenant("greedy"), tenant("other"));
    let mut all = vec![rig.take(&greedy, "a", None)];
    rig.until("the first load", |rig| rig.loads() == ["a"]).await;
    all.push(rig.take(&greedy, "b", None));
    rig.until("its next one waits", |_| greedy.in_flight() == 2).await;
    all.push(rig.take(&other, "c", None));
    rig.until("another's is in line", |_| other.loads().try_lock().is_err()).await;
    for _ in 0..3 {
        rig.word.send(()).unwrap();
    }
    for one in all {
        one.await.unwrap().unwrap();
    }
    assert_eq!(rig.loads(), ["a", "c", "b"]);
}

/// On one thread, as above.
#[tokio::test]
async fn a_model_comes_in_the_turn_of_the_first_tenant_that_has_one() {
    let (rig, greedy, other) = (Rig::new(), tenant("greedy"), tenant("other"));
    let mut all = vec![rig.take(&greedy, "a", None)];
    rig.until("the first load", |rig| rig.loads() == ["a"]).await;
    all.push(rig.take(&greedy, "b", None));
    rig.until("it waits", |_| greedy.in_flight() == 2).await;
    all.push(rig.take(&greedy, "c", None));
    rig.until("it waits", |_| greedy.in_flight() == 3).await;
    // Not behind what the other one asked for before.
    all.push(rig.take(&other, "c", None));
    rig.until("it is in line", |_| other.loads().try_lock().is_err()).await;
    for _ in 0..3 {
        rig.word.send(()).unwrap();
    }
    for one in all {
        one.await.unwrap().unwrap();
    }
    assert_eq!(rig.loads(), ["a", "c", "b"], "and both had it then");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_too_long_is_told_and_what_nobody_waits_for_is_not_loaded() {
    let (rig, one, other) = (Rig::new(), tenant("one"), tenant("other"));
    let first = rig.take(&one, "a", None);
    rig.until("the first load", |rig| rig.loads() == ["a"]).await;
    let soon = Instant::now() + Duration::from_millis(20);
    let late = rig.take(&other, "b", Some(soon)).await.unwrap().unwrap_err();
    assert!(matches!(&late, ApiError::Late(why) if why.contains("model b version 1")), "{late}");
    rig.word.send(()).unwrap();
    first.await.unwrap().unwrap();
    rig.until("the second one's turn passes", |rig| rig.residents.coming().is_empty()).await;
    assert_eq!(rig.loads(), ["a"]);
    // It is as it was.
    rig.word.send(()).unwrap();
    rig.take(&other, "b", None).await.unwrap().unwrap();
    assert_eq!(rig.loads(), ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_counts_in_its_quota() {
    let quota = Quota { in_flight: 1, ..Quota::default() };
    let (rig, one) = (Rig::new(), Tenant::new("one", quota));
    let first = rig.take(&one, "a", None);
    rig.until("the first load", |rig| rig.loads() == ["a"]).await;
    let refused = rig.take(&one, "a", None).await.unwrap().unwrap_err();
    assert!(matches!(refused, ApiError::Quota { quota: "in-flight", limit: 1, .. }), "{refused}");
    rig.word.send(()).unwrap();
    first.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_unloaded_while_it_comes_back_stays_unloaded() {
    let (rig, one) = (Rig::new(), tenant("one"));
    let first = rig.take(&one, "a", None);
    rig.until("the load", |rig| rig.loads() == ["a"]).await;
    assert!(rig.residents.models.unload("a", 0).unwrap().is_empty());
    rig.word.send(()).unwrap();
    let refused = first.await.unwrap().unwrap_err();
    assert!(refused.to_string().contains("it is not loaded"), "{refused}");
    assert!(rig.residents.models.get("a", 0).is_err());
    rig.until("its memory is free", |rig| rig.residents.models.memory()[0].bytes_now == 0).await;
}
