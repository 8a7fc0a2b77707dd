//! `docs/OPERATIONS.md` has every option of ferryd, and no other.

use std::collections::BTreeSet;
use std::path::Path;

use clap::Args;
use ferry_control::Settings;

/// Those that `main.rs` adds.
const OF_THE_BINARY: [&str; 2] = ["config", "log"];

#[test]
fn the_options_that_the_documentation_lists_are_those_that_there_are() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/OPERATIONS.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `--"));
    // The first column; the others may name options too.
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    let listed: BTreeSet<&str> =
        cells.flat_map(|cell| cell.split('`').filter_map(|it| it.strip_prefix("--"))).collect();

    let command = Settings::augment_args(clap::Command::new("ferryd"));
    let there: BTreeSet<&str> =
        command.get_arguments().filter_map(|it| it.get_long()).chain(OF_THE_BINARY).collect();
    let missing: Vec<_> = there.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&there).collect();
    assert!(missing.is_empty() && gone.is_empty(), "missing {missing:?}, gone {gone:?}");
    assert!(listed.len() > 30, "the page was not understood: {listed:?}");
}
