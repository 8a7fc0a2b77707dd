use super::*;

/// A model with a rate for each setting, which a list of factors disturbs one after the other.
struct Fake {
    space: Space,
    noise: Vec<f64>,
    fails: Vec<u64>,
    is_flat: bool,
    measured: usize,
}

impl Fake {
    fn new(noise: &[f64]) -> Fake {
        let space = Space::new(vec![
            Knob::new("instances", [1, 2, 4, 8], 1),
            Knob::new("threads", [1, 2, 4], 1),
        ]);
        Fake { space, noise: noise.to_vec(), fails: Vec::new(), is_flat: false, measured: 0 }
    }

    /// Best at 4 instances with 2 threads.
    fn rate(values: &[u64]) -> f64 {
        let far = |value: u64, best: f64| (value as f64).log2() - best;
        1000.0 - 100.0 * far(values[0], 2.0).powi(2) - 100.0 * far(values[1], 1.0).powi(2)
    }
}

impl Meter for Fake {
    type Error = String;

    fn measure(&mut self, point: &Point, why: Why, _: Clients) -> Result<Trial, String> {
        let values: Vec<u64> = self.space.values(point).map(|(_, value)| value).collect();
        let noise = self.noise[self.measured % self.noise.len()];
        self.measured += 1;
        let rate = if self.is_flat { 1000.0 } else { Fake::rate(&values) };
        let score = Score { meets: true, rate: rate * noise, p99_ns: 1, clients: 1 };
        let fails = self.fails.contains(&values[0]);
        let outcome = if fails { Err("no".to_owned()) } else { Ok((Vec::new(), score)) };
        Ok(Trial { point: point.clone(), why, outcome })
    }

    fn has_time(&self) -> bool {
        true
    }
}

fn chosen(fake: &mut Fake, trials: usize) -> (Found, Vec<u64>, Vec<Trial>) {
    let (space, mut all) = (fake.space.clone(), Vec::new());
    let found = search(&space, trials, fake, &mut all).unwrap().unwrap();
    let values = space.values(&found.chosen).map(|(_, value)| value).collect();
    (found, values, all)
}

#[test]
fn the_best_is_found_from_the_present_settings() {
    let (found, values, _) = chosen(&mut Fake::new(&[1.0]), 100);
    assert_eq!(values, [4, 2]);
    assert_eq!(found.ratios.len(), LAST_ROUNDS);
    assert!(found.ratios.iter().all(|ratio| (ratio - 2.0).abs() < 0.01), "{:?}", found.ratios);
}

#[test]
fn settings_that_do_not_load_are_passed_by() {
    let mut fake = Fake::new(&[1.0]);
    fake.fails = vec![4];
    let (_, values, all) = chosen(&mut fake, 100);
    assert_eq!(values, [2, 2], "the search goes on beside them");
    assert!(all.iter().any(|trial| trial.outcome.is_err()));
    fake.fails = vec![1];
    let space = fake.space.clone();
    let refused = search(&space, 100, &mut fake, &mut Vec::new()).unwrap();
    assert_eq!(refused.unwrap_err(), "no");
}

#[test]
fn noise_is_not_taken_for_gain() {
    // Every setting is as good as any other; each measurement is up to 20 % off.
    let mut fake = Fake::new(&[1.0, 0.9, 1.1, 0.95, 1.2, 0.85, 1.05]);
    fake.is_flat = true;
    let (_, values, all) = chosen(&mut fake, 100);
    assert_eq!(values, [1, 1]);
    assert!(all.iter().any(|trial| trial.why == Why::Again), "something looked better");
}

#[test]
fn the_number_of_measurements_is_bounded() {
    for trials in 1..12 {
        let (_, _, all) = chosen(&mut Fake::new(&[1.0]), trials);
        // The beginning is measured twice, and a step that looks better twice more.
        let most = trials.max(2) + 2 + 2 * LAST_ROUNDS;
        assert!(all.len() <= most, "{} of {trials}", all.len());
    }
}

#[test]
fn within_the_bound_comes_before_more_requests() {
    let score = |meets, rate, p99_ns| Score { meets, rate, p99_ns, clients: 1 };
    assert!(score(true, 1.0, 10).beats(&score(false, 100.0, 20)));
    assert!(!score(false, 100.0, 20).beats(&score(true, 1.0, 10)));
    assert!(score(false, 1.0, 20).beats(&score(false, 100.0, 30)), "the shorter p99");
    assert!(!score(true, 102.0, 1).beats(&score(true, 100.0, 1)), "within noise");
}
