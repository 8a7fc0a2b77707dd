//! One client of a crew: a thread that sends rounds of requests.

use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use crate::stop::Stop;
use crate::work::Shapes;

/// Errors in a row after which a client gives up: the cause will not go away.
const ERRORS_IN_A_ROW_MAX: u64 = 1000;

/// How long a client goes on with nothing but errors: a server that is gone costs seconds with
/// each of them.
const ERRORS_FOR_MAX: Duration = Duration::from_secs(10);

/// What became of a request that is in flight nowhere.
const LOST: &str = "the link is lost, and the reply with it";

/// How much a client does in one round.
#[derive(Clone, Copy, Debug)]
pub enum Extent {
    /// So many requests.
    Requests(u64),
    /// As many as it begins before then.
    Until(Instant),
}

impl Extent {
    /// Whether another request begins after `sent` of them.
    fn goes_on(self, sent: u64) -> bool {
        match self {
            Extent::Requests(all) => sent < all,
            Extent::Until(end) => Instant::now() < end,
        }
    }
}

/// What a client did in one round.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) started: Instant,
    pub(crate) ended: Instant,
    pub(crate) done: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    /// Name and shape of the outputs of the client's first reply; none where there was no reply.
    pub(crate) outputs: Shapes,
}

/// What a member sends requests with.
pub(crate) trait Caller: Send {
    /// Sends requests for as long as there is room and `more` says so, which counts them; then
    /// waits for the end of one: how it ended, or why one could not be sent. `None` if none is in
    /// flight.
    fn next(&mut self, more: &mut dyn FnMut() -> bool) -> Option<Result<(), String>>;

    /// Name and shape of the inputs.
    fn inputs(&self) -> Shapes;

    /// Name and shape of the outputs of the first reply.
    fn outputs(&self) -> Shapes;

    /// Ends it; nothing is in flight.
    fn close(self: Box<Self>);
}

/// Serves rounds until there are none; the first one is the warm-up.
pub(crate) fn serve(
    mut caller: Box<dyn Caller>,
    stop: &Stop,
    go: &Receiver<Extent>,
    done: &SyncSender<Round>,
) {
    while let Ok(extent) = go.recv() {
        if done.send(round(&mut *caller, stop, extent)).is_err() {
            break;
        }
    }
    caller.close();
}

fn round(caller: &mut dyn Caller, stop: &Stop, extent: Extent) -> Round {
    let started = Instant::now();
    let mut round = Round {
        started,
        ended: started,
        done: 0,
        errors: 0,
        first_error: None,
        outputs: Shapes::new(),
    };
    let (mut sent, mut in_a_row, mut last_good) = (0, 0, started);
    let goes_on = |sent| extent.goes_on(sent) && !stop.is_asked();
    while (round.done + round.errors < sent || goes_on(sent))
        && in_a_row < ERRORS_IN_A_ROW_MAX
        && (in_a_row == 0 || last_good.elapsed() < ERRORS_FOR_MAX)
    {
        let mut more = || {
            let more = goes_on(sent);
            sent += u64::from(more);
            more
        };
        let ended = caller.next(&mut more);
        let lost = || (sent > round.done + round.errors).then(|| Err(LOST.to_owned()));
        let Some(ended) = ended.or_else(lost) else { break };
        match ended {
            Ok(()) => {
                round.done += 1;
                (in_a_row, last_good) = (0, Instant::now());
            }
            Err(error) => {
                round.errors += 1;
                in_a_row += 1;
                // What could not even be sent is not sent again in its place.
                sent = sent.max(round.done + round.errors);
                round.first_error.get_or_insert(error);
            }
        }
    }
    round.ended = Instant::now();
    round.outputs = caller.outputs();
    round
}
