//! The only place that writes: results to stdout, talk to stderr.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use ferry_bench::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::failure::Failure;

/// Prints for people or for programs.
#[derive(Debug)]
pub(crate) struct Printer {
    json: bool,
}

impl Printer {
    pub(crate) fn new(json: bool) -> Printer {
        Printer { json }
    }

    /// Whether the reader is a program.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// One result for a program, on a line of its own.
    pub(crate) fn json(&self, value: &Value) -> Result<(), Failure> {
        self.out(&value.to_string())
    }

    /// A line of a result for people.
    pub(crate) fn out(&self, line: &str) -> Result<(), Failure> {
        match writeln!(io::stdout().lock(), "{line}") {
            // Whoever read has seen enough (`ferry … | head`).
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(Failure::Failed(anyhow::Error::new(error).context("write stdout"))),
            Ok(()) => Ok(()),
        }
    }

    /// A table for people. Columns from the second on are numbers.
    pub(crate) fn table(&self, head: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header(head);
        for row in rows {
            table.add_row(row);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        self.out(&table.to_string())
    }

    /// Talk.
    pub(crate) fn say(&self, line: &str) {
        // Nobody to talk to is no reason to fail.
        drop(writeln!(io::stderr().lock(), "{line}"));
    }

    /// Why the command failed.
    pub(crate) fn failure(&self, failure: &Failure) {
        self.say(&format!("ferry: {}", failure.text()));
    }

    /// A bar on stderr for work of `total` steps; nothing where nobody watches.
    pub(crate) fn bar(&self, total: u64, what: &str) -> ProgressBar {
        if self.json || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("{msg} {wide_bar} {percent}% {eta}");
        let bar = ProgressBar::new(total).with_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        style.map_or(bar.clone(), |style| bar.with_style(style))
    }

    /// Shows how far a measurement is.
    pub(crate) fn progress(&self) -> Bars<'_> {
        Bars { printer: self, bar: ProgressBar::hidden() }
    }
}

/// The bar of a measurement, and of the next one.
pub(crate) struct Bars<'p> {
    printer: &'p Printer,
    bar: ProgressBar,
}

impl Progress for Bars<'_> {
    fn begin(&mut self, steps: u64, what: &str) {
        self.bar = self.printer.bar(steps, what);
    }

    fn step(&mut self) {
        self.bar.inc(1);
    }

    fn end(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Nanoseconds for people: three digits and a unit.
pub(crate) fn human_ns(ns: f64) -> String {
    let (value, unit) = match ns {
        ns if ns < 1e3 => return format!("{ns:.0} ns"),
        ns if ns < 1e6 => (ns / 1e3, "µs"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_and_a_unit() {
        assert_eq!(human_ns(999.0), "999 ns");
        assert_eq!(human_ns(1_234.0), "1.23 µs");
        assert_eq!(human_ns(45_678_000.0), "45.7 ms");
        assert_eq!(human_ns(123.4e9), "123 s");
    }
}
