//! The clients of one transport, and what they measured.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow};
use ferry_client::blocking::Client;
use ferry_client::{RecordCounts, SlotPlace, Transport, WaitPolicy};

use super::inside;
use super::member::{Member, Round};
use super::summary::{Summary, Tally};
use super::work::Work;
use crate::args::BenchArgs;
use crate::failure::Failure;

/// A transport, and where its slots lie if that was asked for.
pub(crate) type Way = (Transport, Option<SlotPlace>);

/// How a way is called in tables and runs.
pub(crate) fn label((transport, place): Way) -> String {
    place.map_or_else(|| transport.to_string(), |place| format!("{transport}/{place}"))
}

/// What a crew does.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) transport: Transport,
    /// The server's choice if not said.
    pub(crate) place: Option<SlotPlace>,
    pub(crate) run_id: i64,
    pub(crate) clients: u32,
    pub(crate) window: u32,
    pub(crate) wait: WaitPolicy,
    pub(crate) warmup: u64,
    pub(crate) record: bool,
}

impl Load {
    pub(crate) fn from_args(args: &BenchArgs, way: Way, run_id: i64) -> Load {
        let (transport, place) = way;
        Load {
            transport,
            place,
            run_id,
            clients: args.clients,
            window: args.window,
            wait: args.wait,
            warmup: args.warmup,
            record: !args.no_record,
        }
    }
}

impl Load {
    /// How it is called in tables.
    pub(crate) fn label(&self) -> String {
        label((self.transport, self.place))
    }
}

/// What a crew measured.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) load: Load,
    pub(crate) model: String,
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    /// First start to last end of every round, added up.
    pub(crate) lasted: Duration,
    pub(crate) summary: Summary,
    pub(crate) recorded: Option<RecordCounts>,
}

/// The clients of one transport: threads that wait for their rounds.
pub(crate) struct Crew {
    outcome: Outcome,
    client: Client,
    work: Arc<Work>,
    hands: Vec<Hand>,
}

struct Hand {
    go: SyncSender<u64>,
    done: Receiver<Round>,
    tally: Arc<Tally>,
    thread: JoinHandle<()>,
}

impl Crew {
    /// Opens every session, and warms them up.
    pub(crate) fn gather(client: &Client, load: Load, work: Arc<Work>) -> Result<Crew, Failure> {
        let outcome = Outcome {
            model: work.model.clone(),
            requests: 0,
            errors: 0,
            first_error: None,
            lasted: Duration::ZERO,
            summary: Summary::new(),
            recorded: None,
            load,
        };
        let mut crew = Crew { outcome, client: client.clone(), work, hands: Vec::new() };
        if crew.is_inside() {
            return Ok(crew);
        }
        for number in 0..crew.outcome.load.clients {
            crew.hands.push(crew.hand(number)?);
        }
        if crew.outcome.load.warmup > 0 {
            let warm_up = crew.all(crew.outcome.load.warmup)?;
            if let Some(error) = warm_up.into_iter().find_map(|round| round.first_error) {
                return Err(Failure::Requests { failed: 1, first: format!("warm-up: {error}") });
            }
        }
        Ok(crew)
    }

    /// `local` is driven inside the server.
    fn is_inside(&self) -> bool {
        self.outcome.load.transport == Transport::Local
    }

    fn hand(&self, number: u32) -> Result<Hand, Failure> {
        let (go, rounds) = sync_channel(1);
        let (answers, done) = sync_channel(1);
        let tally = Arc::new(Tally::new());
        let member = Member::open(&self.client, &self.outcome.load, &self.work, &tally)?;
        let thread = std::thread::Builder::new()
            .name(format!("bench-{number}"))
            .spawn(move || member.serve(&rounds, &answers))
            .context("start a client's thread")?;
        Ok(Hand { go, done, tally, thread })
    }

    /// Sends all clients into a round and waits for all.
    fn all(&self, requests: u64) -> Result<Vec<Round>, Failure> {
        let died = || Failure::Failed(anyhow!("a client's thread died"));
        for hand in &self.hands {
            hand.go.send(requests).map_err(|_died| died())?;
        }
        self.hands.iter().map(|hand| hand.done.recv().map_err(|_died| died())).collect()
    }

    /// One round of `requests` requests per client.
    pub(crate) fn round(&mut self, requests: u64) -> Result<(), Failure> {
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
            if self.outcome.first_error.is_none() {
                self.outcome.first_error = round.first_error;
            }
        }
        Ok(())
    }

    /// Closes the sessions, and gives everything that was measured.
    pub(crate) fn finish(mut self) -> Result<Outcome, Failure> {
        let hands = std::mem::take(&mut self.hands);
        for Hand { go, done, tally, thread } in hands {
            drop((go, done));
            thread.join().map_err(|_panic| Failure::Failed(anyhow!("a client's thread died")))?;
            self.outcome.summary.merge(&tally.take());
        }
        if !self.is_inside() {
            self.outcome.recorded = Some(self.client.flush());
        }
        Ok(self.outcome)
    }
}
