//! Which request runs next, and on which stream. Plain bookkeeping, tested without a device.

use std::collections::{HashMap, VecDeque};

use ferry_core::SessionId;
use ferry_cuda::Priority;

/// Sessions that are remembered. One more, and all are forgotten, which costs them nothing but a
/// change of stream and of turn.
const SESSIONS_MAX: usize = 4096;

/// Some streams of normal priority, then some of high, and what waits for them.
///
/// A stream runs one request at a time. Among those that wait, the session goes first that was
/// served longest ago: one with many requests does not keep out one with few. A session keeps to
/// its stream where that is free.
#[derive(Debug)]
pub(super) struct Schedule<T> {
    normal: usize,
    busy: Vec<bool>,
    waiting: VecDeque<Waiting<T>>,
    sessions: HashMap<SessionId, Known>,
    /// Counts starts.
    starts: u64,
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
    pub(super) fn new(normal: usize, high: usize) -> Schedule<T> {
        Schedule {
            normal,
            busy: vec![false; normal + high],
            waiting: VecDeque::new(),
            sessions: HashMap::new(),
            starts: 0,
        }
    }

    /// Whether nothing runs.
    pub(super) fn is_idle(&self) -> bool {
        !self.busy.contains(&true)
    }

    /// How many run.
    pub(super) fn running(&self) -> usize {
        self.busy.iter().filter(|&&busy| busy).count()
    }

    pub(super) fn push(&mut self, session: SessionId, priority: Priority, item: T) {
        self.waiting.push_back(Waiting { session, priority, item });
    }

    /// The next request that a stream is free for, with that stream, which is busy from now on.
    pub(super) fn next(&mut self) -> Option<(usize, T)> {
        for priority in [Priority::High, Priority::Normal] {
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
    pub(super) fn done(&mut self, stream: usize) {
        self.busy[stream] = false;
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
        // A stream that nobody calls home, if there is one: sessions spread.
        let range = self.streams(found.priority);
        let taken =
            |stream: usize| self.sessions.values().any(|it| it.homes.contains(&Some(stream)));
        let known = self.sessions.get(&found.session).copied().unwrap_or_default();
        let which = usize::from(found.priority == Priority::High);
        let home = known.homes[which].filter(|&home| !self.busy[home]);
        let spread = || range.clone().find(|&it| !self.busy[it] && !taken(it));
        let stream = home.or_else(spread).unwrap_or(any);
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
        std::iter::from_fn(|| schedule.next()).collect()
    }

    #[test]
    fn sessions_take_turns_however_many_requests_they_have() {
        let mut schedule = Schedule::new(1, 1);
        for item in 0..3 {
            schedule.push(SessionId(1), Priority::Normal, item);
        }
        schedule.push(SessionId(2), Priority::Normal, 10);
        let mut order = Vec::new();
        while let Some((stream, item)) = schedule.next() {
            order.push(item);
            assert!(schedule.next().is_none(), "one at a time on a stream");
            schedule.done(stream);
        }
        assert_eq!(order, [0, 10, 1, 2]);
        assert!(schedule.is_idle());
    }

    #[test]
    fn urgent_requests_have_streams_of_their_own_and_go_first() {
        let mut schedule = Schedule::new(2, 1);
        for session in 1..=4 {
            schedule.push(SessionId(session), Priority::Normal, 0);
        }
        assert_eq!(drain(&mut schedule).len(), 2, "the normal streams are full");
        schedule.push(SessionId(9), Priority::High, 1);
        assert_eq!(drain(&mut schedule), [(2, 1)]);
        assert_eq!(schedule.running(), 3);
    }

    #[test]
    fn a_session_keeps_to_its_stream_and_sessions_spread() {
        let mut schedule = Schedule::new(3, 1);
        let mut homes = Vec::new();
        for round in 0..4 {
            for session in 1..=3 {
                schedule.push(SessionId(session), Priority::Normal, 0);
                let (stream, _) = schedule.next().unwrap();
                schedule.done(stream);
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
