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

    /// The request, and what else is known of it.
    pub(super) fn apart(self) -> (ArrivalGuard, Rest) {
        let Member { guard, binding, memory, clock } = self;
        (guard, Rest { binding, memory, clock })
    }
}

/// A member without its request.
#[derive(Debug)]
pub(super) struct Rest {
    pub(super) binding: Arc<BoundSignature>,
    memory: MemoryChoice,
    clock: StageClock,
}

impl Rest {
    /// The member again.
    pub(super) fn with(self, guard: ArrivalGuard) -> Member {
        let Rest { binding, memory, clock } = self;
        Member { guard, binding, memory, clock }
    }
}
