//! Weights in files beside the model: what happens to the files changes no answer.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ferry_engine::Engine;
use ferry_memory::PeerAccess;
use ferry_onnx::{EngineChoice, Model, Options, open};

use crate::common::{BOTH, bytes_of, floats_of, model, options, run};
use crate::tiny::{BOOL, D, FLOAT, bytes, file, number, onnx};

/// As many that they are mapped by whoever maps weights.
const COUNT: usize = 4096;

/// A weight `w` whose numbers lie in `location`.
fn weight(location: &str) -> Vec<u8> {
    let mut tensor = Vec::new();
    number(&mut tensor, 1, COUNT as u64);
    number(&mut tensor, 2, FLOAT);
    bytes(&mut tensor, 8, b"w");
    let length = (COUNT * 4).to_string();
    for (key, value) in [("location", location), ("offset", "0"), ("length", &length)] {
        let mut entry = Vec::new();
        bytes(&mut entry, 1, key.as_bytes());
        bytes(&mut entry, 2, value.as_bytes());
        bytes(&mut tensor, 13, &entry);
    }
    number(&mut tensor, 14, 1);
    tensor
}

const SHAPE: &[D] = &[D::Of(COUNT as u64)];

/// `y = x + w`. Two messages of protobuf behind each other are one, so that the weight can follow.
fn adds(location: &str) -> Vec<u8> {
    let mut all =
        onnx(&[("Add", &["x", "w"], &["y"])], &[], &[("x", FLOAT, SHAPE)], &[("y", FLOAT, SHAPE)]);
    let mut graph = Vec::new();
    bytes(&mut graph, 5, &weight(location));
    bytes(&mut all, 7, &graph);
    all
}

/// `y = x + w` if `c`, else `x`; the weight is in a graph within the graph.
fn adds_below_if(location: &str) -> Vec<u8> {
    let branch = |op: &str, inputs: &[&str], output: &str, weight: Option<Vec<u8>>| {
        let mut node = Vec::new();
        inputs.iter().for_each(|name| bytes(&mut node, 1, name.as_bytes()));
        bytes(&mut node, 2, output.as_bytes());
        bytes(&mut node, 4, op.as_bytes());
        let mut graph = Vec::new();
        bytes(&mut graph, 1, &node);
        bytes(&mut graph, 2, output.as_bytes());
        weight.iter().for_each(|weight| bytes(&mut graph, 5, weight));
        let mut value = Vec::new();
        bytes(&mut value, 1, output.as_bytes());
        // FLOAT of any shape.
        bytes(&mut value, 2, &[10, 2, 8, 1]);
        bytes(&mut graph, 12, &value);
        graph
    };
    let mut node = Vec::new();
    bytes(&mut node, 1, b"c");
    bytes(&mut node, 2, b"y");
    bytes(&mut node, 4, b"If");
    let added = branch("Add", &["x", "w"], "added", Some(weight(location)));
    let same = branch("Identity", &["x"], "same", None);
    for (name, graph) in [("then_branch", added), ("else_branch", same)] {
        let mut attribute = Vec::new();
        bytes(&mut attribute, 1, name.as_bytes());
        bytes(&mut attribute, 6, &graph);
        // The attribute is a graph.
        number(&mut attribute, 20, 5);
        bytes(&mut node, 5, &attribute);
    }
    let mut all = onnx(&[], &[], &[("x", FLOAT, SHAPE), ("c", BOOL, &[])], &[("y", FLOAT, SHAPE)]);
    let mut graph = Vec::new();
    bytes(&mut graph, 1, &node);
    bytes(&mut all, 7, &graph);
    all
}

fn numbers(of: f32) -> Vec<u8> {
    bytes_of(&vec![of; COUNT])
}

/// A model and its weights, all 1.
fn written(folder: &Path, model: &[u8]) -> (PathBuf, PathBuf) {
    std::fs::create_dir_all(folder.join("sub")).unwrap();
    (file(folder, "m.onnx", model), file(folder, "sub/m.data", &numbers(1.0)))
}

/// What the model adds to 2.
fn added(model: &Model, engine: &mut dyn Engine) -> f32 {
    let binding = Arc::new(model.signature().bind(&[]).unwrap());
    let mut request = numbers(2.0);
    request.resize(usize::try_from(binding.request_bytes()).unwrap(), 1);
    let reply = floats_of(&run(engine, &binding, PeerAccess::None, &request).unwrap().0);
    assert!(reply.iter().take(COUNT).all(|it| it.to_bits() == reply[0].to_bits()), "{reply:?}");
    reply[0] - 2.0
}

#[test]
fn what_happens_to_a_file_of_weights_changes_nothing_before_a_load() {
    for choice in BOTH {
        let folder = tempfile::tempdir().unwrap();
        let (path, data) = written(folder.path(), &adds("./sub/m.data"));
        let loaded = model(choice, &path);
        let mut engine = loaded.instance().unwrap();
        assert_eq!(added(&loaded, &mut *engine), 1.0, "{choice:?}");
        // In place, in the same length; then cut; then gone.
        std::fs::write(&data, numbers(50.0)).unwrap();
        assert_eq!(added(&loaded, &mut *engine), 1.0, "{choice:?}: written over");
        std::fs::File::options().write(true).open(&data).unwrap().set_len(0).unwrap();
        assert_eq!(added(&loaded, &mut *engine), 1.0, "{choice:?}: cut");
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert!(!maps.contains("m.data") && !maps.contains("m.onnx"), "{choice:?}: mapped");
        let refused = open(choice, &path, &options()).unwrap_err().to_string();
        assert!(refused.contains("sub/m.data"), "{choice:?}: {refused}");
        std::fs::remove_file(&data).unwrap();
        assert_eq!(added(&loaded, &mut *engine), 1.0, "{choice:?}: gone");
        let refused = open(choice, &path, &options()).unwrap_err().to_string();
        assert!(
            refused.contains("m.data") && refused.contains("together"),
            "{choice:?}: {refused}"
        );

        std::fs::write(&data, numbers(50.0)).unwrap();
        let again = model(choice, &path);
        assert_eq!(added(&again, &mut *again.instance().unwrap()), 50.0, "{choice:?}");
        assert_eq!(again.files().len(), 2);
        assert_eq!(again.files()[0], loaded.files()[0], "the model's file is the same");
        assert_ne!(again.files()[1], loaded.files()[1]);
    }
}

#[test]
fn instances_that_are_made_later_are_of_the_same_files_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (path, data) = written(folder.path(), &adds("sub/m.data"));
    // With more threads than one each instance reads the files by itself.
    let loaded = open(EngineChoice::Ort, &path, &Options { threads: 2, ..options() }).unwrap();
    for _ in 0..2 {
        assert_eq!(added(&loaded, &mut *loaded.instance().unwrap()), 1.0);
    }
    std::fs::write(&data, numbers(50.0)).unwrap();
    let refused = loaded.instance().map(drop).unwrap_err().to_string();
    assert!(refused.contains("changed since it was loaded"), "{refused}");
}

#[test]
fn weights_of_a_graph_within_a_graph_are_read_too() {
    let folder = tempfile::tempdir().unwrap();
    let (path, data) = written(folder.path(), &adds_below_if("sub/m.data"));
    let loaded = model(EngineChoice::Ort, &path);
    let mut engine = loaded.instance().unwrap();
    std::fs::write(&data, b"").unwrap();
    assert_eq!(added(&loaded, &mut *engine), 1.0);
}

#[test]
fn files_outside_of_the_models_folder_are_not_read() {
    let folder = tempfile::tempdir().unwrap();
    for location in ["../m.data", "/dev/zero", "sub/../../m.data"] {
        let (path, _) = written(folder.path(), &adds(location));
        for choice in BOTH {
            let refused = open(choice, &path, &options()).unwrap_err().to_string();
            assert!(refused.contains(location) && refused.contains("folder"), "{refused}");
        }
    }
}
