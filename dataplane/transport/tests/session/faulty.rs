//! Driver and lane over a link that loses, delays, reorders, repeats and breaks.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::*;
use ferry_core::{Status, WaitPolicy};
use ferry_transport::lane::LaneHandle;
use ferry_transport::{Driver, DriverState, Ending, Faults, Faulty, LocalDoor, SubmitRefusal};

const SEEDS: u64 = 320;
const REQUESTS: u64 = 40;
/// Short: a lost frame costs each seed this long. Honest replies that take longer are also
/// allowed to miss it.
const DEADLINE: Duration = Duration::from_millis(5);
/// A session is stuck when all its slots were lost; it is given up after this.
const STUCK: Duration = Duration::from_millis(15);

/// Every seed gets one mix of faults: each kind alone, and all together, with and without a break.
fn faults_of(seed: u64) -> Faults {
    let pick = |bit: u64, chance: u64| if (seed >> bit) & 1 == 1 { chance } else { 0 };
    Faults {
        seed,
        lose: pick(0, 30),
        delay: pick(1, 200),
        delay_polls_max: 1 + seed % 40,
        repeat: pick(2, 40),
        break_at: ((seed >> 3) & 1 == 1).then_some(seed * 7 % 80),
    }
}

/// What became of one session.
#[derive(Debug, Default)]
struct Tally {
    sent: u64,
    replied: u64,
    late: u64,
    lost: u64,
    gave_up: bool,
}

fn one_seed(lane: &LaneHandle, door: &LocalDoor, seed: u64) -> Tally {
    let mut admission = admission(seed + 1, 4);
    admission.wait = WaitPolicy::ALL[usize::try_from(seed % 3).unwrap()];
    lane.admit(admission.clone()).unwrap();
    let (link, table) =
        door.connect(admission.session, admission.generation, &admission.token).unwrap();
    let kept = Arc::new(Kept::default());
    let link = Faulty::new(Box::new(link), Arc::clone(&table), faults_of(seed));
    let mut driver = Driver::new(Box::new(link), options(&admission), Arc::clone(&kept) as _);
    let mut tally = Tally::default();
    let mut open: HashMap<u64, u8> = HashMap::new();
    let start = Instant::now();
    while tally.sent < REQUESTS || !open.is_empty() {
        assert!(start.elapsed() < WATCHDOG, "seed {seed} hangs: {tally:?}");
        while tally.sent < REQUESTS
            && let Some(mut slot) = table.acquire()
        {
            let value = u8::try_from((seed + tally.sent) % 251).unwrap();
            slot.request_mut().copy_in(0, &[value; 100]).unwrap();
            match driver.submit(slot, 100, TENSOR, None) {
                Ok(number) => {
                    assert!(open.insert(number, value).is_none(), "seed {seed}: number reused");
                    assert!(driver.set_deadline(number, Instant::now() + DEADLINE));
                    tally.sent += 1;
                }
                Err(error) => {
                    let ours = matches!(error.why, SubmitRefusal::ForeignSlot(_));
                    assert!(!ours, "seed {seed}: a slot was given out twice");
                    break;
                }
            }
        }
        let some = driver.wait(Some(Instant::now() + STUCK));
        while let Some(done) = driver.take() {
            let value = open.remove(&done.request);
            let value = value.unwrap_or_else(|| panic!("seed {seed}: completed twice: {done:?}"));
            match done.ending {
                Ending::Replied => {
                    assert_eq!(reply_of(&done), [value + 1; 100], "seed {seed}: wrong answer");
                    tally.replied += 1;
                }
                Ending::DeadlinePassed => tally.late += 1,
                Ending::LinkLost => tally.lost += 1,
            }
        }
        let lost = matches!(driver.state(), DriverState::Lost(_));
        if lost || (!some && table.free_slots() == 0) {
            tally.gave_up = true;
            break;
        }
    }
    let lost = matches!(driver.state(), DriverState::Lost(_));
    assert!(!lost || open.is_empty(), "seed {seed}: forgotten with the link: {open:?}");
    assert!(!lost || table.is_retired(), "seed {seed}: a slot of a lost lease can be reused");
    drop(driver);
    let records = kept.all();
    let numbers: HashSet<u64> = records.iter().map(|it| it.request).collect();
    assert_eq!(records.len() as u64, tally.sent, "seed {seed}: one record per request");
    assert_eq!(numbers.len(), records.len(), "seed {seed}: a request was recorded twice");
    lane.evict(admission.session, Status::SessionEnded).unwrap();
    tally
}

#[test]
fn sessions_cope_with_every_seed() {
    let (lane, door) = local_lane(64, PlusOne);
    let mut all = Tally::default();
    let mut clean = 0;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|part| {
                let (lane, door) = (&lane, &door);
                scope.spawn(move || {
                    let seeds = (part..SEEDS).step_by(4);
                    seeds.map(|seed| (seed, one_seed(lane, door, seed))).collect::<Vec<_>>()
                })
            })
            .collect();
        for (seed, tally) in threads.into_iter().flat_map(|it| it.join().unwrap()) {
            let ended = tally.replied + tally.late + tally.lost;
            assert!(ended <= tally.sent, "seed {seed}: {tally:?}");
            assert!(tally.gave_up || ended == REQUESTS, "seed {seed}: {tally:?}");
            clean += u64::from(tally.replied == REQUESTS);
            all.replied += tally.replied;
            all.late += tally.late;
            all.lost += tally.lost;
        }
    });
    // The faults are there, and so is what works in spite of them.
    assert!(all.late > 0 && all.lost > 0 && clean > 0, "{all:?}, {clean} without a loss");
    assert!(all.replied > SEEDS * REQUESTS / 4, "{all:?}");
    let honest = admission(100_000, 4);
    lane.admit(honest.clone()).unwrap();
    let mut client = connect(&door, &honest);
    client.send(9, 50);
    assert_eq!(reply_of(&client.next()), [10; 50], "the lane serves on");
    lane.stop().unwrap();
    assert_eq!(lane.stats().in_flight, 0);
}

#[test]
fn the_same_seed_makes_the_same_faults() {
    let run = || {
        let (lane, door) = local_lane(64, PlusOne);
        let mut admission = admission(1, 1);
        admission.wait = WaitPolicy::Block;
        lane.admit(admission.clone()).unwrap();
        let (link, table) =
            door.connect(admission.session, admission.generation, &admission.token).unwrap();
        let faults = Faults { seed: 42, delay: 500, delay_polls_max: 9, ..Faults::default() };
        let faults = Faults { break_at: Some(31), ..faults };
        let link = Faulty::new(Box::new(link), Arc::clone(&table), faults);
        let kept = Arc::new(Kept::default());
        let mut driver = Driver::new(Box::new(link), options(&admission), kept);
        let mut replied = 0;
        while let Some(slot) = table.acquire() {
            if driver.submit(slot, 10, TENSOR, None).is_err() || !driver.wait(None) {
                break;
            }
            match driver.take().unwrap().ending {
                Ending::Replied => replied += 1,
                _ => break,
            }
        }
        lane.stop().unwrap();
        replied
    };
    let first = run();
    assert_eq!(first, 15, "frame 31 is the reply to the 16th request");
    assert_eq!(run(), first);
}
