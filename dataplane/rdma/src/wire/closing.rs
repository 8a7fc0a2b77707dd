//! How a wire ends: goodbye, the key taken back, the window freed, everything posted flushed.

use super::*;

impl Wire {
    /// Begins to close: `bye` is sent if the peer can still be reached, its key is taken back.
    pub(crate) fn close(&mut self, bye: Option<&Frame>) {
        if self.phase != Phase::Open {
            return;
        }
        let until = Instant::now() + CLOSING_STEP;
        if let Some(bye) = bye {
            // A peer that cannot be told finds out by itself.
            let _untold = self.tell(bye);
        }
        if let Pair::Connected(pair, _) = &self.pair
            && self.inbox.close(pair, task_id(self.serial, Task::Window)).unwrap_or(false)
        {
            self.sends += 1;
        }
        self.phase = Phase::Saying { until };
    }

    /// As [`close`](Wire::close) for a queue pair that has failed already.
    pub(crate) fn abandon(&mut self) {
        if matches!(self.phase, Phase::Open | Phase::Saying { .. }) {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.inbox.drop_window();
        let failed = match &self.pair {
            Pair::Waiting(pair) => pair.fail(),
            Pair::Connected(pair, _) => pair.fail(),
            Pair::Lost => Ok(()),
        };
        self.phase = match failed {
            // Nothing posted before the peer was known is flushed by every device.
            Ok(()) if matches!(self.pair, Pair::Connected(..)) => {
                Phase::Flushing { until: Instant::now() + CLOSING_STEP }
            }
            _ => Phase::Closed,
        };
    }

    /// Goes on with closing; `true` once there is nothing more to wait for.
    pub(crate) fn has_closed(&mut self, now: Instant) -> bool {
        match self.phase {
            Phase::Open => false,
            Phase::Saying { until } if self.sends == 0 || now >= until => {
                self.flush();
                self.has_closed(now)
            }
            Phase::Flushing { until } if self.sends + self.receives == 0 || now >= until => {
                self.phase = Phase::Closed;
                true
            }
            Phase::Saying { .. } | Phase::Flushing { .. } => false,
            Phase::Closed => true,
        }
    }

    /// Whether closing has begun.
    pub(crate) fn is_closing(&self) -> bool {
        self.phase != Phase::Open
    }
}
