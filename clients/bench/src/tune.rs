//! A search for the settings of a model that serve most requests within a bound of latency.
//!
//! Coordinate descent from the present settings: each knob is turned one step up and one down, and
//! on as long as that helps. Noise is not taken for gain: what looks better is measured once more
//! beside the best so far, and the best of all beside the beginning, in turns.

mod climb;
mod space;

use std::cmp::Ordering;

pub use climb::{Climb, Rung, climb};
pub use space::{Knob, Point, Space};

/// By how much more requests a second have to be, to be more: what two measurements of the same
/// settings differ by on a machine that does other things too.
const MARGIN: f64 = 1.03;

/// A step is measured from this part of the clients on that suit the best so far.
const FEWER: u32 = 4;

/// How often the beginning and the best are measured in turns at the end.
const LAST_ROUNDS: usize = 3;

/// How well settings did: at the number of clients that suits them best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Whether `p99_ns` is within the bound.
    pub meets: bool,
    /// Requests a second.
    pub rate: f64,
    /// In nanoseconds.
    pub p99_ns: u64,
    /// Clients at once.
    pub clients: u32,
}

impl Score {
    /// More requests a second within the bound; as long as that is not met, a shorter p99.
    fn compare(&self, other: &Score) -> Ordering {
        self.meets.cmp(&other.meets).then_with(|| match self.meets {
            true => self.rate.total_cmp(&other.rate),
            false => other.p99_ns.cmp(&self.p99_ns),
        })
    }

    /// Better by more than noise.
    fn beats(&self, other: &Score) -> bool {
        match (self.meets, other.meets) {
            (true, true) => self.rate > other.rate * MARGIN,
            (false, false) => self.p99_ns as f64 * MARGIN < other.p99_ns as f64,
            (ours, _) => ours,
        }
    }
}

/// With how many clients settings are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// With so many, and twice as many each time, as long as that helps.
    From(u32),
    /// With so many.
    Only(u32),
}

/// One measurement.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The settings.
    pub point: Point,
    /// Why they were measured.
    pub why: Why,
    /// Every number of clients that was tried, and the best of them; or why the model did not load.
    pub outcome: Result<(Vec<Rung>, Score), String>,
}

impl Trial {
    fn score(&self) -> Option<Score> {
        self.outcome.as_ref().ok().map(|(_, score)| *score)
    }
}

/// Why something is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The present settings.
    Start,
    /// One step from the best so far.
    Step,
    /// The best so far, or what looked better, once more.
    Again,
    /// The present settings and the best, in turns.
    Last,
}

impl Why {
    /// How it is told.
    pub const fn name(self) -> &'static str {
        match self {
            Why::Start => "start",
            Why::Step => "step",
            Why::Again => "again",
            Why::Last => "last",
        }
    }
}

/// What measures settings, and hears how far the search is.
pub trait Meter {
    /// What ends the search.
    type Error;

    /// Loads the model with these settings and measures them. `Ok` of a trial that failed if it is
    /// these settings that do not work.
    ///
    /// # Errors
    /// What ends the search: nothing can be measured any more.
    fn measure(&mut self, point: &Point, why: Why, clients: Clients) -> Result<Trial, Self::Error>;

    /// Whether there is still time, apart from that of the last rounds.
    fn has_time(&self) -> bool;
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// What is best; the beginning, if nothing is better by more than noise.
    pub chosen: Point,
    /// How it did; the middle one of the last rounds, where there were any.
    pub score: Score,
    /// Requests a second of the best beside the beginning in each of the last rounds; empty if
    /// nothing looked better than the beginning.
    pub ratios: Vec<f64>,
}

/// Searches from the present settings; measures at most `trials` times before the last rounds.
/// Everything that was measured is put into `all`, in order.
///
/// # Errors
/// As [`Meter::measure`]. `Ok(Err(why))` if the present settings cannot be measured.
pub fn search<M: Meter>(
    space: &Space,
    trials: usize,
    meter: &mut M,
    all: &mut Vec<Trial>,
) -> Result<Result<Found, String>, M::Error> {
    let mut search = Search { space, trials, meter, all };
    let start = search.measure(&space.start(), Why::Start, Clients::From(1))?;
    let score = match start.outcome {
        Ok((_, score)) => score,
        Err(why) => return Ok(Err(why)),
    };
    // Luck at the beginning would hide every gain.
    let again = search.measure(&start.point, Why::Again, Clients::Only(score.clients))?.score();
    let score = again.filter(|again| again.compare(&score).is_lt()).unwrap_or(score);
    let (best, of_best) = search.descend(start.point.clone(), score)?;
    if best == start.point {
        return Ok(Ok(Found { chosen: best, score: of_best, ratios: Vec::new() }));
    }
    search.decide((&start.point, score), (&best, of_best)).map(Ok)
}

struct Search<'a, M> {
    space: &'a Space,
    trials: usize,
    meter: &'a mut M,
    all: &'a mut Vec<Trial>,
}

impl<M: Meter> Search<'_, M> {
    fn measure(&mut self, point: &Point, why: Why, clients: Clients) -> Result<Trial, M::Error> {
        let trial = self.meter.measure(point, why, clients)?;
        self.all.push(trial.clone());
        Ok(trial)
    }

    fn goes_on(&self) -> bool {
        self.all.len() < self.trials && self.meter.has_time()
    }

    fn is_known(&self, point: &Point) -> bool {
        self.all.iter().any(|trial| trial.point == *point)
    }

    /// Turns knobs for as long as that helps.
    fn descend(&mut self, from: Point, score: Score) -> Result<(Point, Score), M::Error> {
        let (mut best, mut score) = (from, score);
        loop {
            let before = best.clone();
            for (knob, step) in self.space.steps() {
                while let Some(next) = self.space.step(&best, knob, step)
                    && !self.is_known(&next)
                    && self.goes_on()
                {
                    let Some(better) = self.try_one(&best, score, &next)? else { break };
                    (best, score) = (next, better);
                }
            }
            if best == before || !self.goes_on() {
                return Ok((best, score));
            }
        }
    }

    /// How the next settings do, if they are better than the best so far, twice.
    fn try_one(
        &mut self,
        best: &Point,
        score: Score,
        next: &Point,
    ) -> Result<Option<Score>, M::Error> {
        let clients = Clients::From((score.clients / FEWER).max(1));
        let first = self.measure(next, Why::Step, clients)?.score();
        let first = first.filter(|first| first.beats(&score));
        let (Some(first), true) = (first, self.goes_on()) else { return Ok(None) };
        let beside = self.measure(best, Why::Again, Clients::Only(score.clients))?.score();
        let again = self.measure(next, Why::Again, Clients::Only(first.clients))?.score();
        // Of either the worse of two: luck is no merit.
        let again = again.filter(|again| beside.is_none_or(|beside| again.beats(&beside)));
        Ok(again.map(|again| if again.compare(&first).is_lt() { again } else { first }))
    }

    /// Measures the best beside the beginning, in turns, and keeps the beginning if it is not better
    /// in every round.
    fn decide(&mut self, start: (&Point, Score), best: (&Point, Score)) -> Result<Found, M::Error> {
        let (mut starts, mut bests) = (Vec::new(), Vec::new());
        for round in 0..LAST_ROUNDS {
            // Neither is always the one behind the other.
            let order = if round % 2 == 0 { [start, best] } else { [best, start] };
            for (point, before) in order {
                let score = self.measure(point, Why::Last, Clients::Only(before.clients))?.score();
                if point == best.0 { bests.push(score) } else { starts.push(score) }
            }
        }
        let pairs = starts.iter().zip(&bests);
        let pairs: Vec<(Score, Score)> =
            pairs.filter_map(|(start, best)| Some(((*start)?, (*best)?))).collect();
        let is_better = pairs.len() == LAST_ROUNDS
            && pairs.iter().all(|(start, best)| best.compare(start).is_gt())
            && middle(&bests).zip(middle(&starts)).is_some_and(|(best, start)| best.beats(&start));
        let ((chosen, before), scores) = if is_better { (best, &bests) } else { (start, &starts) };
        Ok(Found {
            chosen: chosen.clone(),
            score: middle(scores).unwrap_or(before),
            ratios: pairs.iter().map(|(start, best)| best.rate / start.rate.max(1e-9)).collect(),
        })
    }
}

/// The middle one; none if one failed.
fn middle(scores: &[Option<Score>]) -> Option<Score> {
    let mut all = scores.iter().copied().collect::<Option<Vec<Score>>>()?;
    all.sort_by(Score::compare);
    all.get(all.len() / 2).copied()
}

#[cfg(test)]
mod tests;
