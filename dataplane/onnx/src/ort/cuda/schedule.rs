//! Which request runs next, and on which stream. Plain bookkeeping, tested without a device.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use ferry_core::SessionId;
use ferry_cuda::Priority;

/// Sessions that are remembered. One more, and all are forgotten, which costs them nothing but a
/// change of stream and of turn.
const SESSIONS_MAX: usize = 4096;

/// For how long after an urgent request the next one is waited for, before all normal streams fill
/// again: a client in a closed loop comes back within that.
const URGENT_LINGER: Duration = Duration::from_millis(1);

/// Some streams of normal priority, then some of high, and what waits for them.
///
/// A stream runs one request at a time. Among those that wait, the session goes first that was
/// served longest ago: one with many requests does not keep out one with few. A session keeps to
/// its stream where that is free. While an urgent request runs, few normal ones are started.
#[derive(Debug)]
pub(super) struct Schedule<T> {
    normal: usize,
    busy: Vec<bool>,
    /// At which start each stream was used last.
    used: Vec<u64>,
    waiting: VecDeque<Waiting<T>>,
    sessions: HashMap<SessionId, Known>,
    /// Counts starts.
    starts: u64,
    /// Normal requests that may run beside an urgent one.
    beside_urgent: usize,
    /// Until when an urgent request is expected to be followed by another.
    urgent_until: Option<Instant>,
}

/// A request that waits.
#[derive(Debug)]
struct Waiting<T> {
    session: SessionId,
    priority: Priority,
    item: T,
}

/// What is remembered of a session.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    last_start: u64,
    /// The stream of normal priority that it used last, and that of high.
    homes: [Option<usize>; 2],
}

impl<T> Schedule<T> {
    pub(super) fn new(normal: usize, high: usize, beside_urgent: usize) -> Schedule<T> {
        Schedule {
            normal,
            busy: vec![false; normal + high],
            used: vec![0; normal + high],
            waiting: VecDeque::new(),
            sessions: HashMap::new(),
            starts: 0,
            beside_urgent: beside_urgent.max(1),
            urgent_until: None,
        }
    }

    /// Whether nothing runs and nothing waits.
    pub(super) fn is_idle(&self) -> bool {
        !self.busy.contains(&true) && self.waiting.is_empty()
    }

    /// How many run.
    pub(super) fn running(&self) -> usize {
        self.busy.iter().filter(|&&busy| busy).count()
    }

    pub(super) fn push(&mut self, session: SessionId, priority: Priority, item: T) {
        self.waiting.push_back(Waiting { session, priority, item });
    }

    /// The next request that a stream is free for, with that stream, which is busy from now on.
    pub(super) fn next(&mut self, now: Instant) -> Option<(usize, T)> {
        for priority in [Priority::High, Priority::Normal] {
            if priority == Priority::Normal && !self.may_start_normal(now) {
                continue;
            }
            let Some(any) = self.streams(priority).find(|&stream| !self.busy[stream]) else {
                continue;
            };
            let turn = |it: &Waiting<T>| self.sessions.get(&it.session).map_or(0, |s| s.last_start);
            let waiting = self.waiting.iter().enumerate();
            let first = waiting
                .filter(|(_, it)| it.priority == priority)
                .min_by_key(|(i, it)| (turn(it), *i))
                .map(|(i, _)| i);
            if let Some(found) = first.and_then(|first| self.waiting.remove(first)) {
                return Some((self.start(&found, any), found.item));
            }
        }
        None
    }

    /// The stream is free again.
    pub(super) fn done(&mut self, stream: usize, now: Instant) {
        self.busy[stream] = false;
        if stream >= self.normal {
            self.urgent_until = Some(now + URGENT_LINGER);
        }
    }

    /// A device shares its multiprocessors among all kernels that are there, whatever their
    /// priority: what is not started keeps nobody waiting.
    fn may_start_normal(&self, now: Instant) -> bool {
        let is_urgent = self.busy[self.normal..].contains(&true)
            || self.urgent_until.is_some_and(|until| now < until);
        let running = self.busy[..self.normal].iter().filter(|&&busy| busy).count();
        !is_urgent || running < self.beside_urgent
    }

    fn streams(&self, priority: Priority) -> std::ops::Range<usize> {
        match priority {
            Priority::Normal => 0..self.normal,
            Priority::High => self.normal..self.busy.len(),
        }
    }

    fn start(&mut self, found: &Waiting<T>, any: usize) -> usize {
        self.starts += 1;
        if self.sessions.len() >= SESSIONS_MAX && !self.sessions.contains_key(&found.session) {
            self.sessions.clear();
        }
        let known = self.sessions.get(&found.session).copied().unwrap_or_default();
        let which = usize::from(found.priority == Priority::High);
        // Else the one that was used longest ago: sessions spread, and those that are gone make room.
        let free = self.streams(found.priority).filter(|&it| !self.busy[it]);
        let oldest = free.min_by_key(|&it| self.used[it]).unwrap_or(any);
        let home = known.homes[which].filter(|&home| !self.busy[home]);
        let stream = home.unwrap_or(oldest);
        self.used[stream] = self.starts;
        let mut known = known;
        known.last_start = self.starts;
        known.homes[which] = Some(stream);
        self.sessions.insert(found.session, known);
        self.busy[stream] = true;
        stream
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(schedule: &mut Schedule<u32>) -> Vec<(usize, u32)> {
        std::iter::from_fn(|| schedule.next(Instant::now())).collect()
    }

    #[test]
    fn sessions_take_turns_however_many_requests_they_have() {
        let mut schedule = Schedule::new(1, 1, 1);
        for item in 0..3 {
            schedule.push(SessionId(1), Priority::Normal, item);
        }
        schedule.push(SessionId(2), Priority::Normal, 10);
        let mut order = Vec::new();
        while let Some((stream, item)) = schedule.next(Instant::now()) {
            order.push(item);
            assert!(schedule.next(Instant::now()).is_none(), "one at a time on a stream");
            schedule.done(stream, Instant::now());
        }
        assert_eq!(order, [0, 10, 1, 2]);
        assert!(schedule.is_idle());
    }

    #[test]
    fn urgent_requests_have_streams_of_their_own_and_go_first() {
        let mut schedule = Schedule::new(2, 1, 1);
        for session in 1..=4 {
            schedule.push(SessionId(session), Priority::Normal, 0);
        }
        assert_eq!(drain(&mut schedule).len(), 2, "the normal streams are full");
        schedule.push(SessionId(9), Priority::High, 1);
        assert_eq!(drain(&mut schedule), [(2, 1)]);
        assert_eq!(schedule.running(), 3);
    }

    #[test]
    fn sessions_that_are_gone_keep_no_stream() {
        let mut schedule = Schedule::new(2, 1, 1);
        let serve = |schedule: &mut Schedule<u32>, session| {
            schedule.push(SessionId(session), Priority::Normal, 0);
            let (stream, _) = schedule.next(Instant::now()).unwrap();
            schedule.done(stream, Instant::now());
            stream
        };
        let gone = [serve(&mut schedule, 1), serve(&mut schedule, 2)];
        assert_eq!(gone, [0, 1]);
        for _ in 0..100 {
            serve(&mut schedule, 3);
        }
        let own = serve(&mut schedule, 3);
        assert_ne!(serve(&mut schedule, 4), own, "the other stream is nobody's by now");
    }

    #[test]
    fn few_normal_requests_start_beside_an_urgent_one_and_just_after_it() {
        let mut schedule = Schedule::new(4, 1, 2);
        schedule.push(SessionId(9), Priority::High, 9);
        let start = Instant::now();
        assert_eq!(schedule.next(start), Some((4, 9)));
        for session in 1..=4 {
            schedule.push(SessionId(session), Priority::Normal, 0);
        }
        let next = |schedule: &mut Schedule<u32>, at| schedule.next(at).map(|(stream, _)| stream);
        assert_eq!(next(&mut schedule, start), Some(0));
        assert_eq!(next(&mut schedule, start), Some(1));
        assert_eq!(next(&mut schedule, start), None, "two beside the urgent one");
        schedule.done(4, start);
        assert_eq!(next(&mut schedule, start + URGENT_LINGER / 2), None, "the next may come");
        assert_eq!(next(&mut schedule, start + URGENT_LINGER), Some(2));
        assert!(!schedule.is_idle());
    }

    #[test]
    fn a_session_keeps_to_its_stream_and_sessions_spread() {
        let mut schedule = Schedule::new(3, 1, 1);
        let mut homes = Vec::new();
        for round in 0..4 {
            for session in 1..=3 {
                schedule.push(SessionId(session), Priority::Normal, 0);
                let (stream, _) = schedule.next(Instant::now()).unwrap();
                schedule.done(stream, Instant::now());
                if round == 0 {
                    homes.push(stream);
                }
                assert_eq!(homes[usize::try_from(session).unwrap() - 1], stream);
            }
        }
        homes.sort_unstable();
        assert_eq!(homes, [0, 1, 2]);
    }
}
