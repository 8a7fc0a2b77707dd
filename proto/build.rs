//! Compiles the `.proto` files with a compiler written in Rust, so that nobody needs `protoc`.

use std::error::Error;
use std::path::PathBuf;

const FILES: [&str; 8] = [
    "ferry/v1/common",
    "ferry/v1/sessions",
    "ferry/v1/models",
    "ferry/v1/inference",
    "ferry/v1/runs",
    "ferry/v1/admin",
    "inference/model_config",
    "inference/grpc_service",
];

fn main() -> Result<(), Box<dyn Error>> {
    let files: Vec<String> = FILES.iter().map(|name| format!("{name}.proto")).collect();
    for file in &files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(&files, ["."])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    std::fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    let mut names = prost_build::Config::new();
    // The codec looks up by its name what a message may take.
    names.enable_type_names();
    tonic_prost_build::configure()
        // Payloads are not copied again when a message is decoded.
        .bytes(".")
        .codec_path("crate::codec::BoundedCodec")
        .compile_fds_with_config(descriptors, names)?;
    Ok(())
}
