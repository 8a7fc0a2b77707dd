//! How long to poll before sleeping.

use std::time::{Duration, Instant};

use ferry_core::WaitPolicy;

use crate::link::Link;

/// How long `adaptive` polls before it sleeps. About the price of one sleep and wake-up across
/// cores, so that waiting never costs more than twice what the better choice would have.
pub const ADAPTIVE_SPIN: Duration = Duration::from_micros(50);

/// How long `spin` polls with nothing happening before it treats itself as `adaptive`: a session
/// that is open but silent must not hold a core for ever.
pub const SPIN_IDLE_MAX: Duration = Duration::from_millis(200);

/// How often the clock is read while polling: a reading costs more than an empty poll.
const POLLS_PER_CLOCK: u32 = 32;

/// Decides between polling again and sleeping. Call [`idle`](Waiter::idle) after each empty poll
/// and [`busy`](Waiter::busy) after each that found something.
#[derive(Debug)]
pub struct Waiter {
    policy: WaitPolicy,
    polls: u32,
    since: Option<Instant>,
}

impl Waiter {
    /// Waits by `policy`.
    pub fn new(policy: WaitPolicy) -> Waiter {
        Waiter { policy, polls: 0, since: None }
    }

    /// Changes the policy from now on.
    pub fn set_policy(&mut self, policy: WaitPolicy) {
        self.policy = policy;
        self.busy();
    }

    /// Something happened: polling starts over.
    pub fn busy(&mut self) {
        self.polls = 0;
        self.since = None;
    }

    /// Nothing happened: polls on, or sleeps for at most `at_most` in the link.
    pub fn idle(&mut self, link: &mut dyn Link, at_most: Duration) {
        if self.keeps_polling() {
            std::hint::spin_loop();
        } else {
            link.park(at_most);
        }
    }

    /// Whether the next thing to do is another poll.
    pub fn keeps_polling(&mut self) -> bool {
        let bound = match self.policy {
            WaitPolicy::Block => return false,
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
