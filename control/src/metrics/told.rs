//! Which numbers of the server each metric is.

use ferry_core::Status;
use ferry_core::stage::SERVER_STAGES;
use ferry_cuda::nvml::Usage;
use ferry_engine::{InstanceStats, PoolStats};
use ferry_transport::LaneStats;

use super::families as of;
use super::page::{Page, Value};
use super::{LaneMetrics, Snapshot, TenantMetrics, gather};
use crate::host::machine::{COMMIT, VERSION};
use crate::host::process;
use crate::models::{
    BOUNDS_NS, CacheStats, Counted, Histogram, Listed, Memory, OfTransport, Presence, Profile,
    Served, State as ModelState,
};
use crate::state::State;
use crate::store::{StoreHealth, StoreState};
use crate::tenants::Held;

/// Most versions of models, and most tenants, that are told one by one. A version that is asked over
/// one transport has some 170 series, so that a page has 5 MB at the most for each transport. Whoever
/// needs more asks SQL.
const EACH_MAX: usize = 256;

/// Everything that is told, now. Reads files of `/proc`.
pub fn page(state: &State) -> Page {
    let mut page = Page::default();
    let Snapshot {
        uptime: _,
        is_draining,
        sessions_now,
        in_flight_now,
        transports: _,
        store,
        lanes,
        // With what else is told of each, below.
        models: _,
        memory,
        tenants,
        refusals,
        resources,
    } = gather(state);
    page.add(&of::BUILD, [VERSION, COMMIT], Value::One);
    page.add(&of::DRAINING, [], is_draining);
    page.add(&of::SESSIONS, [], sessions_now);
    page.add(&of::IN_FLIGHT, [], in_flight_now);
    for refusal in refusals {
        page.add(&of::REFUSALS, [refusal.link, refusal.what], refusal.count);
    }
    for Memory { place, bytes_now, bytes_max } in memory {
        let place = place.name();
        page.add(&of::MODELS_MEMORY, [place.as_str()], bytes_now);
        if let Some(bytes_max) = bytes_max {
            page.add(&of::MODELS_MEMORY_MAX, [place.as_str()], bytes_max);
        }
    }
    models(&mut page, &state.models.list());
    left_out(&mut page, "tenants", tenants.len());
    tenants.iter().take(EACH_MAX).for_each(|one| tenant(&mut page, one));
    lanes.iter().for_each(|one| lane(&mut page, one));
    recorder(&mut page, &store);
    for (ordinal, usage) in state.gpus.get() {
        gpu(&mut page, &ordinal.to_string(), usage);
    }
    if let Some(used) = resources {
        let cpu_ns = used.process_user_ns.saturating_add(used.process_system_ns);
        page.add(&of::PROCESS_CPU, [], seconds(cpu_ns));
        page.add(&of::PROCESS_MEMORY, [], used.rss_bytes);
    }
    if let Some(own) = process::read() {
        page.add(&of::PROCESS_START, [], own.started_unix_s);
        page.add(&of::PROCESS_THREADS, [], own.threads);
        page.add(&of::PROCESS_FDS, [], own.descriptors);
        if let Some(max) = own.descriptors_max {
            page.add(&of::PROCESS_FDS_MAX, [], max);
        }
    }
    page
}

fn left_out(page: &mut Page, what: &str, all: usize) {
    page.add(&of::LEFT_OUT, [what], all.saturating_sub(EACH_MAX));
}

/// 2^53 ns are a hundred days; later, to a microsecond.
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn models(page: &mut Page, all: &[Listed]) {
    let name_of = |one: &Listed| match one.state {
        ModelState::Loaded(_) => "loaded",
        ModelState::Absent(_) => "absent",
        ModelState::Available => "available",
        ModelState::Failed(_) => "failed",
    };
    for name in ["loaded", "absent", "available", "failed"] {
        page.add(&of::MODELS, [name], all.iter().filter(|one| name_of(one) == name).count());
    }
    let known = all.iter().filter_map(|one| match &one.state {
        ModelState::Loaded(served) => Some((one, &served.profile, Some(served))),
        // Its counters must not go away and come back.
        ModelState::Absent(profile) => Some((one, profile, None)),
        ModelState::Available | ModelState::Failed(_) => None,
    });
    left_out(page, "models", known.clone().count());
    for (listed, profile, served) in known.take(EACH_MAX) {
        model(page, profile);
        if let Some(Presence { loads, evictions, last_load, .. }) = listed.presence {
            let version = profile.version.to_string();
            let labels = [profile.name.as_str(), version.as_str()];
            page.add(&of::LOADS, labels, loads);
            page.add(&of::EVICTIONS, labels, evictions);
            page.add(&of::LAST_LOAD, labels, last_load.as_secs_f64());
        }
        if let Some(served) = served {
            resident(page, served);
        }
    }
}

fn model(page: &mut Page, served: &Profile) {
    let version = served.version.to_string();
    let labels = [served.name.as_str(), version.as_str()];
    let [name, version] = labels;
    let device = served.device_name();
    let precision = served.precision.map_or("", |it| it.name());
    page.add(&of::MODEL, [name, version, served.engine, &device, precision], Value::One);
    for of_transport in served.timings.read() {
        requests(page, labels, &of_transport);
    }
    batches(page, labels, &served.counts.read());
}

/// What only a model in memory has.
fn resident(page: &mut Page, served: &Served) {
    let version = served.version.to_string();
    let labels = [served.name.as_str(), version.as_str()];
    let [name, version] = labels;
    let PoolStats { queued, in_flight, instances, .. } = served.pool.stats();
    page.add(&of::QUEUED, labels, queued);
    page.add(&of::RUNNING, labels, in_flight);
    let alive = instances.iter().filter(|one| one.alive).count();
    page.add(&of::INSTANCES, [name, version, "alive"], alive);
    page.add(&of::INSTANCES, [name, version, "dead"], instances.len().saturating_sub(alive));
    let busy_ns = instances.iter().map(|&InstanceStats { busy_ns, .. }| busy_ns);
    page.add(&of::BUSY, labels, seconds(busy_ns.fold(0, u64::saturating_add)));
    if let Some(cache) = &served.cache {
        let CacheStats { hits, misses, .. } = cache.stats();
        page.add(&of::CACHE, [name, version, "hit"], hits);
        page.add(&of::CACHE, [name, version, "miss"], misses);
    }
}

/// Transports, statuses and stages that did not occur are not told.
fn requests(page: &mut Page, [name, version]: [&str; 2], told: &OfTransport) {
    let OfTransport { transport, by_status, bytes_in, bytes_out, stages } = told;
    let labels = [name, version, transport.name()];
    let [.., transport] = labels;
    let occurred = Status::ALL.iter().zip(by_status).filter(|(_, count)| **count > 0);
    let mut has_any = false;
    for (status, count) in occurred {
        has_any = true;
        page.add(&of::REQUESTS, [name, version, transport, status.name()], *count);
    }
    if !has_any {
        return;
    }
    page.add(&of::REQUEST_BYTES, labels, *bytes_in);
    page.add(&of::REPLY_BYTES, labels, *bytes_out);
    for (stage, histogram) in SERVER_STAGES.iter().zip(stages).filter(|(_, it)| it.count() > 0) {
        page.add(&of::STAGE, [name, version, transport, stage.name()], durations(histogram));
    }
}

fn durations(histogram: &Histogram) -> Value {
    let bounds = BOUNDS_NS.iter().map(|&bound| seconds(bound)).chain([f64::INFINITY]);
    let ranges = bounds.zip(histogram.ranges).collect();
    Value::Histogram { ranges, sum: seconds(histogram.sum_ns) }
}

/// Upper bounds of the ranges of batches: sizes up to 256 are told apart, and clients and operators
/// choose powers of two.
const BATCH_BOUNDS: [u64; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];

fn batches(page: &mut Page, labels: [&str; 2], counted: &Counted) {
    if counted.runs == 0 {
        return;
    }
    let mut ranges: Vec<(f64, u64)> = Vec::with_capacity(BATCH_BOUNDS.len() + 1);
    let (mut below, mut in_sizes) = (0, 0);
    for bound in BATCH_BOUNDS {
        let in_range = counted.sizes.iter().filter(|it| it.rows > below && it.rows <= bound);
        let count = in_range.map(|it| it.count).sum();
        ranges.push((as_number(bound), count));
        (below, in_sizes) = (bound, in_sizes + count);
    }
    ranges.push((f64::INFINITY, counted.runs.saturating_sub(in_sizes)));
    page.add(&of::BATCH, labels, Value::Histogram { ranges, sum: as_number(counted.all.items) });
}

/// Exact below 2^53, and of no account above.
fn as_number(count: u64) -> f64 {
    count as f64
}

fn tenant(page: &mut Page, tenant: &TenantMetrics) {
    let TenantMetrics { name, held_now: Held { sessions, slots, bytes }, in_flight_now } = tenant;
    page.add(&of::TENANT_SESSIONS, [name], *sessions);
    page.add(&of::TENANT_SLOTS, [name], *slots);
    page.add(&of::TENANT_BYTES, [name], *bytes);
    page.add(&of::TENANT_IN_FLIGHT, [name], *in_flight_now);
}

fn lane(page: &mut Page, lane: &LaneMetrics) {
    let LaneMetrics { name, sessions_now, is_alive, stats } = lane;
    let LaneStats {
        arrivals,
        replies,
        pings,
        turned_away,
        refusals,
        joins,
        gone,
        stale,
        unsent,
        in_flight,
        leaving,
        polls,
        parks,
    } = *stats;
    page.add(&of::LANE_ALIVE, [name], *is_alive);
    page.add(&of::LANE_SESSIONS, [name], *sessions_now);
    page.add(&of::LANE_IN_FLIGHT, [name], in_flight);
    page.add(&of::LANE_LEAVING, [name], leaving);
    page.add(&of::LANE_ARRIVALS, [name], arrivals);
    page.add(&of::LANE_PINGS, [name], pings);
    page.add(&of::LANE_TURNED_AWAY, [name], turned_away);
    for (outcome, count) in [("sent", replies), ("stale", stale), ("unsent", unsent)] {
        page.add(&of::LANE_REPLIES, [name, outcome], count);
    }
    page.add(&of::LANE_REFUSALS, [name], refusals);
    page.add(&of::LANE_CLIENTS, [name, "joined"], joins);
    page.add(&of::LANE_CLIENTS, [name, "gone"], gone);
    page.add(&of::LANE_POLLS, [name], polls);
    page.add(&of::LANE_PARKS, [name], parks);
}

fn recorder(page: &mut Page, health: &StoreHealth) {
    let StoreHealth { state, rows_written, rows_lost, events_lost, queue_len, last_error: _ } =
        health;
    page.add(&of::RECORDER_GOOD, [], *state == StoreState::Good);
    page.add(&of::RECORDER_QUEUE, [], *queue_len);
    page.add(&of::RECORDER_WRITTEN, [], *rows_written);
    page.add(&of::RECORDER_LOST, [], *rows_lost);
    page.add(&of::RECORDER_EVENTS_LOST, [], *events_lost);
}

fn gpu(page: &mut Page, ordinal: &str, usage: Usage) {
    let Usage { memory_bytes, busy_percent, pcie_bytes, nvlink_bytes, energy_uj } = usage;
    let busy = busy_percent.map(|percent| percent / 100.0);
    let energy = energy_uj.map(|uj| as_number(uj) / 1e6);
    for (family, value) in [
        (&of::GPU_MEMORY, memory_bytes.map(Value::Count)),
        (&of::GPU_BUSY, busy.map(Value::Number)),
        (&of::GPU_PCIE, pcie_bytes.map(Value::Count)),
        (&of::GPU_NVLINK, nvlink_bytes.map(Value::Count)),
        (&of::GPU_ENERGY, energy.map(Value::Number)),
    ] {
        if let Some(value) = value {
            page.add(family, [ordinal], value);
        }
    }
}
