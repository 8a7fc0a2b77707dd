//! The clients of one transport, and what they measured.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow};
use ferry_client::blocking::Client;
use ferry_client::{RecordCounts, SlotPlace, Transport, WaitPolicy};

use crate::Error;
use crate::inside;
use crate::member::{Member, Round};
use crate::summary::{Summary, Tally};
use crate::work::{Shapes, Work};

/// A transport, and where its slots lie if that was asked for.
pub type Way = (Transport, Option<SlotPlace>);

/// How a way is called in tables and runs.
pub fn label((transport, place): Way) -> String {
    place.map_or_else(|| transport.to_string(), |place| format!("{transport}/{place}"))
}

/// What a crew does.
#[derive(Clone, Debug)]
pub struct Load {
    /// The transport.
    pub transport: Transport,
    /// The server's choice if not said.
    pub place: Option<SlotPlace>,
    /// The run under which requests are recorded.
    pub run_id: i64,
    /// Clients at once.
    pub clients: u32,
    /// Requests that one client has in flight.
    pub window: u32,
    /// How both ends wait.
    pub wait: WaitPolicy,
    /// Requests of each client before anything is measured.
    pub warmup: u64,
    /// Whether the timings are stored.
    pub record: bool,
}

impl Load {
    /// How it is called in tables.
    pub fn label(&self) -> String {
        label((self.transport, self.place))
    }
}

/// What a crew measured.
#[derive(Debug)]
pub struct Outcome {
    /// What was done.
    pub load: Load,
    /// With this model.
    pub model: String,
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
    /// What became of the timings, by the client's count; `None` where the server recorded them.
    pub recorded: Option<RecordCounts>,
    /// Timings that the server could not store, by its own count; not known where it is gone.
    pub lost: Option<u64>,
}

/// The clients of one transport: threads that wait for their rounds.
#[derive(Debug)]
pub struct Crew {
    outcome: Outcome,
    client: Client,
    work: Arc<Work>,
    hands: Vec<Hand>,
}

#[derive(Debug)]
struct Hand {
    go: SyncSender<u64>,
    done: Receiver<Round>,
    tally: Arc<Tally>,
    thread: JoinHandle<()>,
}

impl Crew {
    /// Opens every session, and warms them up.
    ///
    /// # Errors
    /// Why a session was not opened, or the first request that failed.
    pub fn gather(client: &Client, load: Load, work: Arc<Work>) -> Result<Crew, Error> {
        let outcome = Outcome {
            model: work.model.clone(),
            inputs: work.inputs.clone(),
            outputs: Vec::new(),
            requests: 0,
            errors: 0,
            first_error: None,
            lasted: Duration::ZERO,
            summary: Summary::new(),
            recorded: None,
            lost: None,
            load,
        };
        let mut crew = Crew { outcome, client: client.clone(), work, hands: Vec::new() };
        if crew.is_inside() {
            return Ok(crew);
        }
        for number in 0..crew.outcome.load.clients {
            let hand = crew.hand(number)?;
            crew.hands.push(hand);
        }
        if crew.outcome.load.warmup > 0 {
            let warm_up = crew.all(crew.outcome.load.warmup)?;
            if let Some(error) = warm_up.into_iter().find_map(|round| round.first_error) {
                return Err(Error::Requests { failed: 1, first: format!("warm-up: {error}") });
            }
        }
        Ok(crew)
    }

    /// `local` is driven inside the server.
    fn is_inside(&self) -> bool {
        self.outcome.load.transport == Transport::Local
    }

    fn hand(&mut self, number: u32) -> Result<Hand, Error> {
        let (go, rounds) = sync_channel(1);
        let (answers, done) = sync_channel(1);
        let tally = Arc::new(Tally::new());
        let member = Member::open(&self.client, &self.outcome.load, &self.work, &tally)?;
        self.outcome.inputs = member.inputs();
        let thread = std::thread::Builder::new()
            .name(format!("bench-{number}"))
            .spawn(move || member.serve(&rounds, &answers))
            .context("start a client's thread")?;
        Ok(Hand { go, done, tally, thread })
    }

    /// Sends all clients into a round and waits for all.
    fn all(&self, requests: u64) -> Result<Vec<Round>, Error> {
        let died = || Error::Failed(anyhow!("a client's thread died"));
        for hand in &self.hands {
            hand.go.send(requests).map_err(|_died| died())?;
        }
        self.hands.iter().map(|hand| hand.done.recv().map_err(|_died| died())).collect()
    }

    /// One round of `requests` requests per client.
    ///
    /// # Errors
    /// What keeps a client from going on; requests that fail are counted.
    pub fn round(&mut self, requests: u64) -> Result<(), Error> {
        if self.is_inside() {
            let (client, work) = (&self.client, &self.work);
            return inside::round(client, work, requests, &mut self.outcome);
        }
        let rounds = self.all(requests)?;
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
        Ok(())
    }

    /// Closes the sessions, and gives everything that was measured.
    ///
    /// # Errors
    /// If a client died.
    pub fn finish(mut self) -> Result<Outcome, Error> {
        let hands = std::mem::take(&mut self.hands);
        for Hand { go, done, tally, thread } in hands {
            drop((go, done));
            thread.join().map_err(|_panic| Error::Failed(anyhow!("a client's thread died")))?;
            self.outcome.summary.merge(&tally.take());
        }
        if !self.is_inside() {
            self.outcome.recorded = Some(self.client.flush());
        }
        Ok(self.outcome)
    }
}
