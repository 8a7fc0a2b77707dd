use std::sync::Arc;
use std::time::Duration;

use ferry_core::{BoundSignature, Generation, MemoryChoice, Request, RequestKind, SlotLayout};
use ferry_memory::{Departure, ReplyTo, SlotTable};
use proptest::prelude::*;

use super::*;

#[derive(Debug)]
struct Nobody;

impl ReplyTo for Nobody {
    fn depart(&self, _departure: Departure) {}
}

/// Session, peer, number.
type Name = (u64, u64, u64);

fn request((session, peer, request): Name, deadline: Option<Instant>) -> Queued {
    let layout = SlotLayout { slots: 1, request_bytes: 1, reply_bytes: 1 };
    let now = Instant::now();
    let arrival = Arrival {
        peer: PeerId(peer),
        session: SessionId(session),
        generation: Generation::FIRST,
        request,
        what: Request::of(RequestKind::Tensor),
        payload_bytes: 0,
        slot: SlotTable::private(layout).unwrap().acquire().unwrap(),
        seen: now,
        visible: now,
    };
    let binding = Arc::new(BoundSignature { inputs: Vec::new(), outputs: Vec::new() });
    let (memory, reply_to) = (MemoryChoice::Auto, Arc::new(Nobody));
    Queued { work: Work { arrival, binding, memory, reply_to, deadline }, rung: None }
}

fn name(work: &Work) -> Name {
    (work.arrival.session.0, work.arrival.peer.0, work.arrival.request)
}

fn level(names: &[Name]) -> Level {
    let mut level = Level::default();
    for &name in names {
        assert!(level.push(request(name, None), usize::MAX).unwrap().is_none());
    }
    level
}

fn order(mut level: Level) -> Vec<Name> {
    std::iter::from_fn(|| level.pop()).map(|queued| name(&queued.work)).collect()
}

#[test]
fn clients_take_turns_and_keep_their_own_order() {
    let level = level(&[(1, 1, 1), (1, 1, 2), (1, 1, 3), (1, 2, 4), (2, 0, 5), (1, 2, 6)]);
    let expected = [(1, 1, 1), (1, 2, 4), (2, 0, 5), (1, 1, 2), (1, 2, 6), (1, 1, 3)];
    assert_eq!(order(level), expected);
}

#[test]
fn whoever_sends_again_at_once_and_whoever_is_new_do_not_starve_others() {
    let mut level = level(&[(1, 0, 1), (1, 0, 2), (1, 0, 3)]);
    let mut served = Vec::new();
    for number in 0..20 {
        // One that always has one request here, and one after the other that never was here.
        for session in [2, 100 + number] {
            let came = (session, 0, number);
            if session != 2 || number == 0 || served.last() == Some(&(2, 0, number - 1)) {
                level.push(request(came, None), usize::MAX).unwrap();
            }
        }
        served.push(name(&level.pop().unwrap().work));
    }
    let of_first = served.iter().filter(|it| it.0 == 1).count();
    assert_eq!(of_first, 3, "{served:?}");
}

#[test]
fn in_a_full_level_those_make_room_that_have_most() {
    let mut level = level(&[(1, 0, 1), (1, 0, 2), (1, 0, 3)]);
    assert_eq!(
        level.push(request((1, 0, 4), None), 3).map_err(|it| name(&it.work)).unwrap_err(),
        (1, 0, 4)
    );
    let displaced = level.push(request((2, 0, 5), None), 3).unwrap().unwrap();
    assert_eq!(name(&displaced.work), (1, 0, 3));
    let displaced = level.push(request((3, 0, 6), None), 3).unwrap().unwrap();
    assert_eq!(name(&displaced.work), (1, 0, 2));
    assert!(level.push(request((4, 0, 7), None), 3).is_err(), "each has one");
    assert_eq!(order(level), [(1, 0, 1), (2, 0, 5), (3, 0, 6)]);
}

#[test]
fn what_is_taken_out_leaves_the_rest_as_it_was() {
    let all = [(1, 1, 1), (1, 2, 2), (1, 1, 3), (2, 1, 4)];
    let withdraw = |peer: Option<u64>| {
        let (mut level, mut out) = (level(&all), Vec::new());
        let odd = |work: &Work| (work.arrival.request != 3).then_some(Refused::Gone);
        level.withdraw(SessionId(1), peer.map(PeerId), &odd, &mut out);
        (out.iter().map(|(work, _)| name(work)).collect::<Vec<_>>(), order(level))
    };
    assert_eq!(withdraw(Some(1)), (vec![(1, 1, 1)], vec![(1, 2, 2), (2, 1, 4), (1, 1, 3)]));
    assert_eq!(withdraw(None), (vec![(1, 1, 1), (1, 2, 2)], vec![(2, 1, 4), (1, 1, 3)]));
    assert_eq!(withdraw(Some(9)).0, []);
}

#[test]
fn late_ones_are_found_and_nothing_is_looked_at_where_none_can_be() {
    let now = Instant::now();
    let mut level = Level::default();
    for (number, seconds) in [(1, Some(5)), (2, None), (3, Some(1))] {
        let deadline = seconds.map(|it| now + Duration::from_secs(it));
        level.push(request((number, 0, number), deadline), 9).unwrap();
    }
    assert!(level.take_late(now).is_empty());
    let late = level.take_late(now + Duration::from_secs(2));
    assert_eq!(late.iter().map(|(work, _)| name(work)).collect::<Vec<_>>(), [(3, 0, 3)]);
    assert_eq!(level.earliest_deadline, Some(now + Duration::from_secs(5)));
    assert_eq!(order(level), [(1, 0, 1), (2, 0, 2)]);
}

#[test]
fn those_ahead_are_never_counted_too_many() {
    let level = level(&[(1, 0, 1), (1, 0, 2), (2, 0, 3)]);
    let client = |session| Client { session: SessionId(session), peer: PeerId(0) };
    assert_eq!(level.ahead_of(client(1)), 3);
    // In the second round it comes last.
    assert_eq!(level.ahead_of(client(2)), 3);
    // It overtakes the second one of 1, so that nothing is sure.
    assert_eq!(level.ahead_of(client(3)), 0);
}

proptest! {
    #[test]
    fn each_request_comes_out_once_in_its_clients_order(
        steps in proptest::collection::vec((0_u64..4, 0_u64..3, 0_u8..8), 1..200),
        bound in 1_usize..20,
    ) {
        let mut level = Level::default();
        let (mut inside, mut last) = (Vec::new(), std::collections::HashMap::new());
        for (number, (session, peer, what)) in (0..).zip(steps) {
            match what {
                0..=4 => match level.push(request((session, peer, number), None), bound) {
                    Err(refused) => prop_assert_eq!(name(&refused.work), (session, peer, number)),
                    Ok(displaced) => {
                        inside.push((session, peer, number));
                        let gone = displaced.map(|it| name(&it.work));
                        inside.retain(|it| Some(*it) != gone);
                    }
                },
                5 => {
                    let mut out = Vec::new();
                    let all = |_: &Work| Some(Refused::Gone);
                    level.withdraw(SessionId(session), None, &all, &mut out);
                    prop_assert!(out.iter().all(|(work, _)| work.arrival.session.0 == session));
                    inside.retain(|it| it.0 != session);
                }
                6 => {
                    let mut taken = Vec::new();
                    let places: Vec<usize> = (0..level.len()).step_by(2).collect();
                    let wanted: Vec<Name> =
                        level.iter().step_by(2).map(|it| name(&it.work)).collect();
                    level.take(&places, &mut taken);
                    let taken: Vec<Name> = taken.iter().map(|it| name(&it.work)).collect();
                    prop_assert_eq!(&taken, &wanted);
                    inside.retain(|it| !taken.contains(it));
                }
                _ => {
                    let popped = level.pop().map(|it| name(&it.work));
                    prop_assert_eq!(popped.is_some(), !inside.is_empty());
                    inside.retain(|it| Some(*it) != popped);
                    if let Some((session, peer, number)) = popped {
                        let before = last.insert((session, peer), number);
                        prop_assert!(before.is_none_or(|before| before < number));
                    }
                }
            }
            prop_assert!(level.len() <= bound);
            prop_assert_eq!(level.len(), inside.len());
            prop_assert_eq!(level.of_clients.len(), inside.len());
        }
    }
}
