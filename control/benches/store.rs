//! How many request rows per second the store takes, and what one costs:
//! `cargo bench -p ferry-control --bench store -- ROWS PRODUCERS`, both optional. One JSON object
//! on stdout; the store is a new file in a temporary folder.

#![forbid(unsafe_code)]

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_control::store::{
    Connection, Event, Location, Machine, NewRun, Recorder, SessionRow, SqliteConfig, SqliteStore,
    TimingStore, Writer, WriterConfig,
};
use ferry_core::{
    HostMemory, KindName, MemoryChoice, Placement, RequestRecord, SessionId, Stage, StageTimes,
    Status, Transport, WaitPolicy,
};

fn main() -> anyhow::Result<()> {
    // Cargo adds `--bench`.
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<u64>().ok());
    let rows = numbers.next().unwrap_or(2_000_000);
    let producers = numbers.next().unwrap_or(1).max(1);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let line = runtime.block_on(measure(rows, producers))?;
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

async fn measure(rows: u64, producers: u64) -> anyhow::Result<serde_json::Value> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("store.db");
    let config = SqliteConfig::default();
    let store = Arc::new(SqliteStore::open(Location::File(path.clone()), config).await?);
    let own_run = store.start_run(&run()).await?;
    let writer_config = WriterConfig { stop_wait: Duration::from_secs(60), ..Default::default() };
    let (recorder, writer) = Writer::spawn(store, own_run, writer_config);
    recorder.event(Event::Opened(Box::new(session())));
    let push_ns = push_cost(&recorder);
    recorder.flush(Duration::from_secs(60)).await?;
    let before = recorder.health().rows_written;
    let (cpu, start) = (cpu_ns()?, Instant::now());
    let threads: Vec<_> = (0..producers)
        .map(|producer| {
            let recorder = recorder.clone();
            let share = rows / producers;
            std::thread::Builder::new().name(format!("producer-{producer}")).spawn(move || {
                produce(&recorder, share);
            })
        })
        .collect::<Result<_, _>>()?;
    tokio::task::spawn_blocking(move || threads.into_iter().for_each(|t| drop(t.join()))).await?;
    recorder.flush(Duration::from_secs(60)).await?;
    let (elapsed, cpu) = (start.elapsed(), cpu_ns()? - cpu);
    let health = writer.stop().await;
    let written = health.rows_written - before;
    let file_bytes = std::fs::metadata(&path)?.len();
    Ok(serde_json::json!({
        "rows": written,
        "rows_lost": health.rows_lost,
        "rows_per_s": ratio(u128::from(written) * 1_000_000_000, elapsed.as_nanos()),
        "cpu_ns_per_row": ratio(u128::from(cpu), u128::from(written)),
        "record_ns": push_ns,
        "bytes_per_row": ratio(u128::from(file_bytes), u128::from(health.rows_written)),
        "producers": producers,
    }))
}

/// What one call of `record` costs a thread that has the queue for itself.
fn push_cost(recorder: &Recorder) -> u128 {
    const CALLS: u64 = 50_000;
    let start = Instant::now();
    for request in 0..CALLS {
        recorder.record(record(request));
    }
    ratio(start.elapsed().as_nanos(), u128::from(CALLS))
}

/// Records as fast as the store takes them: yields while the queue is more than half full.
fn produce(recorder: &Recorder, rows: u64) {
    let half = WriterConfig::default().requests_max / 2;
    for request in 0..rows {
        if request % 256 == 0 {
            while recorder.health().queue_len > half {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        recorder.record(record(request));
    }
}

fn ratio(a: u128, b: u128) -> u128 {
    a / b.max(1)
}

/// CPU time of this process: user and system, from the kernel's clock for it.
fn cpu_ns() -> anyhow::Result<u64> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Ok(u64::try_from(time.tv_sec)? * 1_000_000_000 + u64::try_from(time.tv_nsec)?)
}

fn run() -> NewRun {
    NewRun {
        name: "bench".to_owned(),
        kind: "bench".to_owned(),
        started_unix_ns: 1,
        machine: Machine::default(),
        git_commit: String::new(),
        options_json: "{}".to_owned(),
        libraries_json: "{}".to_owned(),
        warmup: 0,
        notes: String::new(),
        tenant: None,
    }
}

fn session() -> SessionRow {
    SessionRow {
        id: SessionId(u64::MAX / 3),
        run: 0,
        tenant: "bench".to_owned(),
        model: "resnet50".to_owned(),
        version: "1".to_owned(),
        engine: "onnx".to_owned(),
        device: "cpu".to_owned(),
        precision: Some("fp32"),
        transport: Transport::Shm,
        placement: Placement::Host,
        memory: MemoryChoice::Always(HostMemory::Pageable),
        connection: Connection::Direct,
        wait: WaitPolicy::Adaptive,
        slots: 4,
        opened_unix_ns: 1,
    }
}

/// A row with nine of the stages, of the lengths that they have in life.
fn record(request: u64) -> RequestRecord {
    let mut times = StageTimes::NONE;
    for (stage, ns) in [
        (Stage::Fill, 20_000),
        (Stage::Send, 9_000),
        (Stage::Receive, 300),
        (Stage::Queue, 1_500),
        (Stage::Preprocess, 400_000),
        (Stage::Infer, 9_000_000 + request % 1000),
        (Stage::Reply, 500),
        (Stage::Server, 9_403_000 + request % 1000),
        (Stage::Total, 9_430_000 + request % 1000),
    ] {
        times.set(stage, ns);
    }
    RequestRecord {
        run: 0,
        session: SessionId(u64::MAX / 3),
        request,
        started_unix_ns: 1_700_000_000_000_000_000 + request * 5_000,
        kind: KindName::Raw,
        batch: 1,
        priority: 0,
        bytes_in: 602_112,
        bytes_out: 4_000,
        status: Status::Ok,
        trace: ferry_core::TraceId::NONE,
        times,
    }
}
