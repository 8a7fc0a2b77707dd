//! Sleeping until the device or somebody else has something.

use std::sync::Arc;
use std::time::Duration;

use ferry_core::LinkKind;
use ferry_transport::Capabilities;
use ferry_transport::event::EventWaker;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::verbs::{CompletionQueue, Device};

/// What the link can do.
pub(crate) const CAPABILITIES: Capabilities = Capabilities {
    kind: LinkKind::Rdma,
    one_sided: true,
    reports_completion: true,
    carries_frames: true,
    threads: 2,
};

/// What ended a sleep.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Woken {
    /// Somebody used the waker.
    pub(crate) waker: bool,
    /// A completion was announced.
    queue: bool,
    /// The device has an event.
    pub(crate) device: bool,
}

impl Woken {
    /// Nobody did: the time was over.
    pub(crate) fn is_late(self) -> bool {
        !(self.waker || self.queue || self.device)
    }
}

/// Sleeps until a completion is announced, the device has an event, the waker is used or the time
/// is over. The queue has been armed, and polled since.
pub(crate) fn sleep(
    waker: &Arc<EventWaker>,
    queue: &CompletionQueue,
    device: &Device,
    at_most: Duration,
) -> Woken {
    let mut doors = [
        PollFd::new(&**waker, PollFlags::IN),
        PollFd::new(queue, PollFlags::IN),
        PollFd::new(device, PollFlags::IN),
    ];
    // A time too long to be written down is as good as for ever; a signal only wakes early.
    let _early = poll(&mut doors, Timespec::try_from(at_most).ok().as_ref());
    let rang = |at: usize| doors[at].revents().contains(PollFlags::IN);
    let woken = Woken { waker: rang(0), queue: rang(1), device: rang(2) };
    if woken.queue {
        queue.hush();
    }
    woken
}
