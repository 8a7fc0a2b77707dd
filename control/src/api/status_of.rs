//! The snapshot of all counters as `Admin.Status` tells it. Every part is taken to pieces by name,
//! so that a counter that is new cannot be left out.

use ferry_engine::{InstanceStats, PoolStats};
use ferry_proto::v1;
use ferry_transport::LaneStats;

use super::to_wire::{duration, residency};
use crate::metrics::{LaneMetrics, ModelMetrics, Snapshot, TenantMetrics};
use crate::models::Memory;
use crate::serving::refusals::RefusalCount;
use crate::store::{ResourceSample, StoreHealth, StoreState};
use crate::tenants::Held;

/// All counters. What is no counter (version, commit, run, URL) is the service's to add.
pub(super) fn status(snapshot: Snapshot) -> v1::StatusResponse {
    let Snapshot {
        uptime,
        is_draining,
        sessions_now,
        in_flight_now,
        transports,
        store: health,
        lanes,
        models,
        memory,
        tenants,
        refusals,
        resources: sample,
    } = snapshot;
    v1::StatusResponse {
        uptime: Some(duration(uptime)),
        draining: is_draining,
        sessions: sessions_now,
        requests_in_flight: in_flight_now,
        store: Some(store(health)),
        lanes: lanes.into_iter().map(lane).collect(),
        transports: transports.into_iter().map(|it| it.name().to_owned()).collect(),
        refusals: refusals.iter().map(|it| it.count).sum(),
        models: models.into_iter().map(model).collect(),
        memory: memory.into_iter().map(model_memory).collect(),
        tenants: tenants.into_iter().map(tenant).collect(),
        refused: refusals.into_iter().map(refusal).collect(),
        resources: sample.map(resources),
        ..v1::StatusResponse::default()
    }
}

fn store(health: StoreHealth) -> v1::StoreStatus {
    let StoreHealth { state, rows_written, rows_lost, events_lost, queue_len, last_error } = health;
    let state = match state {
        StoreState::Good => "ok",
        StoreState::Failing => "failing",
        StoreState::Stopped => "stopped",
    };
    v1::StoreStatus {
        url: String::new(),
        state: state.to_owned(),
        rows_written,
        rows_lost,
        rows_queued: queue_len as u64,
        last_error: last_error.unwrap_or_default(),
        events_lost,
    }
}

fn lane(lane: LaneMetrics) -> v1::LaneStatus {
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
    } = stats;
    v1::LaneStatus {
        name,
        sessions: sessions_now,
        arrivals,
        replies,
        refusals,
        alive: is_alive,
        pings,
        turned_away,
        joins,
        gone,
        stale,
        unsent,
        in_flight_now: in_flight,
        leaving_now: leaving,
        polls,
        parks,
    }
}

fn model(model: ModelMetrics) -> v1::ModelStatus {
    let ModelMetrics { name, version, presence, pool } = model;
    let PoolStats { queued, in_flight, served, failed, refused, late, cancelled, instances } = pool;
    let instance = |instance: InstanceStats| {
        let InstanceStats { alive, in_flight, served, failed, busy_ns } = instance;
        v1::InstanceStatus { alive, served, failed, in_flight_now: in_flight as u64, busy_ns }
    };
    v1::ModelStatus {
        name,
        version,
        served,
        failed,
        refused,
        queued_now: queued as u64,
        in_flight_now: in_flight as u64,
        instances: instances.into_iter().map(instance).collect(),
        late,
        cancelled,
        residency: Some(residency(presence)),
    }
}

fn model_memory(memory: Memory) -> v1::ModelMemory {
    let Memory { place, bytes_now, bytes_max } = memory;
    v1::ModelMemory { place: place.name(), bytes_now, bytes_max }
}

fn tenant(tenant: TenantMetrics) -> v1::TenantStatus {
    let TenantMetrics { name, held_now, in_flight_now } = tenant;
    let Held { sessions, slots, bytes } = held_now;
    v1::TenantStatus { name, sessions, slots, slot_bytes: bytes, in_flight: in_flight_now }
}

fn refusal(count: RefusalCount) -> v1::RefusalStatus {
    let RefusalCount { link, what, count } = count;
    v1::RefusalStatus { link: link.to_owned(), what: what.to_owned(), count }
}

/// What a GPU uses is sampled into SQL and is no counter of the server's.
fn resources(sample: ResourceSample) -> v1::ResourceStatus {
    v1::ResourceStatus {
        process_user_ns: sample.process_user_ns,
        process_system_ns: sample.process_system_ns,
        machine_user_ns: sample.machine_user_ns,
        machine_system_ns: sample.machine_system_ns,
        rss_bytes: sample.rss_bytes,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ferry_core::Transport;

    use super::*;
    use crate::models::{Place, Presence, ResidencyState};

    /// Gives a number that nobody had yet, from 1,001 on: no field can be mistaken for another.
    struct Numbers(u64);

    impl Numbers {
        fn next(&mut self) -> u64 {
            self.0 += 1;
            self.0
        }

        fn small(&mut self) -> usize {
            usize::try_from(self.next()).unwrap()
        }
    }

    fn lane_stats(numbers: &mut Numbers) -> LaneStats {
        LaneStats {
            arrivals: numbers.next(),
            replies: numbers.next(),
            pings: numbers.next(),
            turned_away: numbers.next(),
            refusals: numbers.next(),
            joins: numbers.next(),
            gone: numbers.next(),
            stale: numbers.next(),
            unsent: numbers.next(),
            in_flight: numbers.next(),
            leaving: numbers.next(),
            polls: numbers.next(),
            parks: numbers.next(),
        }
    }

    fn pool_stats(numbers: &mut Numbers) -> PoolStats {
        PoolStats {
            queued: numbers.small(),
            in_flight: numbers.small(),
            served: numbers.next(),
            failed: numbers.next(),
            refused: numbers.next(),
            late: numbers.next(),
            cancelled: numbers.next(),
            instances: vec![InstanceStats {
                alive: true,
                in_flight: numbers.small(),
                served: numbers.next(),
                failed: numbers.next(),
                busy_ns: numbers.next(),
            }],
        }
    }

    fn snapshot(numbers: &mut Numbers) -> Snapshot {
        Snapshot {
            uptime: Duration::from_secs(numbers.next()),
            is_draining: true,
            sessions_now: numbers.next(),
            in_flight_now: numbers.next(),
            transports: vec![Transport::Zmq],
            store: StoreHealth {
                state: StoreState::Failing,
                rows_written: numbers.next(),
                rows_lost: numbers.next(),
                events_lost: numbers.next(),
                queue_len: numbers.small(),
                last_error: Some("disk full".into()),
            },
            lanes: vec![LaneMetrics {
                name: "a lane".into(),
                sessions_now: numbers.next(),
                is_alive: true,
                stats: lane_stats(numbers),
            }],
            models: vec![ModelMetrics {
                name: "a model".into(),
                version: numbers.next(),
                presence: Presence {
                    state: ResidencyState::Leaving,
                    place: Place::Host,
                    weights_bytes: numbers.next(),
                    keep: true,
                    loads: numbers.next(),
                    evictions: numbers.next(),
                    last_load: Duration::from_micros(numbers.next()),
                },
                pool: pool_stats(numbers),
            }],
            memory: vec![Memory {
                place: Place::Gpu(3),
                bytes_now: numbers.next(),
                bytes_max: Some(numbers.next()),
            }],
            tenants: vec![TenantMetrics {
                name: "a tenant".into(),
                held_now: Held {
                    sessions: numbers.next(),
                    slots: numbers.next(),
                    bytes: numbers.next(),
                },
                in_flight_now: numbers.next(),
            }],
            refusals: vec![RefusalCount { link: "tcp", what: "odd", count: numbers.next() }],
            resources: Some(ResourceSample {
                process_user_ns: numbers.next(),
                process_system_ns: numbers.next(),
                machine_user_ns: numbers.next(),
                machine_system_ns: numbers.next(),
                rss_bytes: numbers.next(),
                ..ResourceSample::default()
            }),
        }
    }

    #[test]
    fn every_number_of_the_snapshot_is_told() {
        let mut numbers = Numbers(1000);
        let told = status(snapshot(&mut numbers));
        assert!(told.draining, "{told:?}");
        let text = format!("{told:?}");
        assert!(numbers.0 > 1040, "too few numbers: {}", numbers.0);
        for number in 1001..=numbers.0 {
            assert!(text.contains(&number.to_string()), "{number} is not told: {text}");
        }
        for name in [
            "zmq",
            "failing",
            "disk full",
            "leaving",
            "cuda:3",
            "a lane",
            "a model",
            "a tenant",
            "odd",
        ] {
            assert!(text.contains(name), "{name} is not told: {text}");
        }
    }
}
