use std::collections::HashMap;

use ferry_core::SessionId;
use ferry_memory::PeerId;
use proptest::prelude::*;

use super::*;

/// Requests that wait: session and rows; 0 rows cannot run with the first.
fn candidates(waiting: &[(u64, u64)]) -> impl Iterator<Item = Candidate> + '_ {
    waiting.iter().map(|&(session, rows)| Candidate {
        client: Client { session: SessionId(session), peer: PeerId(0) },
        rows: (rows > 0).then_some(rows),
    })
}

fn pick(waiting: &[(u64, u64)], rows_max: u64, preferred: &[u64]) -> (Vec<usize>, u64, bool) {
    let mut picker = Picker::default();
    let sizes = Sizes { max: rows_max, preferred, only: None };
    let Picked { rows, complete } = picker.pick(candidates(waiting), sizes);
    (picker.picked, rows, complete)
}

#[test]
fn sessions_take_turns() {
    let waiting = [(1, 1), (1, 1), (1, 1), (1, 1), (2, 1), (3, 1)];
    assert_eq!(pick(&waiting, 4, &[]), (vec![0, 1, 4, 5], 4, true));
    assert_eq!(pick(&waiting, 3, &[]), (vec![0, 4, 5], 3, true));
    assert_eq!(pick(&waiting, 8, &[]), (vec![0, 1, 2, 3, 4, 5], 6, false));
}

#[test]
fn no_request_overtakes_one_of_its_session() {
    // The second of session 1 does not fit, so that its third must wait, too.
    assert_eq!(pick(&[(1, 2), (1, 3), (1, 1), (2, 1)], 4, &[]), (vec![0, 3], 3, true));
    // The second of session 1 cannot run with the first.
    assert_eq!(pick(&[(1, 1), (1, 0), (1, 1), (2, 1)], 4, &[]), (vec![0, 3], 2, false));
}

#[test]
fn a_batch_is_cut_to_the_largest_preferred_size_that_is_there() {
    let waiting = [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1)];
    assert_eq!(pick(&waiting, 8, &[2, 4]), (vec![0, 1, 2, 3], 4, true));
    assert_eq!(pick(&waiting, 8, &[6]), (vec![0, 1, 2, 3, 4], 5, false));
    assert_eq!(pick(&waiting[..1], 8, &[2, 4]), (vec![0], 1, false));
}

#[test]
fn where_few_sizes_are_ready_a_batch_has_one_of_them() {
    let only = |waiting: &[(u64, u64)], preferred: &[u64]| {
        let mut picker = Picker::default();
        let sizes = Sizes { max: 8, preferred, only: Some(&[1, 2, 4, 8]) };
        let Picked { rows, complete } = picker.pick(candidates(waiting), sizes);
        (picker.picked, rows, complete)
    };
    let ones: Vec<_> = (1..=20).map(|session| (session, 1)).collect();
    assert_eq!(only(&ones[..7], &[]), (vec![0, 1, 2, 3], 4, false), "one more could be more");
    assert_eq!(only(&ones[..7], &[2]), (vec![0, 1], 2, true));
    assert_eq!(only(&ones, &[]), ((0..8).collect(), 8, true));
    assert_eq!(only(&[(1, 3), (2, 3), (3, 2)], &[]), (vec![0, 1, 2], 8, true));
    assert_eq!(only(&[(1, 3), (2, 3)], &[]), (vec![0], 3, false), "alone");
}

proptest! {
    #[test]
    fn what_is_picked_fits_is_fair_and_keeps_the_order(
        waiting in prop::collection::vec((0_u64..5, 0_u64..4), 1..80),
        rows_max in 3_u64..20,
        preferred in prop::option::of(2_u64..20),
    ) {
        let mut waiting = waiting;
        waiting[0].1 = waiting[0].1.max(1);
        let preferred: Vec<u64> = preferred.into_iter().filter(|it| *it <= rows_max).collect();
        let (picked, rows, _) = pick(&waiting, rows_max, &preferred);
        prop_assert_eq!(picked.first(), Some(&0), "the oldest is always taken");
        prop_assert!(picked.is_sorted_by(|a, b| a < b));
        prop_assert_eq!(picked.iter().map(|&at| waiting[at].1).sum::<u64>(), rows);
        prop_assert!(rows <= rows_max);
        prop_assert!(picked.iter().all(|&at| waiting[at].1 > 0));
        let mut taken = HashMap::<u64, usize>::new();
        let mut left = HashMap::<u64, usize>::new();
        for (at, (session, _)) in waiting.iter().enumerate() {
            if picked.contains(&at) {
                prop_assert!(!left.contains_key(session), "overtook one of its session");
                *taken.entry(*session).or_default() += 1;
            } else {
                left.entry(*session).or_insert(at);
            }
        }
        // Whoever has two turns more than another, which had one of one row to take, was unfair.
        for (session, at) in &left {
            let has = taken.get(session).copied().unwrap_or(0);
            let most = taken.values().copied().max().unwrap_or(0);
            let would_fit = waiting[*at].1 == 1;
            prop_assert!(!would_fit || most <= has + 1, "{:?} of {:?}", picked, waiting);
        }
    }
}
