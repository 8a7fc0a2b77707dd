//! Two queue pairs of one port that are connected to each other: what a device does with memory is
//! found out by trying.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{Gid, Retry};
use ferry_transport::LinkError;

use crate::port::{Port, random_psn};
use crate::verbs::{CompletionQueue, CompletionStatus, Depth, Domain, QueuePair, Rts, Write};

/// How long one step may take: three orders of magnitude above what a slow device needs.
const STEP: Duration = Duration::from_secs(5);

/// Most writes of one trial.
pub(crate) const WRITES_MAX: u32 = 4;

/// A pair.
#[derive(Debug)]
pub(crate) struct Loopback {
    queue: Arc<CompletionQueue>,
    /// Receives.
    pub(crate) target: QueuePair<Rts>,
    writer: QueuePair<Rts>,
}

impl Loopback {
    /// A pair in a domain of the port's device, good for [`WRITES_MAX`] writes.
    ///
    /// # Errors
    /// [`LinkError`] if the port has no address, or the device refuses.
    pub(crate) fn new(port: &Port, domain: &Arc<Domain>) -> Result<Loopback, LinkError> {
        let queue = CompletionQueue::new(port.device(), 4 * WRITES_MAX)?;
        let depth = Depth { send: WRITES_MAX, receive: WRITES_MAX, inline_bytes: 0 };
        let new = || -> Result<_, LinkError> {
            let pair = QueuePair::new(domain, &queue, depth)?.init(port.number)?;
            pair.receive(0, depth.receive)?;
            Ok((pair, random_psn()?))
        };
        let ((target, target_psn), (writer, writer_psn)) = (new()?, new()?);
        let addresses = port.addresses(None);
        let (_, own) = addresses.first().ok_or_else(|| {
            LinkError::os(
                "find an address",
                "the port has no usable GID: give its network device an address",
            )
        })?;
        let to = |number, psn| {
            let gids: [Gid; 1] = [own.gid];
            port.path(own, &port.end(number, psn, &gids), own.gid, Retry::default())
        };
        let (to_writer, to_target) =
            (to(writer.number(), writer_psn), to(target.number(), target_psn));
        let target = target.ready_to_receive(&to_writer)?.ready_to_send(&to_writer, target_psn)?;
        let writer = writer.ready_to_receive(&to_target)?.ready_to_send(&to_target, writer_psn)?;
        Ok(Loopback { queue, target, writer })
    }

    /// Writes to the target's end; how it ended. The write's number is not 0.
    ///
    /// # Errors
    /// [`LinkError`] if the device does not answer.
    pub(crate) fn write(&self, write: &Write<'_>) -> Result<CompletionStatus, LinkError> {
        self.writer.write(write)?;
        self.wait(write.id)
    }

    /// Polls until the work request is complete.
    ///
    /// # Errors
    /// [`LinkError`] if the device does not answer.
    pub(crate) fn wait(&self, id: u64) -> Result<CompletionStatus, LinkError> {
        let until = Instant::now() + STEP;
        let mut completions = Vec::new();
        while Instant::now() < until {
            self.queue.poll(&mut completions)?;
            // Receives have the number 0.
            if let Some(done) = completions.iter().find(|done| done.id == id) {
                return Ok(done.status);
            }
            completions.clear();
            std::thread::yield_now();
        }
        Err(LinkError::os("wait for the device", "no completion in 5 s"))
    }
}
