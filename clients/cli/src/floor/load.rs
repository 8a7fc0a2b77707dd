//! How much the link shm carries, and what a plain copy carries on the same machine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_client::blocking::Client;
use ferry_client::{Transport, WaitPolicy, v1};
use serde_json::json;

use super::bare::thread;
use super::pair::Plan;
use crate::bench::{Crew, Load, Work};
use crate::control;
use crate::failure::Failure;
use crate::printer::Printer;

const CLIENTS: u32 = 2;
const WINDOW: u32 = 8;
/// Bytes both ways of the case with small tensors.
const SMALL_BYTES: u64 = 4_000;
const SMALL_REQUESTS: u64 = 200_000;
const LARGE_REQUESTS: u64 = 10_000;
const WARM_UP: u64 = 1_000;
/// How long the copy loop runs.
const COPY_FOR: Duration = Duration::from_millis(500);

pub(super) fn run(client: &Client, plan: &Plan, printer: &Printer) -> Result<(), Failure> {
    let mut rows = Vec::new();
    let small = shm(client, SMALL_BYTES, SMALL_BYTES, SMALL_REQUESTS)?;
    let in_bytes = plan.in_bytes as u64;
    let large = shm(client, in_bytes, plan.out_bytes as u64, LARGE_REQUESTS)?;
    for ((bytes, out), rate) in
        [((SMALL_BYTES, SMALL_BYTES), small), ((in_bytes, plan.out_bytes as u64), large)]
    {
        let copies = copy_rate(usize::try_from(bytes).unwrap_or(usize::MAX), CLIENTS)?;
        let (moved, share) = (rate * bytes as f64, rate / copies);
        if printer.is_json() {
            printer.json(&json!({
                "link": "shm",
                "wait": "spin",
                "kind": "throughput",
                "clients": CLIENTS,
                "window": WINDOW,
                "in_bytes": bytes,
                "out_bytes": out,
                "throughput_rps": rate,
                "bytes_per_s": moved,
                "memcpy_per_s": copies,
                "share_of_memcpy": share,
            }))?;
        }
        rows.push(vec![
            format!("{bytes} B → {out} B"),
            format!("{rate:.0}"),
            format!("{:.2} GB/s", moved / 1e9),
            format!("{:.2} GB/s", copies * bytes as f64 / 1e9),
            format!("{share:.2}"),
        ]);
    }
    if printer.is_json() {
        return Ok(());
    }
    let head = ["shm, 2 clients, window 8", "req/s", "moved in", "memcpy, 2 threads", "share"];
    printer.table(&head, &rows)
}

fn shm(client: &Client, in_bytes: u64, out_bytes: u64, requests: u64) -> Result<f64, Failure> {
    rate(client, Transport::Shm, (CLIENTS, WINDOW, in_bytes, out_bytes), requests)
}

/// Requests per second of so many clients with so many requests in flight each, of so many bytes in
/// and out.
pub(super) fn rate(
    client: &Client,
    transport: Transport,
    (clients, window, in_bytes, out_bytes): (u32, u32, u64, u64),
    requests: u64,
) -> Result<f64, Failure> {
    let warmup = WARM_UP.min(requests / 10);
    let start = v1::StartRunRequest {
        name: "floor".into(),
        kind: "floor".into(),
        warmup,
        ..Default::default()
    };
    let run_id = client.run(control::runs(client).start(start))?.into_inner().run_id;
    let load = Load {
        transport,
        place: None,
        run_id,
        clients,
        window,
        wait: WaitPolicy::Spin,
        warmup,
        record: true,
    };
    let work = Arc::new(Work::echo("echo", 0, in_bytes, out_bytes, 0));
    let mut crew = Crew::gather(client, load, work)?;
    crew.round(requests)?;
    let outcome = crew.finish()?;
    if let Some(first) = outcome.first_error {
        return Err(Failure::Requests { failed: outcome.errors, first });
    }
    Ok(outcome.requests as f64 / outcome.lasted.as_secs_f64())
}

/// Copies per second of `bytes` bytes from one buffer to another, by `threads` threads at once.
fn copy_rate(bytes: usize, threads: u32) -> Result<f64, Failure> {
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
