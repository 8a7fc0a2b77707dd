use std::collections::BTreeSet;

use ferry_vision::{Background, Orientation};

use super::*;
use crate::models::Filling;

fn read(text: &str) -> Result<Metadata, MetadataError> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("l.txt"), "cat\ndog\n").unwrap();
    let path = dir.path().join("m.toml");
    std::fs::write(&path, text).unwrap();
    Metadata::read(&path, "m", Metadata::unnamed(3, 9))
}

#[test]
fn what_the_file_does_not_say_is_the_servers() {
    let metadata =
        read("labels = 'l.txt'\nmax_batch = 4\n[picture]\ninput='x'\nwidth=4\nheight=2").unwrap();
    assert_eq!((metadata.threads, metadata.queue.max, metadata.instances), (3, 9, 1));
    assert_eq!(metadata.shapes, ShapeLimits { batch_max: 4, ..ShapeLimits::default() });
    assert_eq!(metadata.labels, ["cat", "dog"]);
    let (input, picture) = metadata.picture.unwrap();
    assert_eq!((input.as_str(), picture.spec.width, picture.spec.std), ("x", 4, [1.0; 3]));
}

#[test]
fn the_time_of_a_run_is_in_seconds_and_may_be_a_fraction() {
    for (text, expected) in [
        ("", None),
        ("run_seconds_max = 0.5", Some(Duration::from_millis(500))),
        ("run_seconds_max = 30", Some(Duration::from_secs(30))),
    ] {
        assert_eq!(read(text).unwrap().run_at_most, expected, "{text}");
    }
}

#[test]
fn what_a_model_answers_first_may_be_zeros_numbers_or_a_file() {
    let text = "aliases = ['prod', 'best']\nversions = { latest = 2 }\n[[warmup]]\n[[warmup]]\n\
                name = 'w'\ncount = 3\ninputs.x = { shape = [1, 2], data = 'random' }\n\
                inputs.y = { file = 'l.txt' }";
    let metadata = read(text).unwrap();
    assert_eq!(metadata.aliases, ["prod", "best"]);
    assert_eq!(metadata.versions, Some(VersionPolicy::Latest(2)));
    let [first, second] = &*metadata.warmup else { panic!("{:?}", metadata.warmup) };
    assert_eq!((&*first.name, first.count, first.inputs.len()), ("1", 1, 0));
    assert_eq!((&*second.name, second.count), ("w", 3));
    assert_eq!(second.inputs[0].filling, Filling::Random);
    assert_eq!(second.inputs[0].shape.as_deref(), Some(&[1, 2][..]));
    assert_eq!(second.inputs[1].filling, Filling::Bytes(b"cat\ndog\n"[..].into()));
    assert_eq!(metadata.files.len(), 2, "its change is a change of the model");
}

#[test]
fn tensorrt_is_told_precision_contexts_and_sizes() {
    let text = "engine = 'tensorrt'\ndevice = 'cuda:1'\n[gpu]\nprecision = 'fp16'\nstreams = 3\n\
                [dims]\nn = { max = 8 }\nheight = { min = 64, typical = 224, max = 512 }";
    let metadata = read(text).unwrap();
    assert_eq!(metadata.engine, "tensorrt");
    assert_eq!(metadata.device, DeviceChoice::Cuda(1));
    assert_eq!((metadata.gpu.precision, metadata.gpu.streams), (PrecisionName::Fp16, 3));
    assert_eq!(metadata.dims["n"], DimSizes { min: 1, typical: 1, max: 8 });
    assert_eq!(metadata.dims["height"], DimSizes { min: 64, typical: 224, max: 512 });
}

#[test]
fn what_has_no_meaning_is_refused_with_the_file() {
    for text in [
        "engin = 'onnx'",
        "engine = 1",
        "instances = 0",
        "queue = 1000000",
        "run_seconds_max = 0",
        "run_seconds_max = nan",
        "run_seconds_max = 86401",
        "max_batch = 0",
        "max_elements = -1",
        "engine = 'tensorrt'\n[gpu]\nprecision = 'int8'",
        "[gpu]\nstreams = 0",
        "[dims]\nn = { min = 2, max = 4 }",
        "[dims]\nn = { min = 2, typical = 3 }",
        "[dims]\nn = { min = 0, max = 4 }",
        "labels = '../l.txt'",
        "labels = '/etc/passwd'",
        "labels = 'none.txt'",
        "versions = 'some'",
        "aliases = ['a/b']",
        "aliases = ['']",
        "[[warmup]]\ncount = 0",
        "[[warmup]]\ninputs.x = { data = 'ones' }",
        "[[warmup]]\ninputs.x = { file = '../l.txt' }",
        "[[warmup]]\ninputs.x = { file = 'l.txt', data = 'random' }",
        "[picture]\ninput='x'\nwidth=0\nheight=2",
        "[picture]\ninput='x'\nwidth=4\nheight=2\nmean=[1.0]",
        "[picture]\ninput='x'\nwidth=4\nheight=2\nstd=[0.0,1.0,1.0]",
    ] {
        let error = read(text).expect_err(text).to_string();
        assert!(error.contains(".t"), "{text}: {error}");
    }
}

#[test]
fn pictures_come_as_they_are_stored_unless_told_otherwise() {
    let decode = |rule: &str| {
        let text = format!("[picture]\ninput='x'\nwidth=4\nheight=2\n{rule}");
        read(&text).map(|metadata| metadata.picture.unwrap().1.decode)
    };
    let plain = decode("").unwrap();
    assert_eq!((plain.orientation, plain.background), (Orientation::Stored, Background([255; 3])));
    assert_eq!(decode("orientation='stored'").unwrap(), plain);
    let turned = decode("orientation='exif'\nbackground=[0, 1, 2]").unwrap();
    assert_eq!((turned.orientation, turned.background), (Orientation::Exif, Background([0, 1, 2])));
    for wrong in ["orientation='upright'", "background=[0, 0]", "background=[0, 0, 256]"] {
        assert!(decode(wrong).is_err(), "{wrong}");
    }
}

/// The keys that a table takes, as the error for another one lists them.
fn accepted(table: &str) -> BTreeSet<String> {
    let text = format!("{table}zzz = 1");
    let error = toml::from_str::<File>(&text).unwrap_err().to_string();
    // Two are listed as "expected `a` or `b`".
    let (_, listed) = error.split_once("expected ").unwrap_or_else(|| panic!("{error}"));
    listed.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_documentation_has_every_key_and_no_other() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/MODELS.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, keys) = page.split_once("| key | type |").unwrap();
    let rows = keys.lines().skip(2).take_while(|line| line.starts_with('|'));
    let cells = rows.map(|row| row.split('|').nth(1).unwrap());
    let documented: BTreeSet<String> =
        cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect();
    let under = |table: &str| -> BTreeSet<String> {
        documented.iter().filter_map(|key| key.strip_prefix(table)).map(str::to_owned).collect()
    };
    let first: BTreeSet<String> =
        documented.iter().map(|key| key.split('.').next().unwrap().to_owned()).collect();
    assert_eq!(first, accepted(""));
    assert_eq!(under("gpu."), accepted("[gpu]\n"));
    assert_eq!(under("dims.NAME."), accepted("[dims.N]\n"));
    assert_eq!(under("picture."), accepted("[picture]\n"));
    assert_eq!(under("batch."), accepted("[batch]\n"));
    assert_eq!(under("warmup.inputs.NAME."), accepted("[[warmup]]\n[warmup.inputs.N]\n"));
    let of_warmup = under("warmup.");
    let of_warmup = of_warmup.iter().map(|key| key.split('.').next().unwrap().to_owned());
    assert_eq!(of_warmup.collect::<BTreeSet<_>>(), accepted("[[warmup]]\n"));
    assert_eq!(under("limits."), accepted("[limits]\n"));

    // What stands between fences is every second part.
    let mut examples = 0;
    for example in page.split("```toml\n").skip(1) {
        let (example, _) = example.split_once("```").unwrap();
        toml::from_str::<File>(example).unwrap_or_else(|error| panic!("{example}{error}"));
        examples += 1;
    }
    assert!(examples > 1);
}

#[test]
fn values_of_a_wrong_type_are_told_in_words() {
    for (text, told) in [
        ("[batch]\nmax = 'many'", "expected a whole number"),
        ("[batch]\npreferred = 4", "expected a list"),
        ("queue = -1", "give a number, or a table"),
        ("threads = -1", "expected a whole number"),
    ] {
        let said = toml::from_str::<File>(text).unwrap_err().to_string();
        let said = in_words(said.trim());
        assert!(said.contains(told) && !said.contains("64"), "{said}");
    }
}
