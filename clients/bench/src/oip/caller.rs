//! A client of the protocol: a thread with a connection and a runtime of its own, so that nothing
//! hops to another thread.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use ferry_client::blocking::Client;
use ferry_client::{Stage, StageTimes};
use ferry_core::nanos;
use ferry_proto::oip::{ModelInferRequest, ModelInferResponse};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::runtime::Runtime;

use crate::Error;
use crate::member::Caller;
use crate::oip::{OipWork, Region, Service, service};
use crate::summary::Tally;
use crate::work::Shapes;

/// How long an answer may take: as long as a session of the SDK waits for one.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

pub(crate) struct OipCaller {
    service: Service,
    work: Arc<OipWork>,
    region: Option<Arc<Region>>,
    /// Places of requests that are not in flight.
    free: Vec<Place>,
    in_flight: FuturesUnordered<Flight>,
    tally: Arc<Tally>,
    has_answer: bool,
    /// Dropped last: the connection belongs to it.
    runtime: Runtime,
}

/// What one request in flight has for itself.
struct Place {
    /// Its number in the region.
    number: u64,
    /// Where its inputs lie between requests; empty while they are in a message, or in a region.
    inputs: Vec<Vec<u8>>,
    /// Ready to be sent but for inputs that go in the message.
    request: ModelInferRequest,
}

/// A request that was sent.
type Flight = Pin<Box<dyn Future<Output = Landed> + Send>>;

/// One that came back.
struct Landed {
    place: Place,
    /// The inputs that went in the message.
    sent: Vec<Bytes>,
    times: StageTimes,
    answer: Result<ModelInferResponse, String>,
}

impl OipCaller {
    /// Connects. `region` comes with the number of this client's first place in it.
    ///
    /// # Errors
    /// [`Error::Client`] if nobody answers; [`Error::Requests`] if the outputs in shared memory
    /// cannot be had.
    pub(crate) fn open(
        client: &Client,
        work: &Arc<OipWork>,
        window: u32,
        region: Option<(Arc<Region>, u64)>,
        tally: Arc<Tally>,
    ) -> Result<OipCaller, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start a client's runtime")?;
        let channel = runtime.block_on(client.control().new_channel())?;
        let first = region.as_ref().map_or(0, |(_, first)| *first);
        let region = region.map(|(region, _)| region);
        let place = |number| match &region {
            Some(region) => {
                Place { number, inputs: Vec::new(), request: region.request(work, number) }
            }
            None => Place { number, inputs: work.source.clone(), request: work.in_message() },
        };
        let free = (first..first + u64::from(window)).map(place).collect();
        let mut caller = OipCaller {
            service: service(channel),
            work: Arc::clone(work),
            region,
            free,
            in_flight: FuturesUnordered::new(),
            tally,
            has_answer: false,
            runtime,
        };
        caller.check(first)?;
        Ok(caller)
    }

    /// Sends one request; where its outputs lie in shared memory, looks whether they are there.
    fn check(&mut self, first: u64) -> Result<(), Error> {
        let mut once = 1;
        let mut more = || std::mem::take(&mut once) == 1;
        // The last free place is taken first.
        self.free.reverse();
        if let Some(Err(first)) = self.next(&mut more) {
            return Err(Error::Requests { failed: 1, first });
        }
        drop(self.tally.take());
        let Some(region) = &self.region else { return Ok(()) };
        if !region.has_outputs(&self.work, first)? {
            tracing::warn!(
                model = self.work.model,
                "the outputs in shared memory are not those that came in a message: a model that \
                 answers one request in two ways, or a server that does not write there"
            );
        }
        Ok(())
    }

    /// Fills the request's inputs where they are to lie, and sends it.
    fn send(&mut self, mut place: Place) -> Result<(), Error> {
        let began = Instant::now();
        let mut sent = Vec::new();
        if let Some(region) = &self.region {
            region.fill(&self.work, place.number)?;
        } else {
            for (input, source) in place.inputs.iter_mut().zip(&self.work.source) {
                input.copy_from_slice(source);
            }
            // Lent to the message and taken back: no allocation of this size for each request.
            sent = place.inputs.drain(..).map(Bytes::from).collect();
        }
        let mut request = place.request.clone();
        request.raw_input_contents.clone_from(&sent);
        let filled = Instant::now();
        let mut service = self.service.clone();
        self.in_flight.push(Box::pin(async move {
            let call = tokio::time::timeout(ANSWER_WITHIN, service.model_infer(request));
            let answer = match call.await {
                Ok(Ok(answer)) => Ok(answer.into_inner()),
                Ok(Err(status)) => Err(format!("{} ({:?})", status.message(), status.code())),
                Err(_elapsed) => Err(format!("no answer within {ANSWER_WITHIN:?}")),
            };
            let mut times = StageTimes::NONE;
            times.set(Stage::Fill, nanos(filled - began));
            times.set(Stage::Total, nanos(filled.elapsed()));
            Landed { place, sent, times, answer }
        }));
        Ok(())
    }

    fn land(&mut self, landed: Landed) -> Result<(), String> {
        let Landed { mut place, sent, times, answer } = landed;
        // Of a call that ended early the transport may still hold them: then this is a copy.
        place.inputs.extend(sent.into_iter().map(Vec::from));
        self.free.push(place);
        std::hint::black_box(answer?);
        self.has_answer = true;
        self.tally.add_times(&times);
        Ok(())
    }
}

impl Caller for OipCaller {
    fn next(&mut self, more: &mut dyn FnMut() -> bool) -> Option<Result<(), String>> {
        while !self.free.is_empty() && more() {
            let place = self.free.pop()?;
            if let Err(error) = self.send(place) {
                return Some(Err(format!("{error:#}")));
            }
        }
        let landed = self.runtime.block_on(self.in_flight.next())?;
        Some(self.land(landed))
    }

    fn inputs(&self) -> Shapes {
        self.work.input_shapes()
    }

    fn outputs(&self) -> Shapes {
        if self.has_answer { self.work.output_shapes() } else { Shapes::new() }
    }

    fn close(self: Box<Self>) {}
}
