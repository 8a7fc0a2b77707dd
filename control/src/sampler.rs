//! Samples what process, machine and GPUs use, for the server's run and for those that clients
//! started.

mod gpus;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ferry_cuda::nvml::Usage;

use crate::host::machine::sample;
use crate::models::Models;
use crate::runs::RunBook;
use crate::sessions::Sessions;
use crate::store::{Recorder, ResourceSample};
use gpus::{Gpus, in_use};

/// What each GPU that is sampled used when it was sampled last, by its number.
#[derive(Debug, Default)]
pub struct LastGpus(Mutex<BTreeMap<u32, Usage>>);

impl LastGpus {
    /// All of them.
    pub fn get(&self) -> BTreeMap<u32, Usage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, each: BTreeMap<u32, Usage>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = each;
    }
}

/// What is sampled, and where it goes.
#[derive(Debug)]
pub(crate) struct Sampled {
    /// Whose GPUs are sampled.
    pub(crate) models: Arc<Models>,
    /// Whose runs are sampled.
    pub(crate) sessions: Arc<Sessions>,
    /// Which runs go on: each of those with a session gets a copy of each sample.
    pub(crate) runs: Arc<RunBook>,
    /// Where samples go.
    pub(crate) recorder: Recorder,
    /// Where what each GPU uses is left for whoever asks.
    pub(crate) gpus: Arc<LastGpus>,
}

/// Samples until it is aborted. What sampling itself costs is measured and logged at the first
/// sample, and when a GPU joins: it is two reads of `/proc`, some 100 µs each second by default,
/// and some calls of NVML where models run on a GPU.
pub(crate) async fn keep(sampled: Sampled, every: Duration) {
    if every.is_zero() {
        return;
    }
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut gpus = Some(Gpus::default());
    let (mut first, mut missed) = (true, false);
    loop {
        let poll_every = gpus.as_ref().and_then(Gpus::poll_every);
        tokio::select! {
            _ = ticks.tick() => {}
            () = after(poll_every) => {
                gpus = aside(gpus, Gpus::poll).await.map(|(gpus, ())| gpus);
                continue;
            }
        }
        let start = Instant::now();
        let Some(mut taken) = sample() else {
            // Such as where no descriptor is left for a moment: the next tick may find one.
            if !std::mem::replace(&mut missed, true) {
                tracing::warn!("/proc cannot be read: resources are not sampled until it can");
            }
            continue;
        };
        missed = false;
        (gpus, taken) = with_gpus(gpus, &sampled, taken).await;
        // Runs without a session take nothing: they may be many, and nobody asks.
        let sessions = sampled.sessions.all();
        let runs = sampled.runs.going_on(sessions.iter().map(|session| session.run));
        for run in std::iter::once(0).chain(runs) {
            sampled.recorder.sample(ResourceSample { run, ..taken });
        }
        if std::mem::take(&mut first) {
            let cost_us = start.elapsed().as_micros();
            tracing::info!(cost_us, every_s = every.as_secs_f64(), "resources are sampled");
        }
    }
}

/// Waits; for ever if there is nothing to wait for.
async fn after(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// Adds what the GPUs of the models use.
async fn with_gpus(
    gpus: Option<Gpus>,
    of: &Sampled,
    taken: ResourceSample,
) -> (Option<Gpus>, ResourceSample) {
    let devices = in_use(&of.models);
    if devices.is_empty() && gpus.as_ref().is_none_or(Gpus::is_empty) {
        return (gpus, taken);
    }
    let mut used = taken;
    let sampled = aside(gpus, move |gpus| {
        gpus.add(&devices);
        let each = gpus.sample(&mut used);
        (used, each)
    });
    // After a panic nothing is told of them rather than what was.
    let (gpus, used, each) = match sampled.await {
        Some((gpus, (used, each))) => (Some(gpus), used, each),
        None => (None, taken, BTreeMap::new()),
    };
    of.gpus.set(each);
    (gpus, used)
}

/// Runs on a thread that may block: a driver that is busy keeps its callers waiting. After a panic
/// no GPU is sampled any more.
async fn aside<T: Send + 'static>(
    gpus: Option<Gpus>,
    work: impl FnOnce(&mut Gpus) -> T + Send + 'static,
) -> Option<(Gpus, T)> {
    let mut gpus = gpus?;
    let done = tokio::task::spawn_blocking(move || {
        let made = work(&mut gpus);
        (gpus, made)
    });
    match done.await {
        Ok(done) => Some(done),
        Err(error) => {
            tracing::error!(%error, "GPUs are not sampled any more");
            None
        }
    }
}
