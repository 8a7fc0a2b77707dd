use std::time::Duration;

use super::Hold::{Busy, Idle, Protected};
use super::*;

/// Residents by bytes, age in seconds (the larger, the longer not used) and what holds them.
fn residents(all: &[(u64, u64, Hold)]) -> Vec<Resident> {
    let now = Instant::now() + Duration::from_secs(1000);
    let one = |&(bytes, age, hold): &_| Resident {
        bytes,
        last_used: now - Duration::from_secs(age),
        hold,
    };
    all.iter().map(one).collect()
}

/// The plan for `needs` of 100 bytes, where residents alone have some of them.
fn plan_of(needs: u64, all: &[(u64, u64, Hold)]) -> Plan {
    let held = all.iter().map(|it| it.0).sum();
    plan(Place::Host, needs, 100, held, &residents(all))
}

fn refused(needs: u64, protected: u64) -> Plan {
    Plan::Refuse(Shortage { place: Place::Host, needs, bytes_max: 100, protected })
}

#[test]
fn what_was_not_used_for_longest_goes_first_and_no_more_than_is_needed() {
    assert_eq!(plan_of(40, &[(60, 1, Idle)]), Plan::Fits);
    assert_eq!(plan_of(0, &[(100, 1, Idle)]), Plan::Fits);
    assert_eq!(
        plan_of(50, &[(30, 1, Idle), (30, 9, Idle), (30, 5, Idle)]),
        Plan::Unload(vec![1, 2])
    );
    assert_eq!(plan_of(30, &[(30, 1, Idle), (30, 9, Idle), (30, 5, Idle)]), Plan::Unload(vec![1]));
    assert_eq!(plan_of(100, &[(50, 1, Idle), (50, 2, Idle)]), Plan::Unload(vec![1, 0]));
}

#[test]
fn idle_ones_go_before_those_with_requests_and_protected_ones_never() {
    assert_eq!(plan_of(40, &[(40, 9, Busy), (40, 1, Idle)]), Plan::Unload(vec![1]));
    assert_eq!(plan_of(90, &[(40, 9, Busy), (40, 1, Idle)]), Plan::Unload(vec![1, 0]));
    assert_eq!(plan_of(40, &[(40, 9, Protected), (40, 1, Busy)]), Plan::Unload(vec![1]));
}

#[test]
fn nothing_goes_in_vain() {
    // Beside what is protected there is no room, whatever else went.
    assert_eq!(plan_of(61, &[(40, 9, Protected), (40, 1, Idle)]), refused(61, 40));
    assert_eq!(plan_of(101, &[(40, 9, Idle)]), refused(101, 0));
    // The oldest one alone is not enough, and the next one is without it.
    assert_eq!(plan_of(60, &[(10, 9, Idle), (70, 1, Idle)]), Plan::Unload(vec![1]));
}

#[test]
fn what_is_leaving_is_waited_for() {
    let all = residents(&[(40, 9, Idle)]);
    assert_eq!(plan(Place::Host, 60, 100, 100, &all), Plan::Wait);
    assert_eq!(plan(Place::Host, 70, 100, 100, &all), Plan::Unload(vec![0]));
    assert_eq!(plan(Place::Host, 70, 100, 40, &[]), Plan::Wait);
}

#[test]
fn a_refusal_has_the_numbers_and_the_option() {
    let shortage =
        Shortage { place: Place::Gpu(1), needs: 70, bytes_max: 100, protected: 40 }.to_string();
    for part in ["70 bytes of memory of cuda:1", "--gpu-models-bytes-max is 100", "40"] {
        assert!(shortage.contains(part), "{part} is not in {shortage}");
    }
    let never = Shortage { place: Place::Host, needs: 170, bytes_max: 100, protected: 0 };
    assert!(never.to_string().ends_with("--models-bytes-max is 100: raise it"), "{never}");
}

#[test]
fn charges_come_back_whatever_their_order() {
    let ledger = Arc::new(Ledger::default());
    let (first, second) = (ledger.charge(Place::Host, 3), ledger.charge(Place::Host, 4));
    let other = ledger.charge(Place::Gpu(0), 5);
    assert_eq!((ledger.held(Place::Host), ledger.held(Place::Gpu(0))), (7, 5));
    assert!(first.is(Place::Host, 3) && !first.is(Place::Host, 4) && !first.is(Place::Gpu(0), 3));
    drop(first);
    assert_eq!(ledger.held(Place::Host), 4);
    drop((other, second));
    assert_eq!((ledger.held(Place::Host), ledger.held(Place::Gpu(0))), (0, 0));
}
