//! A client that sends its requests through a session of its own.

use std::sync::Arc;

use ferry_client::blocking::{Client, Session};
use ferry_client::{BoundTensor, Error, Reply, SlotPlace, Transport};
use ferry_core::error_text;

use crate::crew::Load;
use crate::member::Caller;
use crate::summary::Tally;
use crate::work::{Shapes, Work};

/// The session, and what goes into its slots.
pub(crate) struct SessionCaller {
    session: Session,
    work: Arc<Work>,
    source: Vec<Vec<u8>>,
    window: u32,
    /// Of the first reply.
    outputs: Shapes,
}

impl SessionCaller {
    /// Opens the session.
    pub(crate) fn open(
        client: &Client,
        load: &Load,
        (transport, place): (Transport, Option<SlotPlace>),
        work: &Arc<Work>,
        tally: &Arc<Tally>,
    ) -> Result<SessionCaller, Error> {
        let observer = Arc::clone(tally) as Arc<dyn ferry_client::RecordSink>;
        let builder = client
            .session(&work.model)
            .transport(transport)
            .wait(load.wait)
            .slots(load.window)
            .run(load.run_id.unwrap_or_default())
            .record(load.record)
            .warmup(load.warmup)
            .observer(observer);
        let builder = match place {
            Some(place) => builder.place(place),
            None => builder,
        };
        let mut session = work.ask(builder).open()?;
        let inputs = session.agreed().signature.inputs.len();
        let mut slot = session.slot()?;
        let source = work.source(&mut slot, inputs)?;
        drop(slot);
        let (work, window) = (Arc::clone(work), load.window);
        Ok(SessionCaller { session, work, source, window, outputs: Shapes::new() })
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

    /// Keeps the window full.
    fn send(&mut self, more: &mut dyn FnMut() -> bool) -> Result<(), Error> {
        while let Some(mut slot) = self.session.try_slot()?
            && more()
        {
            self.work.fill(&mut slot, &self.source)?;
            self.session.submit(slot)?;
        }
        Ok(())
    }

    fn windowed(&mut self, more: &mut dyn FnMut() -> bool) -> Option<Result<(), Error>> {
        let sent = self.send(more);
        if sent.is_err() {
            return Some(sent);
        }
        let reply = self.session.next_reply()?;
        Some(reply.map(|reply| self.look(&reply)))
    }
}

impl Caller for SessionCaller {
    fn next(&mut self, more: &mut dyn FnMut() -> bool) -> Option<Result<(), String>> {
        let ended = match self.window {
            1 => more().then(|| self.one()),
            _ => self.windowed(more),
        };
        ended.map(|ended| ended.map_err(|error| error_text(&error)))
    }

    fn inputs(&self) -> Shapes {
        let inputs = self.session.agreed().signature.inputs.iter();
        inputs.map(|tensor| (tensor.name.clone(), tensor.shape.clone())).collect()
    }

    fn outputs(&self) -> Shapes {
        self.outputs.clone()
    }

    fn close(self: Box<Self>) {
        if let Err(error) = self.session.close() {
            // The run's own count of lost timings tells what this cost.
            tracing::debug!(%error, "close");
        }
    }
}
