//! What the echo engine gives back.

use crate::common::{Client, payload};
use ferry_core::{MemoryChoice, Stage, Status};
use ferry_engine::{Echo, Engine, Job};
use proptest::prelude::*;

fn echo(input: &[u8], out_bytes: usize) -> Vec<u8> {
    let mut client = Client::new(1, input.len().try_into().unwrap(), out_bytes.try_into().unwrap());
    let mut work = client.tensor(input);
    // What an earlier reply left there must not show.
    let stale = vec![0xa5; work.arrival.slot.reply().bytes()];
    work.arrival.slot.reply_mut().copy_in(0, &stale).unwrap();
    let job = Job {
        arrival: work.arrival.into(),
        binding: work.binding,
        prepared: None,
        placed: None,
        members: Vec::new(),
        memory: MemoryChoice::Auto,
    };
    let finished = Echo::new().submit(job).expect("echo runs at once");
    let times = finished.outcome.expect("echo cannot fail");
    assert!(times.of(Stage::Infer).is_some());
    let departure = finished.job.arrival.depart(out_bytes, times);
    assert_eq!(departure.status, Status::Ok);
    payload(&departure)
}

#[test]
fn shorter_and_equal_outputs_are_the_start_of_the_input() {
    assert_eq!(echo(&[1, 2, 3], 3), [1, 2, 3]);
    assert_eq!(echo(&[1, 2, 3], 1), [1]);
}

#[test]
fn longer_outputs_repeat_the_input() {
    assert_eq!(echo(&[1, 2, 3], 8), [1, 2, 3, 1, 2, 3, 1, 2]);
    assert_eq!(echo(&[9], 5), [9; 5]);
}

#[test]
fn bytes_behind_the_payload_are_not_read() {
    let mut client = Client::new(1, 8, 8);
    let mut work = client.tensor(&[1; 8]);
    work.arrival.payload_bytes = 7;
    let job = Job {
        arrival: work.arrival.into(),
        binding: work.binding,
        prepared: None,
        placed: None,
        members: Vec::new(),
        memory: MemoryChoice::Auto,
    };
    let finished = Echo::new().submit(job).expect("echo runs at once");
    assert!(finished.outcome.is_err());
}

proptest! {
    #[test]
    fn output_i_is_input_i_mod_in(
        input in proptest::collection::vec(any::<u8>(), 1..300),
        out_bytes in 1_usize..5000,
    ) {
        let wanted: Vec<u8> = input.iter().copied().cycle().take(out_bytes).collect();
        prop_assert_eq!(echo(&input, out_bytes), wanted);
    }
}
