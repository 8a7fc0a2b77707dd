//! Decodes a picture file once for each line that it reads, and prints what each took, in
//! nanoseconds: one half of `measure/speed.py`, which puts libjpeg-turbo beside it.
//!
//!     cargo run --release -p ferry-vision --example decode -- FILE

use std::io::{BufRead as _, Write as _};
use std::time::Instant;

use ferry_vision::{DecodeOptions, Decoder};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: decode FILE")?;
    let file = std::fs::read(path)?;
    let (mut decoder, options) = (Decoder::new(), DecodeOptions::default());
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        line?;
        let start = Instant::now();
        let pixels = decoder.decode(&file, &options)?;
        std::hint::black_box(pixels);
        writeln!(out, "{}", start.elapsed().as_nanos())?;
        out.flush()?;
    }
    Ok(())
}
