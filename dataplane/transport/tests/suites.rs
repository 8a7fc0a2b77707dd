//! Every transport that the documentation lists has run the suite of links, and it says where.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ferry_core::Transport;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The rows, as cells, of the first table of `page` whose head begins with `first`.
fn table(page: &str, first: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(root().join(page)).unwrap();
    let head = format!("| {first} |");
    let lines = text.lines().skip_while(|line| !line.starts_with(&head));
    let rows = lines.take_while(|line| line.starts_with('|')).skip(2);
    let cells = |row: &str| row.trim_matches('|').split('|').map(|it| it.trim().into()).collect();
    rows.map(cells).collect()
}

/// What stands between backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Files with an instance of the suite of links, from the root on.
fn instances(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            instances(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let makes = |line: &str| line.trim_start().starts_with("ferry_conformance::");
            if text.lines().any(|line| makes(line) && line.contains("link_suite!(")) {
                let path = path.strip_prefix(root()).unwrap();
                found.insert(path.to_str().unwrap().to_owned());
            }
        }
    }
}

#[test]
fn every_transport_of_the_documentation_runs_the_suite() {
    let listed = table("docs/ARCHITECTURE.md", "transport");
    let listed: BTreeSet<_> = listed.iter().map(|row| quoted(&row[0])[0].to_owned()).collect();
    let served = Transport::ALL.iter().map(|it| it.name().to_owned()).collect();
    assert_eq!(listed, served, "transports in docs/ARCHITECTURE.md and in the code");

    let rows = table("docs/TESTING.md", "transport");
    let tested: BTreeSet<_> = rows.iter().map(|row| quoted(&row[0])[0].to_owned()).collect();
    assert_eq!(tested, listed, "transports with a suite in docs/TESTING.md, and all of them");

    let (mut there, mut named) = (BTreeSet::new(), BTreeSet::new());
    for folder in ["dataplane", "clients", "control"] {
        instances(&root().join(folder), &mut there);
    }
    for row in &rows {
        // A file, and the module of it where a file has several suites.
        let shown_by = quoted(&row[1]);
        let text = std::fs::read_to_string(root().join(shown_by[0])).unwrap();
        for module in &shown_by[1..] {
            let start = text.find(&format!("{module} {{"));
            let start = start.unwrap_or_else(|| panic!("no {module} in {}", shown_by[0]));
            let body = &text[start..];
            let body = &body[..body.find("\n}").unwrap()];
            assert!(body.contains("link_suite!("), "no suite in {module} of {}", shown_by[0]);
        }
        named.insert(shown_by[0].to_owned());
    }
    assert_eq!(named, there, "files with a suite in docs/TESTING.md, and all there are");
}
