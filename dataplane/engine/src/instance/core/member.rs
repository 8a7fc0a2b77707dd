//! A request in the hands of an instance, before an engine has it.

use std::sync::Arc;

use ferry_core::{BoundSignature, MemoryChoice};

use crate::clock::StageClock;
use crate::guard::ArrivalGuard;
use crate::queue::Work;

/// A request that is answered even if it is lost, and how long it took so far.
#[derive(Debug)]
pub(crate) struct Member {
    pub(super) guard: ArrivalGuard,
    pub(super) binding: Arc<BoundSignature>,
    pub(super) memory: MemoryChoice,
    pub(super) clock: StageClock,
}

impl Member {
    /// A request that was taken; `clock` has timed it until now.
    pub(crate) fn new(work: Work, clock: StageClock) -> Member {
        let Work { arrival, binding, memory, reply_to, .. } = work;
        let guard = ArrivalGuard::new(arrival, reply_to, clock.times());
        Member { guard, binding, memory, clock }
    }
}
