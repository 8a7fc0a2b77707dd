//! The thread of one instance.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::clock::StageClock;
use crate::instance::{Core, Instance, Ready};
use crate::queue::{Queue, Queued};
use crate::shared::Shared;

/// Shortest sleep between two looks at jobs in flight: a timer is not finer.
const NAP_MIN: Duration = Duration::from_micros(20);

/// Longest sleep between two looks at jobs in flight.
const NAP_MAX: Duration = Duration::from_millis(1);

/// Serves until the pool drains, or until the instance is beyond repair.
pub(crate) fn run(shared: &Shared, instance: &Instance) {
    let _leaving = Leaving { shared, instance };
    loop {
        let slept = shared.queue.wait(&instance.attention);
        let mut core = instance.lock();
        instance.attention.store(false, Ordering::Release);
        if !serve(shared, instance, &mut core, slept) {
            core.close();
            return;
        }
    }
}

/// Serves until nothing waits and nothing is in flight; says whether the worker goes on. `slept`:
/// the thread comes from a sleep, so that the first request may be what it was woken for.
fn serve(shared: &Shared, instance: &Instance, core: &mut Core, mut slept: bool) -> bool {
    let (queue, counters) = (&shared.queue, &instance.counters);
    let mut pending = Pending::new();
    loop {
        if shared.is_abandoned() {
            core.discard(counters, "the pool was shut down and did not wait any longer");
            return false;
        }
        // Read first: behind a closed gate, an empty queue stays empty.
        let open = queue.is_open();
        if core.is_broken()
            && (open || queue.len() > 0)
            && !core.rebuild(shared.rebuild(), &shared.signature)
        {
            return false;
        }
        let work = if core.has_room() { queue.pop() } else { None };
        let started = work.is_some();
        if let Some(Queued { work, rung }) = work {
            let rung = rung.filter(|_| std::mem::take(&mut slept));
            let clock = StageClock::taken(work.arrival.visible, rung);
            if let Some(ready) = core.start(counters, work, clock) {
                ready.send();
            }
        }
        let finished = core.in_flight() > 0 && core.poll(counters, Ready::send);
        if started || finished {
            pending = Pending::new();
        } else if core.in_flight() > 0 {
            slept = pending.idle(queue, core.has_room());
        } else if queue.len() == 0 {
            return open;
        }
    }
}

/// How to wait for an engine that cannot ring: looks for a while, then sleeps for an eighth of
/// what was waited already, so that a job ends at most that much later and no core burns.
struct Pending {
    since: Option<Instant>,
}

impl Pending {
    fn new() -> Pending {
        Pending { since: None }
    }

    /// Says whether it slept where work would have ended the sleep.
    fn idle(&mut self, queue: &Queue, room: bool) -> bool {
        let waited = self.since.get_or_insert_with(Instant::now).elapsed();
        if waited < queue.in_flight_spin() {
            std::hint::spin_loop();
            return false;
        }
        let nap = (waited / 8).clamp(NAP_MIN, NAP_MAX);
        if room {
            queue.nap(nap);
        } else {
            std::thread::sleep(nap);
        }
        room
    }
}

/// Signs the worker off however its thread ends.
struct Leaving<'a> {
    shared: &'a Shared,
    instance: &'a Instance,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.instance.counters.alive.store(false, Ordering::Release);
        for work in self.shared.queue.leave() {
            self.shared.refuse_queued(work);
        }
        self.shared.sign_off();
    }
}
