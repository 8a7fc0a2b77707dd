//! What was measured beside bare references, for programs and for people.

use ferry_bench::floor::{Beside, Pair, Recording, Sessions, Throughput};
use ferry_client::WaitPolicy;
use serde_json::{Value, json};

use crate::bench::report::distribution;
use crate::failure::Failure;
use crate::printer::{Printer, human_ns};

/// The goals of `docs/PROMISES.md`: link, wait, most nanoseconds at the median, largest ratio.
const GOALS: [(&str, WaitPolicy, Option<u64>, Option<f64>); 6] = [
    ("shm", WaitPolicy::Spin, Some(12_000), Some(1.8)),
    ("shm", WaitPolicy::Adaptive, Some(60_000), None),
    ("shm", WaitPolicy::Block, Some(60_000), None),
    ("tcp", WaitPolicy::Adaptive, None, Some(1.2)),
    ("zmq", WaitPolicy::Adaptive, None, Some(1.1)),
    ("grpc", WaitPolicy::Adaptive, None, Some(1.15)),
];

fn verdict(ok: bool) -> String {
    if ok { "ok" } else { "missed" }.to_owned()
}

/// One pair for programs, as soon as it was measured.
pub(super) fn pair(pair: &Pair, printer: &Printer) -> Result<(), Failure> {
    if !printer.is_json() {
        return Ok(());
    }
    let (low, middle, high) = pair.ratios();
    printer.json(&json!({
        "link": pair.transport.name(),
        "wait": pair.wait.name(),
        "ours_ns": distribution(&pair.ours),
        "bare_ns": distribution(&pair.bare),
        "ratio_p50": middle,
        "ratio_p50_min": low,
        "ratio_p50_max": high,
        "requests": pair.ours.count(),
        "rounds": pair.per_round.len(),
        "idle_us": pair.idle.as_micros(),
        "accounted": pair.accounted,
        "unattributed_ns_p50": pair.unattributed,
    }))
}

/// All of them for people.
pub(super) fn pairs(pairs: &[Pair], printer: &Printer) -> Result<(), Failure> {
    if printer.is_json() {
        return Ok(());
    }
    let head = ["link", "wait", "ours p50", "bare p50", "ratio", "rounds", "goal", ""];
    printer.table(&head, &pairs.iter().map(row).collect::<Vec<_>>())
}

fn row(pair: &Pair) -> Vec<String> {
    let (ours, bare) = (pair.ours.quantile(0.5), pair.bare.quantile(0.5));
    let (low, middle, high) = pair.ratios();
    let is_of = |goal: &&(&str, WaitPolicy, Option<u64>, Option<f64>)| {
        goal.0 == pair.transport.name() && goal.1 == pair.wait
    };
    let (goal, verdict) = match GOALS.iter().find(is_of) {
        None => (String::new(), String::new()),
        Some(&(_, _, ns, ratio)) => {
            let texts = [
                ns.map(|ns| format!("≤ {}", human_ns(ns as f64))),
                ratio.map(|ratio| format!("≤ {ratio} ×")),
            ];
            let ok = ns.is_none_or(|ns| ours <= ns) && ratio.is_none_or(|most| middle <= most);
            (texts.into_iter().flatten().collect::<Vec<_>>().join(", "), verdict(ok))
        }
    };
    vec![
        pair.transport.to_string(),
        pair.wait.to_string(),
        human_ns(ours as f64),
        human_ns(bare as f64),
        format!("{middle:.2}"),
        format!("{low:.2}–{high:.2}"),
        goal,
        verdict,
    ]
}

/// What recording adds.
pub(super) fn recording(all: &[Recording], printer: &Printer) -> Result<(), Failure> {
    if printer.is_json() {
        return all.iter().try_for_each(|it| {
            printer.json(&json!({
                "link": "shm",
                "wait": "spin",
                "kind": "recording",
                "bytes": it.bytes,
                "window": it.window,
                "rounds": it.rounds,
                "requests": it.requests,
                "on_ns": it.on_ns,
                "off_ns": it.off_ns,
                "added_ns": it.added_ns[1],
                "added_ns_p25": it.added_ns[0],
                "added_ns_p75": it.added_ns[2],
                "records_stored": it.stored,
                "records_lost": it.lost,
            }))
        });
    }
    let row = |it: &Recording| {
        vec![
            it.window.to_string(),
            human_ns(it.on_ns),
            human_ns(it.off_ns),
            format!("{:.0} ns", it.added_ns[1]),
            format!("{:.0}–{:.0} ns", it.added_ns[0], it.added_ns[2]),
            format!("{} / {}", it.stored, it.lost),
        ]
    };
    let head = ["window", "recorded", "not recorded", "added", "p25–p75", "rows stored / lost"];
    printer.table(&head, &all.iter().map(row).collect::<Vec<_>>())
}

/// How much shm carries.
pub(super) fn throughput(all: &[Throughput], printer: &Printer) -> Result<(), Failure> {
    let moved = |it: &Throughput| it.rate * it.in_bytes as f64;
    if printer.is_json() {
        return all.iter().try_for_each(|it| {
            printer.json(&json!({
                "link": "shm",
                "wait": "spin",
                "kind": "throughput",
                "clients": it.clients,
                "window": it.window,
                "in_bytes": it.in_bytes,
                "out_bytes": it.out_bytes,
                "throughput_rps": it.rate,
                "bytes_per_s": moved(it),
                "memcpy_per_s": it.copies,
                "share_of_memcpy": it.rate / it.copies,
            }))
        });
    }
    let row = |it: &Throughput| {
        vec![
            format!("{} B → {} B", it.in_bytes, it.out_bytes),
            format!("{:.0}", it.rate),
            format!("{:.2} GB/s", moved(it) / 1e9),
            format!("{:.2} GB/s", it.copies * it.in_bytes as f64 / 1e9),
            format!("{:.2}", it.rate / it.copies),
        ]
    };
    let head = ["shm, 2 clients, window 8", "req/s", "moved in", "memcpy, 2 threads", "share"];
    printer.table(&head, &all.iter().map(row).collect::<Vec<_>>())
}

/// What many sessions cost.
pub(super) fn sessions(it: &Sessions, printer: &Printer) -> Result<(), Failure> {
    if printer.is_json() {
        return printer.json(&json!({
            "link": "shm",
            "kind": "sessions",
            "sessions": it.sessions,
            "slots": it.slots,
            "open_ns": distribution(&it.opening),
            "server_bytes_before": it.server_before,
            "both_bytes_open": it.both_open,
            "server_bytes_after": it.server_after,
        }));
    }
    let row = vec![
        it.sessions.to_string(),
        human_ns(it.opening.quantile(0.5) as f64),
        human_ns(it.opening.quantile(0.99) as f64),
        format!("{:.2} GB", it.both_open as f64 / 1e9),
        format!("{:.1} MB", it.server_before as f64 / 1e6),
        format!("{:.1} MB", it.server_after as f64 / 1e6),
    ];
    let head = ["sessions", "open p50", "open p99", "both processes", "server before", "after"];
    printer.table(&head, &[row])
}

/// RDMA beside perftest.
pub(super) fn rdma(all: &[Beside], rounds: u64, printer: &Printer) -> Result<(), Failure> {
    if printer.is_json() {
        return all.iter().try_for_each(|it| printer.json(&rdma_json(it, rounds)));
    }
    let head = ["rdma, spin", "ours", "perftest", "ratio", "rounds", "goal", ""];
    printer.table(&head, &all.iter().map(rdma_row).collect::<Vec<_>>())
}

fn rdma_json(beside: &Beside, rounds: u64) -> Value {
    match beside {
        Beside::Write { bytes, ours, bare_ns, ratios: (low, middle, high) } => json!({
            "link": "rdma", "wait": "spin", "test": "write_lat", "bytes": bytes,
            "ours_ns": distribution(ours), "bare_ns": { "p50": bare_ns },
            "ratio_p50": middle, "ratio_p50_min": low, "ratio_p50_max": high, "rounds": rounds,
        }),
        Beside::Stream { bytes, window, ours, bare, ratios: (low, middle, high) } => json!({
            "link": "rdma", "wait": "spin", "test": "write_bw", "bytes": bytes, "window": window,
            "ours_bytes_per_s": ours, "bare_bytes_per_s": bare,
            "ratio": middle, "ratio_min": low, "ratio_max": high, "rounds": rounds,
        }),
    }
}

fn rdma_row(beside: &Beside) -> Vec<String> {
    let rate = |rate: f64| format!("{:.1} MB/s", rate / 1e6);
    let (what, ours, bare, (low, middle, high), goal, ok) = match beside {
        Beside::Write { bytes, ours, bare_ns, ratios } => (
            format!("one-way write, {bytes} B"),
            human_ns(ours.quantile(0.5) as f64),
            human_ns(*bare_ns),
            ratios,
            "≤ 1.15 ×",
            ratios.1 <= 1.15,
        ),
        Beside::Stream { bytes, window, ours, bare, ratios } => (
            format!("stream, {bytes} B, window {window}"),
            rate(*ours),
            rate(*bare),
            ratios,
            "≥ 0.9 ×",
            ratios.1 >= 0.9,
        ),
    };
    let rounds = format!("{low:.2}–{high:.2}");
    vec![what, ours, bare, format!("{middle:.2}"), rounds, goal.to_owned(), verdict(ok)]
}
