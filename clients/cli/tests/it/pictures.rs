//! Pictures of every kind that the fixtures have, decoded by the server and by the client.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::server::{Server, text};

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dataplane/vision/testdata/cases")
}

/// The values of a `.npy` file behind its header.
fn values(path: &Path) -> Vec<u8> {
    let file = fs::read(path).unwrap();
    let header = 10 + usize::from(u16::from_le_bytes([file[8], file[9]]));
    file[header..].to_vec()
}

/// What a model that hands its picture back answers, as rows of RGB.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the values of pixels are 0 to 255"
)]
fn handed_back(server: &Server, model: &str, image: &Path, kind: &str) -> Vec<u8> {
    let folder = server.path("out");
    drop(fs::remove_dir_all(&folder));
    let (image, output) = (image.to_str().unwrap(), folder.to_str().unwrap());
    let words = ["infer", "--model", model, "--transport", "shm", "--image", image, "--kind", kind];
    let answer = server.ferry(&[&words[..], &["--output", output]].concat());
    assert!(answer.status.success(), "{image} {kind}: {}", text(&answer.stderr));
    let only = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let planes: Vec<f32> = values(&only)
        .chunks_exact(4)
        .map(|value| f32::from_le_bytes(value.try_into().unwrap()))
        .collect();
    let pixels = planes.len() / 3;
    (0..3 * pixels).map(|i| planes[i % 3 * pixels + i / 3] as u8).collect()
}

#[test]
fn every_case_comes_back_as_it_is_by_both_decoders() {
    let server = Server::start(&[], |models| {
        for entry in fs::read_dir(cases().join("models")).unwrap() {
            let from = entry.unwrap().path();
            let name = from.file_name().unwrap().to_str().unwrap();
            fs::copy(&from, models.join(name)).unwrap();
            let upright = models.join(format!("upright-{name}"));
            fs::copy(&from, &upright).unwrap();
            if name.ends_with(".toml") {
                let table = fs::read_to_string(&from).unwrap();
                fs::write(upright, table + "\norientation = \"exif\"\n").unwrap();
            }
        }
    });
    let list = fs::read_to_string(cases().join("cases.json")).unwrap();
    let list: Value = serde_json::from_str(&list).unwrap();
    for case in list["cases"].as_array().unwrap() {
        let field = |name: &str| case[name].as_str();
        let image = cases().join(field("file").unwrap());
        let model = field("model").unwrap();
        let mut wanted = vec![(model.to_owned(), field("pixels").unwrap())];
        if let Some(upright) = field("pixels_upright") {
            // From 5 on the picture lies on its side.
            let sides = if case["orientation"].as_u64() < Some(5) { model } else { "p11x16" };
            wanted.push((format!("upright-{sides}"), upright));
        }
        for (model, pixels) in wanted {
            for kind in ["image", "raw"] {
                let actual = handed_back(&server, &model, &image, kind);
                assert!(actual == values(&cases().join(pixels)), "{model} {image:?} {kind}");
            }
        }
    }
}
