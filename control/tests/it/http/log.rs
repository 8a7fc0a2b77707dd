//! How much is logged, changed while the server runs.

use std::io::Read;
use std::process::{Command, Stdio};

use super::{Answer, Connection, INFER};
use crate::binary::Ferryd;

/// What is logged of an inference that fails, by those who want to know everything.
const LINE: &str = "an inference failed";

#[test]
fn the_settings_of_the_log_take_effect_at_once_and_go_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferryd"));
    command.current_dir(folder.path()).args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    command.args(["--store", "sqlite:f.db", "--log", "info"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut ferryd = Ferryd::spawn(&mut command);
    let address = ferryd.http.as_ref().unwrap().parse().unwrap();
    let call = |head: &str, body: &str| -> Answer {
        Connection::open(address).call(head, &[], body.as_bytes())
    };
    let fail = |id: &str| {
        let body = format!(r#"{{"inputs":[],"parameters":{{"sequence_id":"{id}"}}}}"#);
        assert_eq!(call(INFER, &body).status, 501);
    };
    let set = |settings: &str| call("POST /v2/logging", settings).json();
    fail("not told");
    let told = set(r#"{"log_verbose_level":1}"#);
    assert_eq!((&told["log_verbose_level"], &told["log_info"]), (&1.into(), &true.into()));
    assert_eq!(call("GET /v2/logging", "").json(), told);
    fail("told");
    // Less than was chosen, then as it was, then of all and back.
    let told = set(r#"{"log_verbose_level":0,"log_info":false}"#);
    assert_eq!((&told["log_info"], &told["log_warning"]), (&false.into(), &true.into()));
    assert_eq!(set(r#"{"log_error":false}"#)["log_error"], false);
    let told = set(r#"{"log_info":true}"#);
    assert_eq!((&told["log_verbose_level"], &told["log_info"]), (&0.into(), &true.into()));
    fail("not told either");
    ferryd.signal(rustix::process::Signal::TERM);
    assert_eq!(ferryd.wait().code(), Some(0));
    let mut log = String::new();
    ferryd.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert_eq!(log.matches(LINE).count(), 1, "{log}");
    assert!(log.contains("filter=\"info,ferry=debug\""), "{log}");
}
