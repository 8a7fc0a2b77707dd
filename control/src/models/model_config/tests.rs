use std::path::PathBuf;

use ferry_core::{DType, Dim, Signature, TensorSpec};

use super::*;
use crate::models::{DeviceChoice, Filling, Metadata, QueueRules, VersionPolicy};

fn read_in(folder: &Path, text: &str) -> Result<Metadata, String> {
    let place = Place { name: "m", folder };
    metadata(&from_text(text)?, place, Metadata::unnamed(3, 9), Vec::new())
}

fn said(text: &str) -> Result<Metadata, String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("warmup")).unwrap();
    std::fs::write(folder.path().join("l.txt"), "cat\ndog\n").unwrap();
    std::fs::write(folder.path().join("warmup/raw"), [1; 8]).unwrap();
    read_in(folder.path(), text)
}

#[test]
fn what_has_a_counterpart_here_becomes_it() {
    let metadata = said(
        r#"
        name: "m" # as the folder
        platform: "onnxruntime_onnx"
        max_batch_size: 8
        input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
        output { name: "y", data_type: TYPE_INT64, dims: [ -1 ], label_filename: 'l.txt' };
        instance_group [ { count: 2, kind: KIND_CPU }, < kind: KIND_CPU > ]
        dynamic_batching {
          preferred_batch_size: [ 8, 4 ]
          max_queue_delay_microseconds: 100
          default_queue_policy { max_queue_size: 5 default_timeout_microseconds: 9 }
          priority_levels: 3
          default_priority_level: 2
        }
        parameters { key: "intra_op_thread_count" value: { string_value: "2" } }
        optimization { cuda { graphs: true } }
        model_transaction_policy { decoupled: false }
        model_warmup [ { name: "w" batch_size: 4 count: 3 inputs {
          key: "x" value: { data_type: TYPE_FP32 dims: 2 input_data_file: "raw" } } } ]
    "#,
    )
    .unwrap();
    assert_eq!((metadata.engine.as_str(), metadata.device), ("onnx", DeviceChoice::Cpu));
    assert_eq!((metadata.instances, metadata.threads), (3, 2));
    let timeout = Some(std::time::Duration::from_micros(9));
    let queue = QueueRules { max: 5, levels: 3, default_level: 2, timeout };
    assert_eq!(metadata.queue, queue);
    assert_eq!(metadata.shapes.batch_max, 8);
    let batch = metadata.batch.as_ref().unwrap();
    assert_eq!((batch.max, batch.delay_us, &*batch.preferred), (Some(8), 100, &[4, 8][..]));
    assert_eq!(metadata.labels_of("y"), ["cat", "dog"]);
    assert_eq!(metadata.labels_of("z"), [""; 0], "labels are those of one output");
    let warmup = &metadata.warmup[0];
    assert_eq!((warmup.name.as_str(), warmup.count), ("w", 3));
    assert_eq!(warmup.inputs[0].shape.as_deref(), Some(&[4, 2][..]));
    assert_eq!(warmup.inputs[0].filling, Filling::Bytes([1; 8].into()));
    assert_eq!(metadata.files.len(), 2, "labels and data: {:?}", metadata.files);
    assert_eq!(metadata.notes, [""; 0]);
}

#[test]
fn what_changes_no_answer_is_named() {
    for (text, word) in [
        ("response_cache { enable: true }", "response_cache"),
        ("metric_tags { key: 'a' value: 'b' }", "metric_tags"),
        ("input { name: 'x' data_type: TYPE_FP32 format: FORMAT_NCHW }", "format"),
        ("input { name: 'x' data_type: TYPE_FP32 optional: true }", "optional"),
        ("instance_group { kind: KIND_GPU gpus: [ 1, 0 ] }", "gpus [0]"),
        ("instance_group { rate_limiter { priority: 1 } }", "rate_limiter"),
        (
            "max_batch_size: 8 instance_group { count: 2 } dynamic_batching { preserve_ordering: true }",
            "ordering",
        ),
        (
            "max_batch_size: 8 dynamic_batching { priority_queue_policy { key: 1 value { max_queue_size: 3 } } }",
            "priority_queue_policy",
        ),
        ("max_batch_size: 1 dynamic_batching { }", "no two requests"),
        ("dynamic_batching { }", "max_batch_size is 0"),
        ("parameters { key: 'enable_mem_area' value { string_value: '1' } }", "enable_mem_area"),
        ("optimization { graph { level: 1 } }", "graph.level"),
        (
            "optimization { execution_accelerators { gpu_execution_accelerator { name: 't' } } }",
            "execution_accelerators",
        ),
    ] {
        let notes = said(text).unwrap().notes;
        assert!(notes.len() == 1 && notes[0].contains(word), "{text}: {notes:?}");
    }
}

#[test]
fn what_would_change_answers_or_has_no_meaning_fails_by_name() {
    for (text, word) in [
        ("name: 'other'", "other"),
        ("backend: 'python'", "python"),
        ("platform: 'tensorflow_savedmodel'", "tensorflow_savedmodel"),
        ("platform: 'tensorrt_plan'", "model.plan"),
        ("default_model_filename: '../x.onnx'", "../x.onnx"),
        ("default_model_filename: 'x\\000.onnx'", "default_model_filename"),
        ("default_model_filename: 'model.pt'", "model.pt"),
        ("version_policy { specific { versions: [ -1 ] } }", "version_policy"),
        ("ensemble_scheduling { }", "ensemble_scheduling"),
        ("sequence_batching { direct { } }", "sequence_batching"),
        ("model_operations { op_library_filename: 'x.so' }", "model_operations"),
        ("model_transaction_policy { decoupled: true }", "decoupled"),
        ("model_repository_agents { agents { name: 'checksum' } }", "model_repository_agents"),
        ("cc_model_filenames { key: '7.5' value: 'x.onnx' }", "cc_model_filenames"),
        ("batch_input { kind: BATCH_ELEMENT_COUNT }", "batch_input"),
        ("input { name: 'x' data_type: TYPE_FP32 reshape { } }", "reshape"),
        ("input { name: 'x' data_type: TYPE_STRING }", "TYPE_STRING"),
        ("input { name: 'x' }", "TYPE_INVALID"),
        ("output { name: 'y' data_type: TYPE_FP32 dims: -2 }", "-2"),
        ("output { name: 'y' data_type: TYPE_FP32 label_filename: '/etc/passwd' }", "same folder"),
        ("max_batch_size: -1", "max_batch_size"),
        ("instance_group { count: 257 }", "257"),
        ("instance_group { count: -1 }", "-1"),
        ("instance_group { kind: KIND_CPU gpus: 0 }", "gpus [0]"),
        ("model_warmup { name: 'w' batch_size: 2 }", "batch_size is 2"),
        (&"model_warmup { name: 'w' }".repeat(65), "at most 64"),
        ("instance_group [ { kind: KIND_CPU }, { kind: KIND_GPU } ]", "one device"),
        ("parameters { key: 'intra_op_thread_count' value { string_value: 'x' } }", "intra_op"),
        ("model_warmup { name: 'w' count: 1001 }", "1001"),
        (
            "model_warmup { name: 'w' inputs { key: 'x' value { data_type: TYPE_FP32 \
             input_data_file: '../l.txt' } } }",
            "same folder",
        ),
    ] {
        let told = said(text).unwrap_err();
        assert!(told.contains(word), "{text}: {told}");
    }
}

#[test]
fn hostile_texts_are_refused_by_what_is_wrong() {
    let deep = |bracket: &str| bracket.repeat(200_000);
    let named = "[a.b/inference.ModelConfig] {".repeat(50_000);
    let long = format!("name: \"{}\"", "9".repeat(1 << 20));
    for (text, word) in [
        (deep("input {"), "deep"),
        (deep("input <"), "deep"),
        (deep("["), "deep"),
        (named, "deep"),
        ("max_batch_size: 99999999999999999999".into(), "99999999999999999999"),
        ("max_batch_size: 1.5".into(), "integer"),
        ("max_batch_size: 1 max_batch_size: 2".into(), "max_batch_size"),
        ("max_batch_sise: 1".into(), "max_batch_sise"),
        ("name: \"a\0b\"".into(), "invalid"),
        ("\0".into(), "invalid"),
        ("name: 'open".into(), "terminator"),
        ("input { name: 'x'".into(), "expected"),
        ("input { data_type: TYPE_FP31 }".into(), "TYPE_FP31"),
        ("dynamic_batching { } sequence_batching { }".into(), "scheduling_choice"),
        ("[a.b/inference.ModelConfig] { }".into(), "Any"),
        (long, "name is"),
    ] {
        let told = said(&text).unwrap_err();
        let start: String = text.chars().take(40).collect();
        assert!(told.to_lowercase().contains(&word.to_lowercase()), "{start}: {told:.300}");
    }
}

#[test]
fn a_text_that_is_wrong_is_told_with_its_line() {
    let deep = format!("\n{}", "input {\n".repeat(20));
    for (text, line) in [
        ("max_batch_sise: 1", 1),
        ("# what it is\n\nname: 'm'\nmax_batch_size: many\nbackend: 7\n", 4),
        ("name: 'm'\ninput [\n  {\n    name: 'x'\n    data_type: TYPE_FP31\n  }\n]\n", 5),
        ("name: 'm'\nname: 'n'\n", 2),
        ("name: 'm\nbackend: 'onnxruntime'\n", 1),
        ("dynamic_batching { }\r\nsequence_batching { }\r\n", 2),
        ("input {\n  name: 'x'\n\n", 3),
        (&deep, 18),
    ] {
        let told = said(text).unwrap_err();
        assert!(told.starts_with(&format!("line {line}: ")), "{text}: {told}");
    }
}

#[test]
fn a_colon_before_a_list_of_messages_may_be_left_out() {
    let same = from_text("input: [{ name: 'a' }, { name: 'b [' }] max_batch_size: 1").unwrap();
    for text in [
        "input [{ name: 'a' }, { name: 'b [' }] max_batch_size: 1",
        "input # of [ all\n [ { name: \"a\" } , <name: 'b [' > ]; max_batch_size: 1",
        "input { name: 'a' } input { name: 'b [' } max_batch_size: 1",
    ] {
        assert_eq!(from_text(text).unwrap(), same, "{text}");
    }
    let escaped = from_text(r#"name: "a\"b [" input [ { name: 'c' } ]"#).unwrap();
    assert_eq!((escaped.name.as_str(), escaped.input.len()), ("a\"b [", 1));
}

#[test]
fn a_text_of_any_bytes_is_read_or_refused() {
    // Pieces of the format in any order, so that more than the first byte is looked at.
    let pieces = [
        "input",
        "{",
        "}",
        "[",
        "]",
        "<",
        ">",
        ":",
        ",",
        ";",
        "\"",
        "'",
        "\\",
        "#",
        "\n",
        "name",
        "1e",
        "0x",
        "09",
        "-",
        ".5f",
        "dims",
        "parameters",
        "key",
        "value",
        "\0",
        "ä",
        "inf",
        "/",
        "optimization",
        "'\\777'",
        "'\\xg'",
        "'\\U99999999'",
        "18446744073709551616",
        " ",
    ];
    let mut state = 7_u64;
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..12 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = usize::try_from(state >> 33).unwrap() % pieces.len();
            text.push_str(pieces[at]);
        }
        drop(from_text(&text));
        drop(from_json(&text));
    }
}

#[test]
fn files_are_bounded_and_utf_8() {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join(FILE);
    std::fs::write(&path, vec![b' '; 10 << 20]).unwrap();
    let told = read(&path).unwrap_err();
    assert!(told.contains(FILE) && told.contains("1048576"), "{told}");
    std::fs::write(&path, b"name: '\xFF'").unwrap();
    let told = read(&path).unwrap_err();
    assert!(told.contains(FILE) && told.contains("UTF-8"), "{told}");
    std::fs::write(&path, "").unwrap();
    assert_eq!(read(&path).unwrap().0, ModelConfig::default());
}

#[test]
fn json_says_the_same_in_both_spellings() {
    for text in [
        r#"{"max_batch_size": 8, "dynamic_batching": {"max_queue_delay_microseconds": "5"}}"#,
        r#"{"maxBatchSize": 8, "dynamicBatching": {"maxQueueDelayMicroseconds": 5}}"#,
    ] {
        let config = from_json(text).unwrap();
        let same = "max_batch_size: 8 dynamic_batching { max_queue_delay_microseconds: 5 }";
        assert_eq!(config, from_text(same).unwrap());
    }
    for (text, word) in [
        ("[]", "expected a map"),
        ("{", "EOF"),
        ("{} {}", "trailing"),
        (r#"{"max_batch_sise": 8}"#, "max_batch_sise"),
        (r#"{"max_batch_size": 1e30}"#, "line 1"),
        (&"[".repeat(100_000), "line 1"),
    ] {
        let told = from_json(text).unwrap_err();
        assert!(told.contains(word), "{told}");
    }
}

#[test]
fn a_file_says_how_versions_are_called_and_which_serve() {
    let told = |text: &str| layout(&from_text(text).unwrap()).unwrap();
    let latest = |count| Some(VersionPolicy::Latest(count));
    assert_eq!(told(""), Layout { file: "model.onnx".into(), versions: latest(1) });
    assert_eq!(told("default_model_filename: 'net.onnx'").file, "net.onnx");
    assert_eq!(told("version_policy { latest { num_versions: 2 } }").versions, latest(2));
    assert_eq!(told("version_policy { all { } }").versions, Some(VersionPolicy::All));
    let these = Some(VersionPolicy::Specific([1, 3].into()));
    assert_eq!(told("version_policy: { specific: { versions: [1, 3] } }").versions, these);
}

fn spec(name: &str, dtype: DType, dims: &[i64]) -> TensorSpec {
    let dim = |&dim: &i64| u64::try_from(dim).map_or(Dim::Named("n".into()), Dim::Fixed);
    TensorSpec { name: name.into(), dtype, shape: dims.iter().map(dim).collect() }
}

#[test]
fn tensors_that_are_declared_must_be_the_models() {
    let signature = Signature {
        inputs: vec![spec("x", DType::F32, &[-1, 3]), spec("k", DType::I64, &[-1, 1])],
        outputs: vec![spec("y", DType::F32, &[-1, 10]), spec("z", DType::F32, &[-1, 1])],
    };
    let check = |text: &str| said(text).unwrap().declared.check(&signature);
    let [x, k] = ["name: 'x' data_type: TYPE_FP32", "name: 'k' data_type: TYPE_INT64 dims: 1"];
    let batch = "max_batch_size: 4";
    assert_eq!(check(""), Ok(Vec::new()));
    assert_eq!(check(batch), Ok(Vec::new()));
    assert_eq!(check(&format!("{batch} input {{ {x} dims: 3 }} input {{ {k} }}")), Ok(Vec::new()));
    let whole = format!("input {{ {x} dims: [-1, 3] }} input {{ {k} dims: -1 }}");
    let whole = whole.replace("dims: 1 dims: -1", "dims: [-1, 1]");
    assert_eq!(check(&whole), Ok(Vec::new()));
    let notes = check("output { name: 'y' data_type: TYPE_FP32 dims: [7, 10] }").unwrap();
    assert!(notes[0].contains("dims say 7") && notes[1].contains("\"z\""), "{notes:?}");
    for (text, word) in [
        (format!("{batch} input {{ {x} dims: 3 }}"), "\"k\", which is not declared"),
        (format!("{batch} input {{ {x} dims: 4 }} input {{ {k} }}"), "dims [4] behind the batch"),
        (format!("{batch} input {{ {x} dims: [3, 1] }} input {{ {k} }}"), "[3, 1]"),
        (format!("input {{ {x} dims: 3 }} input {{ {k} }}"), "dims [3], and the model has"),
        ("input { name: 'q' data_type: TYPE_FP32 }".to_owned(), "\"q\" is declared"),
        ("output { name: 'y' data_type: TYPE_FP16 dims: [-1, 10] }".to_owned(), "FP16"),
        ("output { name: 'y' data_type: TYPE_FP32 dims: [-1, -1] }".to_owned(), "[-1, -1]"),
    ] {
        let told = check(&text).unwrap_err();
        assert!(told.contains(word), "{text}: {told}");
    }
    let fixed = Signature { inputs: vec![spec("x", DType::F32, &[1, 3])], ..signature.clone() };
    let told = said(batch).unwrap().declared.check(&fixed).unwrap_err();
    assert!(told.contains("max_batch_size"), "{told}");
}
