//! How much the link shm carries, and what a plain copy carries on the same machine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_client::blocking::Client;
use ferry_client::{Transport, WaitPolicy, v1};
use ferry_proto::v1::runs_client::RunsClient;

use super::bare::thread;
use super::pair::Plan;
use crate::Error;
use crate::crew::{Crew, Load};
use crate::member::Extent;
use crate::stop::Stop;
use crate::way::Way;
use crate::work::Work;

const CLIENTS: u32 = 2;
const WINDOW: u32 = 8;
/// Bytes both ways of the case with small tensors.
const SMALL_BYTES: u64 = 4_000;
const SMALL_REQUESTS: u64 = 200_000;
const LARGE_REQUESTS: u64 = 10_000;
const WARM_UP: u64 = 1_000;
/// How long the copy loop runs.
const COPY_FOR: Duration = Duration::from_millis(500);

/// How much shm carries, both ends spinning.
#[derive(Clone, Debug)]
pub struct Throughput {
    /// Clients at once.
    pub clients: u32,
    /// Requests that each has in flight.
    pub window: u32,
    /// Bytes of a request.
    pub in_bytes: u64,
    /// Bytes of a reply.
    pub out_bytes: u64,
    /// Requests a second.
    pub rate: f64,
    /// Copies of as many bytes a second, by as many threads.
    pub copies: f64,
}

/// Measures it with small tensors and with the plan's.
///
/// # Errors
/// The first request that fails.
pub fn throughput(client: &Client, plan: &Plan) -> Result<Vec<Throughput>, Error> {
    let large = (plan.in_bytes as u64, plan.out_bytes as u64, LARGE_REQUESTS);
    let one = |(in_bytes, out_bytes, requests)| {
        let rate = shm(client, in_bytes, out_bytes, requests)?;
        let copies = copy_rate(usize::try_from(in_bytes).unwrap_or(usize::MAX), CLIENTS)?;
        Ok(Throughput { clients: CLIENTS, window: WINDOW, in_bytes, out_bytes, rate, copies })
    };
    [(SMALL_BYTES, SMALL_BYTES, SMALL_REQUESTS), large].into_iter().map(one).collect()
}

fn shm(client: &Client, in_bytes: u64, out_bytes: u64, requests: u64) -> Result<f64, Error> {
    rate(client, Transport::Shm, (CLIENTS, WINDOW, in_bytes, out_bytes), requests)
}

/// Requests per second of so many clients with so many requests in flight each, of so many bytes in
/// and out.
pub(super) fn rate(
    client: &Client,
    transport: Transport,
    (clients, window, in_bytes, out_bytes): (u32, u32, u64, u64),
    requests: u64,
) -> Result<f64, Error> {
    let warmup = WARM_UP.min(requests / 10);
    let start = v1::StartRunRequest {
        name: "floor".into(),
        kind: "floor".into(),
        warmup,
        ..Default::default()
    };
    let run_id =
        client.run(RunsClient::new(client.control().channel()).start(start))?.into_inner().run_id;
    let work = Arc::new(Work::echo(in_bytes, out_bytes));
    let load = Load {
        way: Way::Session { transport, place: None, work },
        run_id: Some(run_id),
        clients,
        window,
        wait: WaitPolicy::Spin,
        warmup,
        record: true,
    };
    let mut crew = Crew::gather(client, load, &Stop::default())?;
    crew.round(Extent::Requests(requests))?;
    let outcome = crew.finish()?;
    if let Some(first) = outcome.first_error {
        return Err(Error::Requests { failed: outcome.errors, first });
    }
    Ok(outcome.requests as f64 / outcome.lasted.as_secs_f64())
}

/// Copies per second of `bytes` bytes from one buffer to another, by `threads` threads at once.
fn copy_rate(bytes: usize, threads: u32) -> Result<f64, Error> {
    let mut workers = Vec::new();
    let (rates, rate) = std::sync::mpsc::sync_channel(threads as usize);
    for _ in 0..threads {
        let rates = rates.clone();
        workers.push(thread("memcpy", move || {
            let (from, mut to) = (vec![7_u8; bytes], vec![0_u8; bytes]);
            let start = Instant::now();
            let mut copies = 0_u64;
            while start.elapsed() < COPY_FOR {
                to.copy_from_slice(std::hint::black_box(&from));
                std::hint::black_box(&mut to);
                copies += 1;
            }
            // The receiver lives until all have sent.
            rates.send(copies as f64 / start.elapsed().as_secs_f64()).ok();
        })?);
    }
    drop(rates);
    let all = rate.iter().sum();
    for worker in workers {
        drop(worker.join());
    }
    Ok(all)
}
