//! The thread of one instance.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::batch::Batching;
use crate::clock::StageClock;
use crate::instance::{Core, Instance, Member, Ready};
use crate::queue::{Queue, Queued, Room, Taken};
use crate::shared::Shared;

/// Shortest sleep between two looks at jobs in flight: a timer is not finer.
const NAP_MIN: Duration = Duration::from_micros(20);

/// Longest sleep between two looks at jobs in flight.
const NAP_MAX: Duration = Duration::from_millis(1);

/// Serves until the pool drains, or until the instance is beyond repair.
pub(crate) fn run(shared: &Shared, instance: &Instance) {
    let _leaving = Leaving { shared, instance };
    let mut taken = Taken::default();
    loop {
        let slept = shared.queue.wait(&instance.attention);
        let mut core = instance.lock();
        instance.attention.store(false, Ordering::Release);
        if !serve(shared, instance, &mut core, slept, &mut taken) {
            core.close(&instance.counters);
            return;
        }
    }
}

/// Serves until nothing waits and nothing is in flight; says whether the worker goes on. `slept`:
/// the thread comes from a sleep, so that the first request may be what it was woken for. `taken` is
/// empty, and kept for its memory.
fn serve(
    shared: &Shared,
    instance: &Instance,
    core: &mut Core,
    mut slept: bool,
    taken: &mut Taken,
) -> bool {
    let (queue, counters) = (&shared.queue, &instance.counters);
    let mut pending = Pending::new();
    let mut looked: Option<Looked> = None;
    loop {
        if shared.is_abandoned() {
            core.discard(counters, "the pool was shut down and did not wait any longer");
            return false;
        }
        // Read first: behind a closed gate, an empty queue stays empty.
        let open = queue.is_open();
        if core.is_broken()
            && (open || queue.len() > 0 || core.has_alone())
            && !core.rebuild(shared.rebuild(), &shared.signature)
        {
            return false;
        }
        let (room, arrived) = (core.room(), queue.arrived());
        let until = looked.as_ref().and_then(|it| it.until);
        let look = if looked.as_ref().is_some_and(|it| it.holds(room, arrived)) {
            until.map_or(Look::Nothing, Look::Waits)
        } else {
            start_next(shared, instance, core, room, &mut slept, taken)
        };
        let finished = core.in_flight() > 0 && core.poll(counters, |ready| send(shared, ready));
        if matches!(look, Look::Started) || finished {
            (pending, looked) = (Pending::new(), None);
        } else if core.in_flight() > 0 {
            let until = if let Look::Waits(until) = look { Some(until) } else { None };
            looked = Some(Looked { room, arrived, until });
            slept = pending.idle(queue, core.has_room(), until);
        } else if queue.len() == 0 && !core.has_alone() {
            return open;
        }
    }
}

/// A look for work that found none to start: another would find none either while nothing has come,
/// so that the queue's lock is left to those who bring something.
struct Looked {
    room: Room,
    arrived: usize,
    /// Until when a batch waits for more.
    until: Option<Instant>,
}

impl Looked {
    fn holds(&self, room: Room, arrived: usize) -> bool {
        let same = self.room == room && self.arrived == arrived;
        same && self.until.is_none_or(|until| Instant::now() < until)
    }
}

/// What a look for work came to.
enum Look {
    Nothing,
    Started,
    /// A batch waits for more until then.
    Waits(Instant),
}

/// Starts what is next: a request whose batch failed, or what the queue has.
fn start_next(
    shared: &Shared,
    instance: &Instance,
    core: &mut Core,
    room: Room,
    slept: &mut bool,
    taken: &mut Taken,
) -> Look {
    let counters = &instance.counters;
    if room == Room::Nothing {
        return Look::Nothing;
    }
    if let Some(member) = core.next_alone() {
        core.start(counters, member).into_iter().for_each(|ready| send(shared, ready));
        return Look::Started;
    }
    if let Some(batching) = &shared.batching {
        if core.doubts_batches() {
            shared.stop_batches(batching);
        }
        if let Some(until) = shared.queue.take(batching, room, taken) {
            return Look::Waits(until);
        }
    } else {
        taken.requests.extend(shared.queue.pop());
    }
    if taken.requests.is_empty() {
        return Look::Nothing;
    }
    let (now, since) = (Instant::now(), taken.since.take());
    let mut members = taken.requests.drain(..).filter_map(|Queued { work, rung }| {
        let rung = rung.filter(|_| std::mem::take(slept));
        let work = shared.still_wanted(work, now)?;
        let clock = StageClock::taken_at(work.arrival.visible, rung, since, now);
        Some(Member::new(work, clock))
    });
    let Some(first) = members.next() else { return Look::Started };
    let rest: Vec<Member> = members.collect();
    if rest.is_empty() {
        core.start(counters, first).into_iter().for_each(|ready| send(shared, ready));
    } else {
        let all = std::iter::once(first).chain(rest).collect();
        core.start_batch(counters, all, &mut |ready| send(shared, ready));
    }
    Look::Started
}

fn send(shared: &Shared, ready: Ready) {
    if shared.batching.as_ref().is_some_and(Batching::waits) {
        shared.queue.answered(&ready.departure);
    }
    ready.send();
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
    /// It sleeps no longer than `until`.
    fn idle(&mut self, queue: &Queue, room: bool, until: Option<Instant>) -> bool {
        let waited = self.since.get_or_insert_with(Instant::now).elapsed();
        if waited < queue.in_flight_spin() {
            std::hint::spin_loop();
            return false;
        }
        let left = until.map_or(NAP_MAX, |it| it.saturating_duration_since(Instant::now()));
        let nap = (waited / 8).min(left).clamp(NAP_MIN, NAP_MAX);
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
        self.shared.refuse_queued(self.shared.queue.leave());
        self.shared.sign_off();
    }
}
