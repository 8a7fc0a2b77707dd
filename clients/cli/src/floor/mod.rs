//! `ferry bench --floor`: our links beside bare references, interleaved in one run.

mod server;

pub(crate) use server::OwnServer;

use crate::args::BenchArgs;
use crate::failure::Failure;
use crate::printer::Printer;

pub(crate) fn run(_args: &BenchArgs, _printer: &Printer) -> Result<(), Failure> {
    Ok(())
}
