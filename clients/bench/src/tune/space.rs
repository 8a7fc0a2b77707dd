//! The settings that can be tried.

/// One setting, and the values that it can have.
#[derive(Clone, Debug)]
pub struct Knob {
    /// Its key in the model's TOML, as in `batch.max`.
    pub key: &'static str,
    /// Rising.
    values: Vec<u64>,
    /// Which of them is the present one.
    start: usize,
    /// The key of a knob at whose 1 this one means nothing.
    beside: Option<&'static str>,
}

impl Knob {
    /// With these values and the present one.
    #[must_use]
    pub fn new(key: &'static str, values: impl IntoIterator<Item = u64>, present: u64) -> Knob {
        let mut values: Vec<u64> = values.into_iter().chain([present]).collect();
        values.sort_unstable();
        values.dedup();
        let start = values.iter().position(|&value| value == present).unwrap_or_default();
        Knob { key, values, start, beside: None }
    }

    /// It is not turned while the knob `key` is at 1.
    #[must_use]
    pub fn beside(self, key: &'static str) -> Knob {
        Knob { beside: Some(key), ..self }
    }
}

/// Every knob.
#[derive(Clone, Debug)]
pub struct Space {
    knobs: Vec<Knob>,
}

/// Which value each knob of a space has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Point(Vec<usize>);

impl Space {
    /// Of these knobs.
    #[must_use]
    pub fn new(knobs: Vec<Knob>) -> Space {
        Space { knobs }
    }

    /// The present settings.
    #[must_use]
    pub fn start(&self) -> Point {
        Point(self.knobs.iter().map(|knob| knob.start).collect())
    }

    /// Key and value of every knob.
    pub fn values(&self, point: &Point) -> impl Iterator<Item = (&'static str, u64)> {
        let all = self.knobs.iter().zip(&point.0);
        all.filter_map(|(knob, &at)| Some((knob.key, *knob.values.get(at)?)))
    }

    /// Those that are not at their present value.
    pub fn changed(&self, point: &Point) -> impl Iterator<Item = (&'static str, u64)> {
        let all = self.knobs.iter().zip(&point.0).filter(|(knob, at)| **at != knob.start);
        all.filter_map(|(knob, &at)| Some((knob.key, *knob.values.get(at)?)))
    }

    /// The steps from any point: each knob up and down.
    pub(super) fn steps(&self) -> impl Iterator<Item = (usize, isize)> + use<> {
        (0..self.knobs.len()).flat_map(|knob| [(knob, 1), (knob, -1)])
    }

    /// One knob turned by one step; `None` where it ends.
    pub(super) fn step(&self, from: &Point, knob: usize, step: isize) -> Option<Point> {
        let Knob { values, beside, .. } = self.knobs.get(knob)?;
        if self.values(from).any(|(key, value)| Some(key) == *beside && value == 1) {
            return None;
        }
        let mut next = from.clone();
        let at = next.0.get_mut(knob)?;
        *at = at.checked_add_signed(step)?;
        (*at < values.len()).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knobs_are_turned_within_their_values_and_where_they_mean_something() {
        let delay = Knob::new("delay", [0, 5], 0).beside("rows");
        let space = Space::new(vec![Knob::new("rows", [1, 2, 4], 3), delay]);
        let start = space.start();
        assert_eq!(space.changed(&start).count(), 0);
        assert!(space.values(&start).eq([("rows", 3), ("delay", 0)]), "the present one is added");
        let up = space.step(&start, 0, 1).unwrap();
        assert!(space.changed(&up).eq([("rows", 4)]));
        assert_eq!((space.step(&up, 0, 1), space.step(&up, 1, -1)), (None, None));
        assert!(space.step(&up, 1, 1).is_some());
        let one = space.step(&space.step(&start, 0, -1).unwrap(), 0, -1).unwrap();
        assert_eq!(space.step(&one, 1, 1), None, "no rows, no delay");
    }
}
