//! A server of a test's own, and the command line.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fresh;

/// How long a server may take to end; only a guard.
const END_WITHIN: Duration = Duration::from_secs(30);

pub(crate) fn ferry_path() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_ferry"))
}

/// Where ferryd is, which must be of the sources that lie here.
fn ferryd_path() -> &'static Path {
    static PATH: LazyLock<PathBuf> = LazyLock::new(|| {
        let path = ferry_path().with_file_name("ferryd");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
        let why = match fresh::newer(root, &path, "ferry-control") {
            Ok(None) => return path,
            Ok(Some(source)) => format!("it is older than {}", source.display()),
            Err(error) => error.to_string(),
        };
        panic!("{}: {why}: run `cargo build -p ferry-control` in this profile", path.display());
    });
    &PATH
}

/// Starts ferryd with these options; the caller reads its output.
pub(crate) fn ferryd(options: &[&str]) -> Command {
    let mut command = Command::new(ferryd_path());
    command.args(options).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A running ferryd with a folder of its own; both are gone when it is dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
    pub(crate) folder: tempfile::TempDir,
}

impl Server {
    /// With the digit classifier, and whatever `prepare` puts into the model folder.
    pub(crate) fn start(options: &[&str], prepare: impl FnOnce(&Path)) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let models = folder.path().join("models");
        ferry_zoo::write("digits", &models, 1, &mut |_| {}).unwrap();
        prepare(&models);
        Server::on("127.0.0.1:0", options, folder)
    }

    pub(crate) fn on(listen: &str, options: &[&str], folder: tempfile::TempDir) -> Server {
        let store = format!("sqlite:{}", folder.path().join("runs.db").display());
        let models = folder.path().join("models");
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut command = ferryd(&["--listen", listen, "--store", &store]);
        if !options.contains(&"--log") {
            command.args(["--log", "error"]);
        }
        let mut child = command
            .arg("--models")
            .arg(models)
            // A device of this machine must not change what tests see.
            .args(["--lanes", "rdma=0"])
            .args(options)
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).expect("the first line is JSON");
        let url = format!("http://{}", ready["listening"].as_str().unwrap());
        Server { child, url, folder }
    }

    pub(crate) fn store(&self) -> String {
        format!("sqlite:{}", self.folder.path().join("runs.db").display())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Stops all its threads where they are; only a kill ends it then.
    pub(crate) fn halt(&self) {
        self.signal(rustix::process::Signal::STOP);
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()).unwrap());
        // Answers once the last thread has stopped.
        let told = rustix::process::waitpid(pid, rustix::process::WaitOptions::UNTRACED);
        assert!(told.unwrap().unwrap().1.stopped());
    }

    /// Waits for the end; the exit code.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + END_WITHIN;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the server does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Runs `ferry` with `--server` and gives what it printed.
    pub(crate) fn ferry(&self, words: &[&str]) -> Output {
        run(words, Some(&self.url))
    }

    /// The JSON lines of a command that must succeed.
    pub(crate) fn json(&self, words: &[&str]) -> Vec<Value> {
        let output = self.ferry(&[words, &["--json"]].concat());
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{words:?}: {err}");
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A tensor's file as NumPy writes it: its type and shape in Python's words, and its elements.
pub(crate) fn npy(descr: &str, shape: &str, elements: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(elements);
    file
}

/// Runs `ferry`.
pub(crate) fn run(words: &[&str], server: Option<&str>) -> Output {
    let mut command = Command::new(ferry_path());
    command.args(words).env_remove("FERRY_KEY").env_remove("FERRY_SERVER");
    if let Some(url) = server {
        command.env("FERRY_SERVER", url);
    }
    command.output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
