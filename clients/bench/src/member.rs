//! One client of a crew: a thread with a session of its own.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use ferry_client::blocking::{Client, Session};
use ferry_client::{BoundTensor, Error, Reply};
use ferry_core::error_text;

use crate::crew::Load;
use crate::summary::Tally;
use crate::work::{Shapes, Work};

/// Errors in a row after which a client gives up: the cause will not go away.
const ERRORS_IN_A_ROW_MAX: u64 = 1000;

/// How long a client goes on with nothing but errors: a server that is gone costs seconds with
/// each of them.
const ERRORS_FOR_MAX: Duration = Duration::from_secs(10);

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

/// What the thread owns.
pub(crate) struct Member {
    session: Session,
    work: Arc<Work>,
    source: Vec<Vec<u8>>,
    window: u32,
    /// Of the first reply.
    outputs: Shapes,
}

impl Member {
    /// Opens the session.
    pub(crate) fn open(
        client: &Client,
        load: &Load,
        work: &Arc<Work>,
        tally: &Arc<Tally>,
    ) -> Result<Member, Error> {
        let observer = Arc::clone(tally) as Arc<dyn ferry_client::RecordSink>;
        let builder = client
            .session(&work.model)
            .transport(load.transport)
            .wait(load.wait)
            .slots(load.window)
            .run(load.run_id)
            .record(load.record)
            .warmup(load.warmup)
            .observer(observer);
        let builder = match load.place {
            Some(place) => builder.place(place),
            None => builder,
        };
        let mut session = work.ask(builder).open()?;
        let inputs = session.agreed().signature.inputs.len();
        let mut slot = session.slot()?;
        let source = work.source(&mut slot, inputs)?;
        drop(slot);
        let (work, window) = (Arc::clone(work), load.window);
        Ok(Member { session, work, source, window, outputs: Shapes::new() })
    }

    /// Name and shape of the inputs that the session agreed on.
    pub(crate) fn inputs(&self) -> Shapes {
        let inputs = self.session.agreed().signature.inputs.iter();
        inputs.map(|tensor| (tensor.name.clone(), tensor.shape.clone())).collect()
    }

    /// Serves rounds until there are none; the first one is the warm-up.
    pub(crate) fn serve(mut self, go: &Receiver<u64>, done: &SyncSender<Round>) {
        while let Ok(requests) = go.recv() {
            if done.send(self.round(requests)).is_err() {
                break;
            }
        }
        if let Err(error) = self.session.close() {
            // The run's own count of lost timings tells what this cost.
            tracing::debug!(%error, "close");
        }
    }

    fn round(&mut self, requests: u64) -> Round {
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
        while round.done + round.errors < requests
            && in_a_row < ERRORS_IN_A_ROW_MAX
            && (in_a_row == 0 || last_good.elapsed() < ERRORS_FOR_MAX)
        {
            let ended =
                if self.window == 1 { self.one() } else { self.windowed(&mut sent, requests) };
            match ended {
                Ok(()) => {
                    round.done += 1;
                    (in_a_row, last_good) = (0, Instant::now());
                }
                Err(error) => {
                    round.errors += 1;
                    in_a_row += 1;
                    round.first_error.get_or_insert_with(|| error_text(&error));
                }
            }
        }
        round.ended = Instant::now();
        round.outputs.clone_from(&self.outputs);
        round
    }

    /// What the model made of it is known by the first reply.
    fn look(&mut self, reply: &Reply) {
        if self.outputs.is_empty() {
            let outputs = self.session.agreed().signature.outputs.iter().enumerate();
            let shape =
                |index, tensor: &BoundTensor| reply.shape(index).unwrap_or(&tensor.shape).to_vec();
            self.outputs =
                outputs.map(|(at, tensor)| (tensor.name.clone(), shape(at, tensor))).collect();
        }
    }

    fn one(&mut self) -> Result<(), Error> {
        let mut slot = self.session.slot()?;
        self.work.fill(&mut slot, &self.source)?;
        let reply = self.session.infer(slot)?;
        self.look(&reply);
        Ok(())
    }

    /// Keeps the window full, and takes one reply.
    fn windowed(&mut self, sent: &mut u64, requests: u64) -> Result<(), Error> {
        while *sent < requests
            && let Some(mut slot) = self.session.try_slot()?
        {
            self.work.fill(&mut slot, &self.source)?;
            *sent += 1;
            self.session.submit(slot)?;
        }
        match self.session.next_reply() {
            Some(reply) => {
                self.look(&reply?);
                Ok(())
            }
            None => Err(Error::LinkLost(ferry_client::LinkError::Closed)),
        }
    }
}
