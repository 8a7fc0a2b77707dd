//! How long to poll before sleeping.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use ferry_core::WaitPolicy;

use crate::link::Link;

/// How long `adaptive` polls before it sleeps. About the price of one sleep and wake-up across
/// cores, so that waiting never costs more than twice what the better choice would have.
pub const ADAPTIVE_SPIN: Duration = Duration::from_micros(50);

/// How long `spin` polls with nothing happening before it sleeps: a session that is open but silent
/// must not hold a core for ever. Until then it does not yield: with `sched_yield` between polls,
/// both ends of a session settle on one core and take turns there.
pub const SPIN_IDLE_MAX: Duration = Duration::from_millis(200);

/// How often the clock is read while polling: a reading costs more than an empty poll.
const POLLS_PER_CLOCK: u32 = 32;

/// A sleep of this length was no pause between two messages of a stream, however slowly the system
/// wakes: `adaptive` then expects the next one to be long too, and sleeps without polling first.
pub(crate) const LONG_SLEEP: Duration = Duration::from_micros(200);

/// `policy` where there are as many cores as threads that pass a message on, else `block`: who polls
/// there takes the core from the thread that it waits for.
pub fn where_it_pays(policy: WaitPolicy, threads: usize) -> WaitPolicy {
    // Asking the system takes some microseconds, and its answer rarely changes.
    static CORES: OnceLock<usize> = OnceLock::new();
    let cores = CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from));
    if *cores < threads { WaitPolicy::Block } else { policy }
}

/// Decides between polling again and sleeping. Call [`idle`](Waiter::idle) after each empty poll
/// and [`busy`](Waiter::busy) after each that found something; who sleeps by other means calls
/// [`slept`](Waiter::slept).
#[derive(Debug)]
pub struct Waiter {
    policy: WaitPolicy,
    polls: u32,
    since: Option<Instant>,
    /// `adaptive` sleeps without polling first.
    expects_long: bool,
}

impl Waiter {
    /// Waits by `policy`.
    pub fn new(policy: WaitPolicy) -> Waiter {
        Waiter { policy, polls: 0, since: None, expects_long: false }
    }

    /// Changes the policy from now on.
    pub fn set_policy(&mut self, policy: WaitPolicy) {
        self.policy = policy;
        self.expects_long = false;
        self.busy();
    }

    /// Something happened: polling starts over.
    pub fn busy(&mut self) {
        self.polls = 0;
        self.since = None;
    }

    /// The owner slept for so long.
    pub fn slept(&mut self, how_long: Duration) {
        self.expects_long = how_long >= LONG_SLEEP;
    }

    /// The next wait is a long one, as far as `adaptive` is concerned: the peer sleeps, so that its
    /// answer takes the time of a wake-up at least.
    pub fn expect_long(&mut self) {
        self.expects_long = true;
    }

    /// Nothing happened: polls on, or sleeps for at most `at_most` in the link.
    pub fn idle(&mut self, link: &mut dyn Link, at_most: Duration) {
        if self.keeps_polling() {
            std::hint::spin_loop();
        } else {
            let from = Instant::now();
            link.park(at_most);
            self.slept(from.elapsed());
        }
    }

    /// Whether the next thing to do is another poll.
    pub fn keeps_polling(&mut self) -> bool {
        let bound = match self.policy {
            WaitPolicy::Block => return false,
            WaitPolicy::Adaptive if self.expects_long => return false,
            WaitPolicy::Adaptive => ADAPTIVE_SPIN,
            WaitPolicy::Spin => SPIN_IDLE_MAX,
        };
        self.polls = self.polls.wrapping_add(1);
        if !self.polls.is_multiple_of(POLLS_PER_CLOCK) {
            return true;
        }
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        now.duration_since(since) < bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn polls_first(waiter: &mut Waiter) -> bool {
        waiter.busy();
        waiter.keeps_polling()
    }

    #[test]
    fn adaptive_polls_first_unless_the_last_sleep_was_long() {
        let mut waiter = Waiter::new(WaitPolicy::Adaptive);
        assert!(polls_first(&mut waiter));
        waiter.slept(LONG_SLEEP);
        assert!(!polls_first(&mut waiter), "polling would not pay");
        waiter.slept(ADAPTIVE_SPIN);
        assert!(polls_first(&mut waiter), "a stream of messages");
        waiter.expect_long();
        assert!(!polls_first(&mut waiter));
    }

    #[test]
    fn spin_polls_and_block_sleeps_whatever_was() {
        let (mut spin, mut block) = (Waiter::new(WaitPolicy::Spin), Waiter::new(WaitPolicy::Block));
        for slept in [Duration::ZERO, LONG_SLEEP] {
            spin.slept(slept);
            block.slept(slept);
            assert!(polls_first(&mut spin) && !polls_first(&mut block));
        }
    }

    #[test]
    fn nobody_polls_where_there_are_fewer_cores_than_threads() {
        for policy in WaitPolicy::ALL {
            assert_eq!(where_it_pays(policy, 1), policy);
            assert_eq!(where_it_pays(policy, usize::MAX), WaitPolicy::Block);
        }
    }
}
