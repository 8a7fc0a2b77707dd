//! Engines that are kept, found, lost and broken.

use std::path::{Path, PathBuf};

use ferry_core::Signature;
use ferry_tensorrt::{BuildOptions, Cache, CacheUse, Capability, DimRange, EnginePlan, Precision};

use crate::common::{search, zoo};
use crate::tiny::file;

const ROOM_BYTES: u64 = 100 << 20;

struct Bench {
    directory: tempfile::TempDir,
    model: PathBuf,
    cache: Cache,
}

impl Bench {
    fn new(bytes_max: u64) -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let model = zoo(directory.path(), "digits");
        let cache = Cache::new(directory.path().join("made/when needed"), bytes_max);
        Bench { directory, model, cache }
    }

    fn get(&self, options: &BuildOptions) -> (EnginePlan, CacheUse) {
        self.cache.get(&self.model, &search(), options).unwrap()
    }

    fn plain(&self) -> (EnginePlan, CacheUse) {
        self.get(&BuildOptions::default())
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.cache.folder()).unwrap();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    fn only_file(&self) -> PathBuf {
        let files = self.files();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].clone()
    }
}

fn signature(plan: &EnginePlan) -> &Signature {
    plan.signature()
}

#[test]
fn what_was_built_is_found() {
    let bench = Bench::new(ROOM_BYTES);
    let (built, first) = bench.plain();
    assert_eq!(first, CacheUse::Built);
    let (found, second) = bench.plain();
    assert_eq!(second, CacheUse::Hit);
    assert_eq!(found.engine_bytes(), built.engine_bytes());
    assert_eq!(signature(&found), signature(&built));
    assert_eq!(found.library_version(), built.library_version());
    assert_eq!(bench.only_file().extension().unwrap(), "engine");
    // Another path, the same bytes.
    let copy = file(bench.directory.path(), "copy.onnx", &std::fs::read(&bench.model).unwrap());
    let (_, third) = bench.cache.get(&copy, &search(), &BuildOptions::default()).unwrap();
    assert_eq!(third, CacheUse::Hit);
}

#[test]
fn another_model_or_other_options_are_another_engine() {
    let bench = Bench::new(ROOM_BYTES);
    let other = [
        BuildOptions { precision: Precision::Tf32, ..Default::default() },
        BuildOptions { precision: Precision::Fp16, ..Default::default() },
        BuildOptions { capability: Some(Capability { major: 8, minor: 6 }), ..Default::default() },
        BuildOptions {
            ranges: [("n".to_owned(), DimRange { min: 1, typical: 1, max: 2 })].into(),
            ..Default::default()
        },
        BuildOptions {
            ranges: [("n".to_owned(), DimRange { min: 1, typical: 1, max: 3 })].into(),
            ..Default::default()
        },
    ];
    bench.plain();
    for options in &other {
        let (plan, how) = bench.get(options);
        assert_eq!(how, CacheUse::Built, "{options:?}");
        assert_eq!((plan.precision(), plan.capability()), (options.precision, options.capability));
    }
    for options in &other {
        let (plan, how) = bench.get(options);
        assert_eq!(how, CacheUse::Hit, "{options:?}");
        assert_eq!((plan.precision(), plan.capability()), (options.precision, options.capability));
    }
    assert_eq!(bench.files().len(), 1 + other.len());

    // One weight differs by one bit.
    let mut bytes = std::fs::read(&bench.model).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let changed = file(bench.directory.path(), "changed.onnx", &bytes);
    let (_, how) = bench.cache.get(&changed, &search(), &BuildOptions::default()).unwrap();
    assert_eq!(how, CacheUse::Built);
}

/// Whatever happens to a file, it is seen, and built anew.
#[test]
fn damaged_files_are_built_again() {
    let bench = Bench::new(ROOM_BYTES);
    let (built, _) = bench.plain();
    let path = bench.only_file();
    let good = std::fs::read(&path).unwrap();
    let mut damaged: Vec<Vec<u8>> = Vec::new();
    for cut in [0, 1, 87, 88, good.len() / 2, good.len() - 1] {
        damaged.push(good[..cut].to_vec());
    }
    // In each field of the header, in the description, in the engine.
    for at in [0, 9, 13, 17, 23, 30, 60, 90, good.len() / 2, good.len() - 1] {
        let mut flipped = good.clone();
        flipped[at] ^= 0x40;
        damaged.push(flipped);
    }
    damaged.push([good.as_slice(), b"more"].concat());
    damaged.push(b"a foreign file, which is longer than a header but has nothing of one".repeat(9));
    for bytes in damaged {
        std::fs::write(&path, &bytes).unwrap();
        let (plan, how) = bench.plain();
        assert!(matches!(how, CacheUse::Rebuilt { .. }), "{how:?} of {} bytes", bytes.len());
        assert_eq!(signature(&plan), signature(&built));
        assert_eq!(bench.plain().1, CacheUse::Hit);
        assert_eq!(bench.only_file(), path);
    }
}

#[test]
fn a_file_under_the_name_of_another() {
    let bench = Bench::new(ROOM_BYTES);
    bench.plain();
    let full = bench.only_file();
    let options = BuildOptions { precision: Precision::Fp16, ..Default::default() };
    bench.get(&options);
    let half = bench.files().into_iter().find(|file| *file != full).unwrap();
    std::fs::copy(&half, &full).unwrap();
    let (plan, how) = bench.plain();
    let CacheUse::Rebuilt { why } = how else { panic!("{how:?}") };
    assert!(why.contains("another model"), "{why}");
    assert_eq!(plan.precision(), Precision::Fp32);
}

#[test]
fn a_folder_that_cannot_be_written() {
    let bench = Bench::new(ROOM_BYTES);
    let not_kept = |folder: &Path| {
        let cache = Cache::new(folder, ROOM_BYTES);
        let (plan, how) = cache.get(&bench.model, &search(), &BuildOptions::default()).unwrap();
        assert!(!plan.engine_bytes().is_empty());
        let CacheUse::NotKept { why } = how else { panic!("{how:?}") };
        assert!(why.contains(folder.to_str().unwrap()) && why.contains("let the server"), "{why}");
    };
    // Not by permissions: the tests may run as root.
    not_kept(&bench.model.join("below a file"));
    not_kept(Path::new("/proc/self/engines"));
    // A folder where the file belongs.
    bench.plain();
    let path = bench.only_file();
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let (_, how) = bench.plain();
    assert!(matches!(how, CacheUse::NotKept { .. }), "{how:?}");
    assert_eq!(bench.files(), [path], "nothing unfinished is left");
}

#[test]
fn the_oldest_make_room() {
    let bench = Bench::new(ROOM_BYTES);
    bench.plain();
    let bytes = std::fs::metadata(bench.only_file()).unwrap().len();
    // Room for two and a half, and for none.
    let cache = Cache::new(bench.directory.path().join("small"), bytes * 5 / 2);
    let with = |max| BuildOptions {
        ranges: [("n".to_owned(), DimRange { min: 1, typical: 1, max })].into(),
        ..Default::default()
    };
    let get = |max| cache.get(&bench.model, &search(), &with(max)).unwrap().1;
    assert_eq!((get(1), get(2)), (CacheUse::Built, CacheUse::Built));
    assert_eq!(get(1), CacheUse::Hit, "used again, so 2 is the oldest now");
    let old = cache.folder().join("0.0.unfinished");
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
    std::fs::File::create(&old).unwrap().set_modified(long_ago).unwrap();
    std::fs::write(cache.folder().join("1.1.unfinished"), "of another process").unwrap();
    assert_eq!(get(3), CacheUse::Built);
    assert_eq!((get(1), get(3)), (CacheUse::Hit, CacheUse::Hit));
    assert!(!old.exists() && cache.folder().join("1.1.unfinished").exists());
    assert_eq!(get(2), CacheUse::Built);

    let none = Cache::new(bench.directory.path().join("none"), bytes - 1);
    let (_, how) = none.get(&bench.model, &search(), &BuildOptions::default()).unwrap();
    let CacheUse::NotKept { why } = how else { panic!("{how:?}") };
    assert!(why.contains("allowed in all"), "{why}");
}

#[test]
fn several_at_once() {
    let bench = Bench::new(ROOM_BYTES);
    let plans: Vec<EnginePlan> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| bench.plain().0)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(plans.iter().all(|plan| signature(plan) == signature(&plans[0])));
    bench.only_file();
    assert_eq!(bench.plain().1, CacheUse::Hit);
}

/// Set to the bench's folder in processes that `several_processes_at_once` starts.
const FOLDER: &str = "FERRY_TENSORRT_TEST_FOLDER";

#[test]
fn several_processes_at_once() {
    if let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) {
        let cache = Cache::new(folder.join("cache"), ROOM_BYTES);
        let model = folder.join("digits.onnx");
        let (_, how) = cache.get(&model, &search(), &BuildOptions::default()).unwrap();
        assert!(matches!(how, CacheUse::Built | CacheUse::Hit), "{how:?}");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let model = zoo(directory.path(), "digits");
    assert_eq!(model, directory.path().join("digits.onnx"));
    let start = || {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cache::several_processes_at_once"])
            .env(FOLDER, directory.path())
            .output()
    };
    std::thread::scope(|scope| {
        let processes: Vec<_> = (0..3).map(|_| scope.spawn(start)).collect();
        for process in processes {
            let output = process.join().unwrap().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains("1 passed"), "{text}");
        }
    });
    let cache = Cache::new(directory.path().join("cache"), ROOM_BYTES);
    let (_, how) = cache.get(&model, &search(), &BuildOptions::default()).unwrap();
    assert_eq!(how, CacheUse::Hit);
    assert_eq!(std::fs::read_dir(cache.folder()).unwrap().count(), 1, "nothing unfinished is left");
}
