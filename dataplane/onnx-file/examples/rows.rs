//! Says of ONNX files whether their rows are shown to mean nothing to each other, and why not:
//! `cargo run -p ferry-onnx-file --example rows FILE…`.
#![expect(clippy::print_stdout, reason = "what it is for")]

fn main() -> std::io::Result<()> {
    for file in std::env::args_os().skip(1) {
        let doubt = ferry_onnx_file::rows::doubt(&std::fs::read(&file)?);
        let told = doubt.unwrap_or_else(|| "rows are apart".to_owned());
        println!("{}: {told}", file.display());
    }
    Ok(())
}
