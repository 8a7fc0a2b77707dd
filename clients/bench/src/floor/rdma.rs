//! RDMA beside perftest, on one device: `ib_write_lat` and `ib_write_bw` in turn with ours.
//!
//! perftest fills no buffer and runs nothing, so that of our time what the model takes is left
//! out, and only that: everything that server, lane and link add is in it.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use ferry_client::blocking::Client;
use ferry_client::{RequestRecord, Stage, Transport, WaitPolicy};

use super::load;
use super::ours::Ours;
use super::pair::Plan;
use crate::Error;
use crate::rdma::RdmaDevice;
use crate::summary::Distribution;

/// Lengths of the one-way writes, in bytes.
const WRITES: [usize; 2] = [65_536, 602_112];

/// Requests in flight in the stream.
const WINDOW: u32 = 8;

/// Bytes of a reply in the stream: the shortest.
const REPLY_BYTES: u64 = 4;

/// How long perftest's server may take to listen.
const LISTEN_WITHIN: Duration = Duration::from_secs(20);

/// Our requests before anything is measured.
const WARM_UP: u64 = 20;

/// Ours beside perftest, on one device.
#[derive(Clone, Debug)]
pub enum Beside {
    /// Half a round trip of so many bytes each way.
    Write {
        /// Bytes.
        bytes: usize,
        /// Of ours.
        ours: Distribution,
        /// The median of perftest's, in nanoseconds.
        bare_ns: f64,
        /// Smallest, median and largest ratio of the rounds' medians.
        ratios: (f64, f64, f64),
    },
    /// A stream of requests.
    Stream {
        /// Bytes of a request.
        bytes: usize,
        /// Requests in flight.
        window: u32,
        /// Bytes a second of ours.
        ours: f64,
        /// Those of perftest.
        bare: f64,
        /// Smallest, median and largest ratio of the rounds.
        ratios: (f64, f64, f64),
    },
}

/// Measures both, in so many rounds.
///
/// # Errors
/// The first request that fails, or what perftest says.
pub fn rdma(
    client: &Client,
    device: &RdmaDevice,
    requests: u64,
    rounds: u64,
) -> Result<Vec<Beside>, Error> {
    let perftest = Perftest { rdma: device.clone(), requests: (requests / rounds).max(5) };
    let mut all = Vec::new();
    for bytes in WRITES {
        all.push(write(client, &perftest, bytes, rounds)?);
    }
    all.push(stream(client, &perftest, rounds)?);
    Ok(all)
}

/// Half a round trip of `bytes` bytes each way, as `ib_write_lat` reports it.
fn write(client: &Client, perftest: &Perftest, bytes: usize, rounds: u64) -> Result<Beside, Error> {
    let plan = Plan { in_bytes: bytes, out_bytes: bytes, requests: 0, rounds };
    let times = Arc::new(Halves::default());
    let sink = Arc::clone(&times) as Arc<dyn ferry_client::RecordSink>;
    let mut session = Ours::open(client, &plan, Transport::Rdma, WaitPolicy::Spin, sink)?;
    for _ in 0..WARM_UP {
        session.once()?;
    }
    drop(times.take());
    let (mut all, mut theirs, mut ratios) = (Distribution::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let bare_ns = perftest.latency_ns(bytes)?;
        for _ in 0..perftest.requests {
            session.once()?;
        }
        let mine = times.take();
        ratios.push(mine.quantile(0.5) as f64 / bare_ns);
        all.merge(&mine);
        theirs.push(bare_ns);
    }
    session.close()?;
    Ok(Beside::Write { bytes, ours: all, bare_ns: spread(theirs).1, ratios: spread(ratios) })
}

/// A stream of requests, beside `ib_write_bw`.
fn stream(client: &Client, perftest: &Perftest, rounds: u64) -> Result<Beside, Error> {
    let bytes = WRITES[1];
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let bare = perftest.bytes_per_s(bytes)?;
        let shape = (1, WINDOW, bytes as u64, REPLY_BYTES);
        let rate = load::rate(client, Transport::Rdma, shape, perftest.requests.max(20))?;
        let mine = rate * bytes as f64;
        ratios.push(mine / bare);
        ours.push(mine);
        theirs.push(bare);
    }
    let (ours, bare, ratios) = (spread(ours).1, spread(theirs).1, spread(ratios));
    Ok(Beside::Stream { bytes, window: WINDOW, ours, bare, ratios })
}

/// Half of each request's round trip without what the model took.
#[derive(Debug, Default)]
struct Halves(std::sync::Mutex<Vec<u64>>);

impl Halves {
    fn take(&self) -> Distribution {
        let mut times = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut halves = Distribution::new();
        times.drain(..).for_each(|ns| halves.add(ns));
        halves
    }
}

impl ferry_client::RecordSink for Halves {
    fn record(&self, record: RequestRecord) {
        let of = |stage| record.times.of(stage).unwrap_or(0);
        let ns = of(Stage::Total).saturating_sub(of(Stage::Infer)) / 2;
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(ns);
    }
}

/// Debian's package perftest.
struct Perftest {
    rdma: RdmaDevice,
    requests: u64,
}

impl Perftest {
    fn latency_ns(&self, bytes: usize) -> Result<f64, Error> {
        // … t_min t_max t_typical …, in microseconds.
        let columns = self.run("ib_write_lat", bytes)?;
        columns.get(4).map(|us| us * 1e3).ok_or_else(|| unreadable("ib_write_lat"))
    }

    fn bytes_per_s(&self, bytes: usize) -> Result<f64, Error> {
        // … peak, average, in MiB/s.
        let columns = self.run("ib_write_bw", bytes)?;
        columns.get(3).map(|mib| mib * 1_048_576.0).ok_or_else(|| unreadable("ib_write_bw"))
    }

    fn command(&self, tool: &str, bytes: usize, port: u16) -> Command {
        let mut command = Command::new(tool);
        command.args(["-F", "-s", &bytes.to_string(), "-n", &self.requests.to_string()]);
        command.args(["-p", &port.to_string()]);
        if let Some(device) = &self.rdma.device {
            command.args(["-d", device]);
        }
        if let Some(index) = self.rdma.gid_index {
            command.args(["-x", &index.to_string()]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs both ends; the numbers of the result line.
    fn run(&self, tool: &str, bytes: usize) -> Result<Vec<f64>, Error> {
        let port = free_port()?;
        let missing = || format!("start {tool}: install the Debian package perftest");
        let server = self.command(tool, bytes, port).spawn().with_context(missing)?;
        let mut server = Reaped(server);
        let start = Instant::now();
        loop {
            let output =
                self.command(tool, bytes, port).arg("127.0.0.1").output().with_context(missing)?;
            let text = String::from_utf8_lossy(&output.stdout);
            if output.status.success() {
                return numbers(&text).ok_or_else(|| unreadable(tool));
            }
            // Its server is not there yet.
            if start.elapsed() > LISTEN_WITHIN || server.has_ended() {
                let why = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(Error::Failed(anyhow!("{tool} failed: {text}{why}")));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The line behind the heading, as numbers.
fn numbers(text: &str) -> Option<Vec<f64>> {
    let mut lines = text.lines().skip_while(|line| !line.trim_start().starts_with("#bytes"));
    let line = lines.nth(1)?;
    line.split_whitespace().map(|word| word.parse().ok()).collect()
}

fn unreadable(tool: &str) -> Error {
    Error::Failed(anyhow!("what {tool} printed has another form: perftest 4.5 is known"))
}

fn free_port() -> Result<u16, Error> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr().context("find a free port")?.port())
}

/// A child that does not outlive its use.
struct Reaped(Child);

impl Reaped {
    fn has_ended(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(Some(_)) | Err(_))
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        // Fails if it has ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    (at(0), at(values.len() / 2), at(values.len().saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perftests_result_line_is_found() {
        let text = " Mtu : 4096[B]\n #bytes #iterations t_min[usec] t_max[usec] t_typical[usec]\n \
                    65536   300   1270.32   3206.50   1856.95 \n-----\n";
        assert_eq!(numbers(text).unwrap(), [65536.0, 300.0, 1270.32, 3206.5, 1856.95]);
        assert_eq!(numbers("Couldn't connect"), None);
        assert_eq!(numbers("#bytes #iterations\n"), None);
    }
}
