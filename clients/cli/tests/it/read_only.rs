//! A store in a folder that its reader may not write.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use rustix::process::Signal;

use crate::server::{Server, ferry_path, text};

/// Whom no folder belongs to: root may write anywhere.
const NOBODY: u32 = 65534;

fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Runs the copy of `ferry` that lies in the folder, which may not be written meanwhile.
fn sql(folder: &Path) -> Output {
    let store = format!("sqlite:{}", folder.join("r.db").display());
    let mut command = Command::new(folder.join("ferry"));
    command.args(["sql", "--json", "--store", &store, "SELECT count(*) AS n FROM runs"]);
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY);
    }
    allow(folder, 0o555);
    let output = command.output().unwrap();
    allow(folder, 0o755);
    output
}

#[test]
fn a_store_is_read_where_nothing_may_be_written_or_the_true_reason_is_told() {
    let mut server = Server::start(&[], |_| {});
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), Some(0));
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::copy(server.path("runs.db"), path("r.db")).unwrap();
    allow(&path("r.db"), 0o444);
    fs::copy(ferry_path(), path("ferry")).unwrap();
    let read = sql(folder.path());
    let said = text(&read.stderr);
    assert!(read.status.success(), "{said}");
    assert_eq!(text(&read.stdout).trim(), r#"{"n":1}"#, "the server's own run");
    // A store that was not closed has changes beside it, which cannot be left out in silence.
    fs::write(path("r.db-wal"), [0; 64]).unwrap();
    let refused = sql(folder.path());
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("r.db-wal") && said.contains("copy both"), "{said}");
}
