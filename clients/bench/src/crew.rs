//! The clients of one way, and what they measured.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow};
use ferry_client::blocking::Client;
use ferry_client::{RecordCounts, Stage, WaitPolicy};

use crate::Error;
use crate::floor::quantiles;
use crate::inside;
use crate::member::{self, Caller, Extent, Round};
use crate::oip::{Carrier, OipCaller, OipWork, Region};
use crate::session_caller::SessionCaller;
use crate::stop::Stop;
use crate::summary::{Summary, Tally};
use crate::way::Way;
use crate::work::Shapes;

/// What a crew does.
#[derive(Clone, Debug)]
pub struct Load {
    /// How, and what is sent.
    pub way: Way,
    /// The run under which requests are recorded; none where the server records them under its own.
    pub run_id: Option<i64>,
    /// Clients at once.
    pub clients: u32,
    /// Requests that one client has in flight.
    pub window: u32,
    /// How both ends of a session wait.
    pub wait: WaitPolicy,
    /// Requests of each client before anything is measured.
    pub warmup: u64,
    /// Whether the timings are stored.
    pub record: bool,
}

/// What a crew measured.
#[derive(Debug)]
pub struct Outcome {
    /// What was done.
    pub load: Load,
    /// Every input.
    pub inputs: Shapes,
    /// Every output, as the first reply had it; none over `local`, where no reply comes this far.
    pub outputs: Shapes,
    /// Requests that were answered.
    pub requests: u64,
    /// Those that were not.
    pub errors: u64,
    /// Why the first of these was not.
    pub first_error: Option<String>,
    /// First start to last end of every round, added up.
    pub lasted: Duration,
    /// The timings of the requests.
    pub summary: Summary,
    /// The median of each round's totals, in nanoseconds; `None` for a round without any.
    pub round_p50: Vec<Option<u64>>,
    /// What became of the timings, by the client's count; `None` where the server recorded them.
    pub recorded: Option<RecordCounts>,
    /// Timings that the server could not store, by its own count; not known where it is gone.
    pub lost: Option<u64>,
}

/// Smallest, median and largest ratio of the medians of two ways, round by round; `None` where no
/// round has both.
pub fn round_ratios(of: &Outcome, to: &Outcome) -> Option<[f64; 3]> {
    let rounds = of.round_p50.iter().zip(&to.round_p50);
    let ratios: Vec<f64> =
        rounds.filter_map(|(of, to)| Some((*of)? as f64 / (*to)?.max(1) as f64)).collect();
    (!ratios.is_empty()).then(|| quantiles(ratios, [0, 50, 100]))
}

/// The clients of one way: threads that wait for their rounds.
#[derive(Debug)]
pub struct Crew {
    outcome: Outcome,
    client: Client,
    hands: Vec<Hand>,
    /// What the clients share with the server. Given back when it is dropped.
    region: Option<Arc<Region>>,
}

#[derive(Debug)]
struct Hand {
    /// `None` once it is to end.
    go: Option<SyncSender<Extent>>,
    done: Receiver<Round>,
    tally: Arc<Tally>,
    thread: Option<JoinHandle<()>>,
}

impl Hand {
    fn died() -> Error {
        Error::Failed(anyhow!("a client's thread died"))
    }

    fn send(&self, extent: Extent) -> Result<(), Error> {
        let go = self.go.as_ref().ok_or_else(Hand::died)?;
        go.send(extent).map_err(|_died| Hand::died())
    }

    /// Waits until its client is closed: what it shares with the server is given back then.
    fn end(&mut self) -> Result<(), Error> {
        self.go = None;
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_panic| Hand::died())
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        // Whoever wants to know whether it died asks `end`.
        drop(self.end());
    }
}

impl Crew {
    /// Opens every client, and warms them up.
    ///
    /// # Errors
    /// Why a client was not opened, or the first request that failed.
    pub fn gather(client: &Client, load: Load, stop: &Stop) -> Result<Crew, Error> {
        let outcome = Outcome {
            inputs: Shapes::new(),
            outputs: Shapes::new(),
            requests: 0,
            errors: 0,
            first_error: None,
            lasted: Duration::ZERO,
            summary: Summary::new(),
            round_p50: Vec::new(),
            recorded: None,
            lost: None,
            load,
        };
        let mut crew = Crew { outcome, client: client.clone(), hands: Vec::new(), region: None };
        let Load { way, clients, window, .. } = &crew.outcome.load;
        if let Way::Session { work, .. } = way {
            crew.outcome.inputs.clone_from(&work.inputs);
        }
        if way.is_inside() {
            return Ok(crew);
        }
        if let Way::Oip { carrier: Carrier::Shm, work } = way {
            let region = Region::share(client, work, u64::from(*clients) * u64::from(*window))?;
            crew.region = Some(Arc::new(region));
        }
        for number in 0..crew.outcome.load.clients {
            let hand = crew.hand(number, stop)?;
            crew.hands.push(hand);
        }
        crew.warm_up()?;
        Ok(crew)
    }

    fn warm_up(&self) -> Result<(), Error> {
        if self.outcome.load.warmup == 0 {
            return Ok(());
        }
        let rounds = self.all(Extent::Requests(self.outcome.load.warmup))?;
        if let Some(error) = rounds.into_iter().find_map(|round| round.first_error) {
            return Err(Error::Requests { failed: 1, first: format!("warm-up: {error}") });
        }
        // A session keeps these back by itself.
        self.hands.iter().for_each(|hand| drop(hand.tally.take()));
        Ok(())
    }

    fn hand(&mut self, number: u32, stop: &Stop) -> Result<Hand, Error> {
        let (go, rounds) = sync_channel(1);
        let (answers, done) = sync_channel(1);
        let tally = Arc::new(Tally::new());
        let caller = self.caller(number, &tally)?;
        self.outcome.inputs = caller.inputs();
        let stop = stop.clone();
        let thread = std::thread::Builder::new()
            .name(format!("bench-{number}"))
            .spawn(move || member::serve(caller, &stop, &rounds, &answers))
            .context("start a client's thread")?;
        Ok(Hand { go: Some(go), done, tally, thread: Some(thread) })
    }

    fn caller(&self, number: u32, tally: &Arc<Tally>) -> Result<Box<dyn Caller>, Error> {
        let load = &self.outcome.load;
        Ok(match &load.way {
            Way::Session { transport, place, work } => {
                let way = (*transport, *place);
                Box::new(SessionCaller::open(&self.client, load, way, work, tally)?)
            }
            Way::Oip { work, .. } => Box::new(self.oip_caller(number, work, tally)?),
        })
    }

    fn oip_caller(
        &self,
        number: u32,
        work: &Arc<OipWork>,
        tally: &Arc<Tally>,
    ) -> Result<OipCaller, Error> {
        let window = self.outcome.load.window;
        let first = u64::from(number) * u64::from(window);
        let region = self.region.as_ref().map(|region| (Arc::clone(region), first));
        OipCaller::open(&self.client, work, window, region, Arc::clone(tally))
    }

    /// Sends all clients into a round and waits for all.
    fn all(&self, extent: Extent) -> Result<Vec<Round>, Error> {
        self.hands.iter().try_for_each(|hand| hand.send(extent))?;
        self.hands.iter().map(|hand| hand.done.recv().map_err(|_died| Hand::died())).collect()
    }

    /// One round of every client.
    ///
    /// # Errors
    /// What keeps a client from going on; requests that fail are counted. Over `local`,
    /// [`Error::Usage`] for a round that is not so many requests.
    pub fn round(&mut self, extent: Extent) -> Result<(), Error> {
        let mut summary = Summary::new();
        if let Way::Session { work, .. } = &self.outcome.load.way
            && self.outcome.load.way.is_inside()
        {
            let work = Arc::clone(work);
            inside::round(&self.client, &work, extent, &mut self.outcome, &mut summary)?;
        } else {
            let rounds = self.all(extent)?;
            self.count(rounds);
            self.hands.iter().for_each(|hand| summary.merge(&hand.tally.take()));
        }
        let total = summary.of(Stage::Total);
        let median = (total.count() > 0).then(|| total.quantile(0.5));
        self.outcome.round_p50.push(median);
        self.outcome.summary.merge(&summary);
        Ok(())
    }

    fn count(&mut self, rounds: Vec<Round>) {
        let started = rounds.iter().map(|round| round.started).min();
        let ended = rounds.iter().map(|round| round.ended).max();
        if let (Some(started), Some(ended)) = (started, ended) {
            self.outcome.lasted += ended.duration_since(started);
        }
        for round in rounds {
            self.outcome.requests += round.done;
            self.outcome.errors += round.errors;
            if self.outcome.outputs.is_empty() {
                self.outcome.outputs = round.outputs;
            }
            if self.outcome.first_error.is_none() {
                self.outcome.first_error = round.first_error;
            }
        }
    }

    /// What its rounds have measured so far.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Ends the clients, and gives everything that was measured.
    ///
    /// # Errors
    /// If a client died.
    pub fn finish(mut self) -> Result<Outcome, Error> {
        for hand in &mut self.hands {
            hand.end()?;
            // A session holds its last record back until it is closed.
            self.outcome.summary.merge(&hand.tally.take());
        }
        let is_reported = self.outcome.load.run_id.is_some() && !self.outcome.load.way.is_inside();
        self.outcome.recorded = is_reported.then(|| self.client.flush());
        Ok(self.outcome)
    }
}
