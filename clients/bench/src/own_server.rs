//! A server of our own, for a measurement or a question.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use ferry_client::blocking::Client;
use rustix::process::{Pid, Signal, kill_process};

use crate::Error;
use crate::rdma::RdmaDevice;

/// How long the server may take to end by itself.
const END_WITHIN: Duration = Duration::from_secs(5);

/// A `ferryd` with a store in a temporary folder. Both are gone when it is dropped.
#[derive(Debug)]
pub struct OwnServer {
    child: Child,
    folder: PathBuf,
    url: String,
}

impl OwnServer {
    /// Starts the `ferryd` that lies beside this program.
    ///
    /// # Errors
    /// If there is none, or it does not start.
    pub fn start() -> Result<OwnServer, Error> {
        OwnServer::on(&RdmaDevice::default())
    }

    /// The same on an RDMA device.
    ///
    /// # Errors
    /// As [`start`](OwnServer::start).
    pub fn on(rdma: &RdmaDevice) -> Result<OwnServer, Error> {
        let own = std::env::current_exe().context("find this program")?;
        let program = own.with_file_name("ferryd");
        if !program.exists() {
            let text = format!("{} is missing: cargo build --release", program.display());
            return Err(Error::Failed(anyhow!(text)));
        }
        let folder = std::env::temp_dir().join(format!("ferry-own-{}", std::process::id()));
        std::fs::create_dir_all(&folder).context("make a folder for the store")?;
        match launch(&program, &folder, rdma) {
            Ok((child, url)) => Ok(OwnServer { child, folder, url }),
            Err(error) => {
                drop(std::fs::remove_dir_all(&folder));
                Err(error.into())
            }
        }
    }

    /// Connects to it.
    ///
    /// # Errors
    /// If it has ended.
    pub fn connect(&self) -> Result<Client, Error> {
        Ok(Client::connect(&self.url)?)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

fn launch(program: &Path, folder: &Path, rdma: &RdmaDevice) -> anyhow::Result<(Child, String)> {
    let mut child = Command::new(program)
        .args(["--listen", "127.0.0.1:0", "--log", "error", "--store"])
        .arg(format!("sqlite:{}", folder.join("runs.db").display()))
        .args(rdma.of_ferryd())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    let mut line = String::new();
    let stdout = child.stdout.take().context("read the server's first line")?;
    BufReader::new(stdout).read_line(&mut line).context("read the server's first line")?;
    let ready: Option<serde_json::Value> = serde_json::from_str(&line).ok();
    let listening = ready.as_ref().and_then(|ready| ready["listening"].as_str());
    match listening {
        Some(address) => Ok((child, format!("http://{address}"))),
        None => {
            let ended = child.wait().context("wait for the server")?;
            Err(anyhow!("the server did not start ({ended}); its own message is above"))
        }
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        // The child is ours and not yet waited for, so that its number is still its own.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM).ok();
        }
        let deadline = Instant::now() + END_WITHIN;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(self.child.kill());
        drop(self.child.wait());
        drop(std::fs::remove_dir_all(&self.folder));
    }
}
