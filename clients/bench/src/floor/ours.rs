//! Our side: a session on the model `echo`.

use std::sync::Arc;

use anyhow::anyhow;
use ferry_client::blocking::{Client, Session};
use ferry_client::{RecordSink, Transport, WaitPolicy};

use super::pair::Plan;
use crate::Error;
use crate::work::pattern;

#[derive(Debug)]
pub(super) struct Ours {
    session: Session,
    source: Vec<u8>,
}

impl Ours {
    /// Opens a session whose requests are recorded, and seen by `sink`.
    pub(super) fn open(
        client: &Client,
        plan: &Plan,
        transport: Transport,
        wait: WaitPolicy,
        sink: Arc<dyn RecordSink>,
    ) -> Result<Ours, Error> {
        let builder = client
            .session("echo")
            .transport(transport)
            .wait(wait)
            .slots(1)
            .shape("input", &[plan.in_bytes as u64])
            .shape("output", &[plan.out_bytes as u64])
            .observer(sink);
        let source = pattern(plan.in_bytes);
        let mut ours = Ours { session: builder.open()?, source };
        ours.check()?;
        Ok(ours)
    }

    /// One request, as an application makes it.
    pub(super) fn once(&mut self) -> Result<(), Error> {
        let mut slot = self.session.slot()?;
        slot.input_mut(0)?.copy_from_slice(&self.source);
        let reply = self.session.infer(slot)?;
        std::hint::black_box(reply.payload());
        Ok(())
    }

    /// That the reply is what it should be, once and outside the time.
    fn check(&mut self) -> Result<(), Error> {
        let mut slot = self.session.slot()?;
        slot.input_mut(0)?.copy_from_slice(&self.source);
        let reply = self.session.infer(slot)?;
        let output = reply.output(0)?;
        let expected = self.source.iter().cycle().take(output.len());
        if output.iter().eq(expected) {
            Ok(())
        } else {
            Err(Error::Failed(anyhow!("the reply is not the echo of the request")))
        }
    }

    pub(super) fn close(self) -> Result<(), Error> {
        self.session.close()?;
        Ok(())
    }
}
