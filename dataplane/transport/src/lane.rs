//! The server's thread that owns one listener: what arrives goes to a handler, what the handler
//! makes goes back.
//!
//! A ping is answered by the lane itself, with an empty payload: it measures the link and the
//! lane, and nothing behind them.

mod handle;
mod ids;
mod serve;
mod stats;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use ferry_core::{SessionId, WaitPolicy, panic_text};
use ferry_memory::{Arrival, Departure, PeerId};

use crate::admitted::Refusal;
use crate::link::{LinkError, Listener};
use crate::outbox::Outbox;
use handle::Shared;
use serve::Lane;

pub use handle::{ANSWER_MAX, Answer, LaneHandle};
pub use stats::LaneStats;

/// What the lane does with what arrives. Called on the lane's thread, which serves nobody else
/// meanwhile: a handler that takes long hands the request to another thread and lets the reply
/// come by the [`Outbox`].
pub trait Handler {
    /// Serves a request: the reply if it is ready at once, `None` if it comes by the outbox. Each
    /// arrival must depart exactly once; one that never does counts as in flight for ever.
    fn handle(&mut self, arrival: Arrival) -> Option<Departure>;

    /// A reply is about to be submitted: its accounts are closed.
    fn departs(&mut self, _departure: &Departure) {}

    /// A client proved that it owns the session.
    fn joined(&mut self, _peer: PeerId, _session: SessionId) {}

    /// A client is gone. Its session stays admitted until it is evicted.
    fn gone(&mut self, _peer: PeerId, _session: Option<SessionId>, _why: &LinkError) {}

    /// Something was refused. Also counted.
    fn refused(&mut self, _refusal: &Refusal) {}
}

/// How a lane works.
#[derive(Clone, Debug)]
pub struct LaneOptions {
    /// Of the thread; the system shows the first 15 bytes.
    pub name: String,
    /// The most eager way in which the lane may wait; otherwise it follows its most eager session.
    pub most_eager: WaitPolicy,
    /// Most requests with the handler at once; what comes on top is answered
    /// [`Overloaded`](ferry_core::Status::Overloaded). Also the room of the outbox, which can
    /// therefore not overflow.
    pub in_flight_max: usize,
}

impl Default for LaneOptions {
    /// Adaptive; 1,024 requests: 16 sessions with all 64 slots full, at some 400 bytes each.
    fn default() -> LaneOptions {
        LaneOptions {
            name: "ferry-lane".into(),
            most_eager: WaitPolicy::Adaptive,
            in_flight_max: 1024,
        }
    }
}

/// Why a lane does not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaneError {
    /// The thread could not be started.
    #[error("start the lane's thread: {0}")]
    Thread(String),
    /// The link could not be made.
    #[error("make the lane's link")]
    Link(#[from] LinkError),
    /// The lane was stopped.
    #[error("the lane was stopped; start another")]
    Stopped,
    /// The lane panicked. Its sessions are gone.
    #[error("the lane died, its sessions are gone: {cause}; start another and report the defect")]
    Dead {
        /// What the panic said.
        cause: String,
    },
    /// Too many commands wait for the lane.
    #[error("{0} commands wait for the lane already; try again later")]
    Busy(usize),
    /// The lane did not answer in time; a handler may hold it up.
    #[error("the lane did not answer within {0} s; look at what its handler does")]
    NoAnswer(u64),
}

/// What a lane is made of.
pub type LaneParts = (Box<dyn Listener>, Box<dyn Handler>);

/// Starts a lane. `make` runs on the lane's thread and makes the link and the handler, which gets
/// the outbox for replies that are not ready at once.
///
/// # Errors
/// [`LaneError::Thread`], or [`LaneError::Link`] with what `make` said.
pub fn spawn(
    options: LaneOptions,
    make: impl FnOnce(&Arc<Outbox>) -> Result<LaneParts, LinkError> + Send + 'static,
) -> Result<LaneHandle, LaneError> {
    let outbox = Arc::new(Outbox::new(options.in_flight_max));
    let shared = Arc::new(Shared::new(Arc::clone(&outbox)));
    let (started, is_started) = sync_channel(1);
    let (its, name) = (Arc::clone(&shared), options.name.clone());
    let thread = std::thread::Builder::new()
        .name(name)
        .spawn(move || {
            let ran = catch_unwind(AssertUnwindSafe(|| run(&options, &its, make, &started)));
            its.end(match ran {
                Ok(()) => LaneError::Stopped,
                Err(panic) => LaneError::Dead { cause: panic_text(&*panic) },
            });
        })
        .map_err(|error| LaneError::Thread(error.to_string()))?;
    match is_started.recv() {
        Ok(Ok(endpoint)) => Ok(LaneHandle::new(shared, thread, endpoint)),
        Ok(Err(why)) => {
            // It ends by itself after it has said so.
            drop(thread.join());
            Err(LaneError::Link(why))
        }
        Err(_) => {
            drop(thread.join());
            Err(shared.ended().unwrap_or(LaneError::Stopped))
        }
    }
}

type Started = SyncSender<Result<ferry_core::Endpoint, LinkError>>;

/// The body of the thread. Link and handler are dropped here, whatever happens.
fn run(
    options: &LaneOptions,
    shared: &Arc<Shared>,
    make: impl FnOnce(&Arc<Outbox>) -> Result<LaneParts, LinkError>,
    started: &Started,
) {
    let answer = match make(shared.outbox()) {
        Err(why) => {
            // The spawner waits for this one message; it has gone only if its thread died.
            drop(started.send(Err(why)));
            return;
        }
        Ok((link, handler)) => {
            shared.outbox().set_waker(link.waker());
            let endpoint = link.endpoint();
            (Lane::new(options, Arc::clone(shared), link, handler), endpoint)
        }
    };
    let (mut lane, endpoint) = answer;
    if started.send(Ok(endpoint)).is_ok() {
        lane.run();
    }
}
