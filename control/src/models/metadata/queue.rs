//! `queue`: the requests that wait for a model.

use std::time::Duration;

use ferry_engine::options::{LEVELS, QUEUE_MAX};
use serde::Deserialize;

/// Longest time that requests may be told to be of use: a day is for ever.
const TIMEOUT_US_MAX: u64 = 86_400_000_000;

/// How requests wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueRules {
    /// Most that wait, in each level of priority.
    pub max: usize,
    /// Levels of priority.
    pub levels: usize,
    /// The level of a request that names none, or one that there is not; 1 is the most urgent.
    pub default_level: usize,
    /// How long after its arrival a request is of use, where its client does not say less; `None`:
    /// for ever.
    pub timeout: Option<Duration>,
}

impl QueueRules {
    /// As many requests, normal and urgent ones, for ever.
    pub fn of(max: usize) -> QueueRules {
        QueueRules { max, levels: 2, default_level: 2, timeout: None }
    }

    /// The shorter of a client's timeout and the model's.
    pub fn shorter(&self, timeout: Option<Duration>) -> Option<Duration> {
        timeout.into_iter().chain(self.timeout).min()
    }

    /// Our priority of a request that names this level, as clients of the Open Inference Protocol
    /// count them: 1 is the most urgent one, and 0 none in particular.
    pub fn priority(&self, level: u64) -> u8 {
        let named = usize::try_from(level).ok().filter(|it| (1..=self.levels).contains(it));
        let below = self.levels.saturating_sub(named.unwrap_or(self.default_level));
        u8::try_from(below).unwrap_or(u8::MAX)
    }
}

/// What the file says: a number, which is the most that wait, or a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    expecting = "give a number, or a table with max, levels, default_level or timeout_us"
)]
pub(in crate::models) enum Queue {
    /// Most that wait.
    Max(usize),
    /// All of it.
    Table(Table),
}

/// `[queue]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::models) struct Table {
    pub(in crate::models) max: Option<usize>,
    pub(in crate::models) levels: Option<usize>,
    pub(in crate::models) default_level: Option<usize>,
    pub(in crate::models) timeout_us: Option<u64>,
}

impl Queue {
    /// What it means; `base` fills what it does not say.
    ///
    /// # Errors
    /// A text that names what is out of bounds.
    pub(in crate::models) fn rules(self, base: QueueRules) -> Result<QueueRules, String> {
        let table = match self {
            Queue::Max(max) => Table { max: Some(max), ..Table::default() },
            Queue::Table(table) => table,
        };
        let max = table.max.unwrap_or(base.max);
        if !(1..=QUEUE_MAX).contains(&max) {
            return Err(format!("queue = {max}; allowed are 1 to {QUEUE_MAX}"));
        }
        let levels = table.levels.unwrap_or(base.levels);
        if !LEVELS.contains(&levels) {
            let (least, most) = (LEVELS.start(), LEVELS.end());
            return Err(format!("queue.levels = {levels}; allowed are {least} to {most}"));
        }
        let default_level = table.default_level.unwrap_or(levels);
        if !(1..=levels).contains(&default_level) {
            return Err(format!("queue.default_level = {default_level}; there are 1 to {levels}"));
        }
        let timeout = match table.timeout_us {
            None => base.timeout,
            Some(us) if (1..=TIMEOUT_US_MAX).contains(&us) => Some(Duration::from_micros(us)),
            Some(us) => {
                return Err(format!("queue.timeout_us = {us}; allowed are 1 to {TIMEOUT_US_MAX}"));
            }
        };
        Ok(QueueRules { max, levels, default_level, timeout })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct File {
        queue: Option<Queue>,
    }

    fn rules(text: &str) -> Result<QueueRules, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        file.queue.map_or(Ok(QueueRules::of(64)), |it| it.rules(QueueRules::of(64)))
    }

    #[test]
    fn a_number_and_a_table_say_the_same() {
        assert_eq!(rules(""), Ok(QueueRules::of(64)));
        assert_eq!(rules("queue = 7"), Ok(QueueRules::of(7)));
        assert_eq!(rules("[queue]\nmax = 7"), Ok(QueueRules::of(7)));
        let all = rules("[queue]\nlevels = 5\ndefault_level = 3\ntimeout_us = 1500").unwrap();
        let timeout = Some(Duration::from_micros(1500));
        assert_eq!(all, QueueRules { max: 64, levels: 5, default_level: 3, timeout });
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        for (text, name) in [
            ("queue = 0", "queue = 0"),
            ("queue = 65537", "65536"),
            ("queue = 'x'", "give a number, or a table"),
            ("[queue]\nlevels = 17", "queue.levels = 17"),
            ("[queue]\ndefault_level = 3", "queue.default_level = 3"),
            ("[queue]\ntimeout_us = 0", "queue.timeout_us = 0"),
            ("[queue]\nmaximum = 3", "give a number, or a table"),
        ] {
            let told = rules(text).unwrap_err();
            assert!(told.contains(name), "{told}");
        }
    }

    #[test]
    fn levels_of_the_protocol_count_down_from_the_most_urgent() {
        let two = QueueRules::of(1);
        assert_eq!([0, 1, 2, 3, u64::MAX].map(|level| two.priority(level)), [0, 1, 0, 0, 0]);
        let five = QueueRules { levels: 5, default_level: 3, ..two };
        assert_eq!([0, 1, 3, 5, 6].map(|level| five.priority(level)), [2, 4, 2, 0, 2]);
    }

    #[test]
    fn the_shorter_timeout_counts() {
        let [short, long] = [1, 2].map(|it| Some(Duration::from_secs(it)));
        let rules = QueueRules { timeout: short, ..QueueRules::of(1) };
        assert_eq!([None, short, long].map(|it| rules.shorter(it)), [short; 3]);
        assert_eq!(QueueRules::of(1).shorter(long), long);
    }
}
