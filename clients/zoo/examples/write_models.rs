//! Writes models into a directory: `write_models DIRECTORY [NAME]...`, all of them without a name.

use std::env;
use std::io::{self, Write};
use std::path::PathBuf;

const SEED: u64 = 1;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or("name a directory to write into")?);
    let mut wanted: Vec<String> = arguments.collect();
    if wanted.is_empty() {
        wanted = ferry_zoo::names().iter().map(|name| (*name).to_owned()).collect();
    }
    for name in wanted {
        let written = ferry_zoo::write(&name, &directory, SEED, &mut |_| {})?;
        let parameters = ferry_zoo::describe(&name).map_or(0, |model| model.parameters);
        writeln!(
            io::stdout(),
            "{} {parameters} parameters, {} bytes",
            written.model.display(),
            written.model_bytes
        )?;
    }
    Ok(())
}
