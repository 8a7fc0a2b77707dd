//! Where the command line puts outputs, and what it says of shapes.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use ferry_conformance::cases;
use serde_json::{Value, json};

use crate::server::{Server, npy, text};

/// A server with models that any engine runs.
fn server(names: &[&str]) -> Server {
    Server::start(&[], |models| {
        for name in names {
            let model = format!("{name}.onnx");
            fs::copy(cases::folder().join(&model), models.join(&model)).unwrap();
            let toml = "engine = \"tract\"\ndevice = \"cpu\"\n";
            fs::write(models.join(format!("{name}.toml")), toml).unwrap();
        }
    })
}

/// The first request of a case: files by the names of inputs, and of outputs.
fn first_request(name: &str) -> [Vec<(String, PathBuf)>; 2] {
    let root = cases::folder().parent().unwrap().to_owned();
    let all: Value =
        serde_json::from_str(&fs::read_to_string(root.join("cases.json")).unwrap()).unwrap();
    let mut all = all["cases"].as_array().unwrap().iter();
    let request = &all.find(|case| case["name"] == name).unwrap()["requests"][0];
    ["inputs", "outputs"].map(|side| {
        let files = request[side].as_object().unwrap().iter();
        files.map(|(name, file)| (name.clone(), root.join(file.as_str().unwrap()))).collect()
    })
}

/// What stands behind the header of a `.npy` file.
fn values(path: &Path) -> Vec<u8> {
    let file = fs::read(path).unwrap();
    let header = 10 + usize::from(u16::from_le_bytes([file[8], file[9]]));
    file[header..].to_vec()
}

#[test]
fn each_output_has_a_file_of_its_own_inside_the_folder_and_json_says_which() {
    let names = ["outputs_one_file_name", "outputs_dots", "output_name_long", "input_name_equals"];
    let server = server(&names);
    for name in names {
        let [inputs, outputs] = first_request(name);
        for transport in ["local", "tcp"] {
            let folder = server.path(&format!("{name}-{transport}")).join("out");
            let mut words = vec!["infer", "--model", name, "--transport", transport];
            let inputs: Vec<String> =
                inputs.iter().map(|(name, file)| format!("{name}={}", file.display())).collect();
            inputs.iter().for_each(|input| words.extend(["--input", input]));
            words.extend(["--output", folder.to_str().unwrap()]);
            let answer = &server.json(&words)[0];
            let mut files = HashSet::new();
            for (name, right) in &outputs {
                let mut told = answer["outputs"].as_array().unwrap().iter();
                let told = told.find(|output| output["name"] == *name).unwrap();
                let file = PathBuf::from(told["file"].as_str().unwrap());
                assert_eq!(file.parent(), Some(&*folder), "{name:?}");
                assert_eq!(values(&file), values(right), "{name:?} {transport}");
                assert!(files.insert(file), "{name:?} shares its file");
            }
            assert_eq!(fs::read_dir(&folder).unwrap().count(), outputs.len(), "{name}");
            let beside = fs::read_dir(folder.parent().unwrap()).unwrap().count();
            assert_eq!(beside, 1, "{name}: something is beside the folder");
        }
    }
}

#[test]
fn an_answer_says_which_shapes_were_used() {
    let server = server(&["batch_same_name"]);
    let file = server.path("x.npy");
    let elements = [1.0_f32, 2.0, 3.0].map(f32::to_le_bytes).concat();
    fs::write(&file, npy("<f4", "(3,)", &elements)).unwrap();
    let input = format!("x={}", file.display());
    for transport in ["local", "shm", "grpc"] {
        let words = ["infer", "--model", "batch_same_name", "--transport", transport, "--input"];
        let words = [&words[..], &[&input, "--shape", "x=1x3"]].concat();
        let answer = &server.json(&words)[0];
        assert_eq!(answer["inputs"], json!([{ "name": "x", "shape": [1, 3] }]), "{transport}");
        assert_eq!(answer["outputs"][0]["shape"], json!([1, 3]), "{transport}");
        let person = text(&server.ferry(&words).stdout);
        assert!(person.contains("x 1x3 → y 1x3"), "{transport}: {person}");
    }
    fs::write(&file, npy("<f4", "(1, 3)", &elements)).unwrap();
    for transport in ["local", "tcp"] {
        let words = ["infer", "--model", "batch_same_name", "--transport", transport, "--input"];
        let words = [&words[..], &[&input, "--batch", "4"]].concat();
        let person = text(&server.ferry(&words).stdout);
        assert!(person.contains("x 4x3 → y 4x3"), "{transport}: {person}");
    }
    let words = ["bench", "--model", "batch_same_name", "--transport", "local,tcp", "--requests"];
    let words = [&words[..], &["4", "--warmup", "0", "--batch", "5"]].concat();
    for line in server.json(&words) {
        assert_eq!(line["inputs"], json!([{ "name": "x", "shape": [5, 3] }]), "{line}");
    }
    let table = text(&server.ferry(&words).stdout);
    assert!(table.contains("batch_same_name with x 5x3 → y 5x3"), "{table}");
}
