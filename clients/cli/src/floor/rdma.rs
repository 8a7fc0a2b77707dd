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
use serde_json::json;

use super::load;
use super::ours::Ours;
use super::pair::Plan;
use crate::args::{BenchArgs, RdmaArgs};
use crate::bench::summary::Distribution;
use crate::failure::Failure;
use crate::printer::{Printer, human_ns};

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

pub(super) fn run(client: &Client, args: &BenchArgs, printer: &Printer) -> Result<(), Failure> {
    let rounds = args.rounds.clamp(1, args.requests);
    let perftest = Perftest { rdma: args.rdma.clone(), requests: (args.requests / rounds).max(5) };
    let mut rows = Vec::new();
    for bytes in WRITES {
        rows.push(write(client, &perftest, bytes, rounds, printer)?);
    }
    rows.push(stream(client, &perftest, rounds, printer)?);
    if printer.is_json() {
        return Ok(());
    }
    let head = ["rdma, spin", "ours", "perftest", "ratio", "rounds", "goal", ""];
    printer.table(&head, &rows)
}

/// Half a round trip of `bytes` bytes each way, as `ib_write_lat` reports it.
fn write(
    client: &Client,
    perftest: &Perftest,
    bytes: usize,
    rounds: u64,
    printer: &Printer,
) -> Result<Vec<String>, Failure> {
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
    let (bare_ns, (low, middle, high)) = (spread(theirs).1, spread(ratios));
    if printer.is_json() {
        printer.json(&json!({
            "link": "rdma", "wait": "spin", "test": "write_lat", "bytes": bytes,
            "ours_ns": all.to_json(), "bare_ns": { "p50": bare_ns },
            "ratio_p50": middle, "ratio_p50_min": low, "ratio_p50_max": high, "rounds": rounds,
        }))?;
    }
    let verdict = if middle <= 1.15 { "ok" } else { "missed" };
    Ok(vec![
        format!("one-way write, {bytes} B"),
        human_ns(all.quantile(0.5) as f64),
        human_ns(bare_ns),
        format!("{middle:.2}"),
        format!("{low:.2}–{high:.2}"),
        "≤ 1.15 ×".into(),
        verdict.into(),
    ])
}

/// A stream of requests, beside `ib_write_bw`.
fn stream(
    client: &Client,
    perftest: &Perftest,
    rounds: u64,
    printer: &Printer,
) -> Result<Vec<String>, Failure> {
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
    let (mine, bare, (low, middle, high)) = (spread(ours).1, spread(theirs).1, spread(ratios));
    if printer.is_json() {
        printer.json(&json!({
            "link": "rdma", "wait": "spin", "test": "write_bw", "bytes": bytes, "window": WINDOW,
            "ours_bytes_per_s": mine, "bare_bytes_per_s": bare,
            "ratio": middle, "ratio_min": low, "ratio_max": high, "rounds": rounds,
        }))?;
    }
    let verdict = if middle >= 0.9 { "ok" } else { "missed" };
    let human = |rate: f64| format!("{:.1} MB/s", rate / 1e6);
    Ok(vec![
        format!("stream, {bytes} B, window {WINDOW}"),
        human(mine),
        human(bare),
        format!("{middle:.2}"),
        format!("{low:.2}–{high:.2}"),
        "≥ 0.9 ×".into(),
        verdict.into(),
    ])
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
    rdma: RdmaArgs,
    requests: u64,
}

impl Perftest {
    fn latency_ns(&self, bytes: usize) -> Result<f64, Failure> {
        // … t_min t_max t_typical …, in microseconds.
        let columns = self.run("ib_write_lat", bytes)?;
        columns.get(4).map(|us| us * 1e3).ok_or_else(|| unreadable("ib_write_lat"))
    }

    fn bytes_per_s(&self, bytes: usize) -> Result<f64, Failure> {
        // … peak, average, in MiB/s.
        let columns = self.run("ib_write_bw", bytes)?;
        columns.get(3).map(|mib| mib * 1_048_576.0).ok_or_else(|| unreadable("ib_write_bw"))
    }

    fn command(&self, tool: &str, bytes: usize, port: u16) -> Command {
        let mut command = Command::new(tool);
        command.args(["-F", "-s", &bytes.to_string(), "-n", &self.requests.to_string()]);
        command.args(["-p", &port.to_string()]);
        if let Some(device) = &self.rdma.rdma_device {
            command.args(["-d", device]);
        }
        if let Some(index) = self.rdma.rdma_gid_index {
            command.args(["-x", &index.to_string()]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs both ends; the numbers of the result line.
    fn run(&self, tool: &str, bytes: usize) -> Result<Vec<f64>, Failure> {
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
                return Err(Failure::Failed(anyhow!("{tool} failed: {text}{why}")));
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

fn unreadable(tool: &str) -> Failure {
    Failure::Failed(anyhow!("what {tool} printed has another form: perftest 4.5 is known"))
}

fn free_port() -> Result<u16, Failure> {
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
