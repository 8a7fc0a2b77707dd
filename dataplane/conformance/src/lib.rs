//! The suites that every link, backing and engine must pass.
//!
//! A suite is a set of functions, one per clause of the seam's contract, and a macro that makes a
//! test of each, so that a failure carries the name of the clause that is broken:
//!
//! ```text
//! fn open() -> ferry_conformance::ServerEnd { … }
//! ferry_conformance::link_suite!(open);
//! ```
#![forbid(unsafe_code)]

pub mod backing;
pub mod cases;
pub mod engine;
pub mod far;
pub mod lent;
pub mod link;
pub mod transports;
pub mod turns;

pub use link::{ClientEnd, Connect, ServerEnd};

/// Makes one test per clause; used by the suites' macros.
#[doc(hidden)]
#[macro_export]
macro_rules! clauses {
    ($suite:path, $given:expr, $($clause:ident)*) => {
        $(
            #[test]
            fn $clause() {
                use $suite as suite;
                suite::$clause(&$given);
            }
        )*
    };
}

/// Tests a link: `$open` is a function that opens a listener, `fn() -> ServerEnd`.
#[macro_export]
macro_rules! link_suite {
    ($open:expr) => {
        $crate::clauses! { $crate::link, $open,
            it_carries_frames
            payloads_of_every_size_arrive_whole
            tails_arrive_with_their_frames
            order_is_kept_with_all_slots_in_flight
            a_slot_in_flight_cannot_be_claimed
            sent_is_reported_once
            sessions_do_not_mix
            what_is_not_taken_is_given_back
            a_wrong_token_is_refused
            a_frame_of_an_old_generation_is_refused
            a_frame_of_another_session_is_refused
            a_slot_out_of_range_is_refused
            a_payload_that_is_too_long_is_refused
            a_frame_of_the_wrong_kind_is_refused
            a_slot_in_flight_is_refused
            evict_ends_the_session_at_the_peer
            a_write_after_evict_changes_nothing
            the_next_generation_is_admitted
            a_dropped_client_is_gone
            a_dropped_server_is_gone
            the_waker_ends_a_park
            a_link_at_rest_sleeps
            an_arrival_ends_a_park
            nothing_is_slept_through
        }
    };
}

/// Tests a link that does not [carry frames](ferry_transport::Capabilities::carries_frames): each
/// request is a call. What the two suites share is the same clause; a call that the link has
/// nothing to say about (a server that learns of a client's end) has none. `$open` is a function
/// that opens a listener, `fn() -> ServerEnd`.
#[macro_export]
macro_rules! call_link_suite {
    ($open:expr) => {
        $crate::clauses! { $crate::link, $open,
            it_makes_calls
            payloads_of_every_size_arrive_whole
            each_reply_is_that_of_its_request
            shapes_of_outputs_arrive_with_their_reply
            a_slot_in_flight_cannot_be_claimed
            sent_is_reported_once
            sessions_do_not_mix
            what_is_not_taken_is_given_back
            what_a_call_cannot_say_is_given_back
            a_payload_that_is_too_long_is_refused
            a_call_without_proof_is_refused
            evict_is_told_to_the_next_call
            a_write_after_evict_changes_nothing
            the_next_generation_is_admitted
            a_dropped_server_is_gone
            the_waker_ends_a_park
            a_link_at_rest_sleeps
            an_arrival_ends_a_park
            nothing_is_slept_through
        }
    };
}

/// Tests a backing of at least 8,192 bytes that is zeroed: `$make` is a function that makes one,
/// `fn() -> Region`.
#[macro_export]
macro_rules! backing_suite {
    ($make:expr) => {
        $crate::clauses! { $crate::backing, $make,
            it_stays_the_same
            bytes_outside_are_refused
            copies_come_back
            writes_of_other_threads_are_visible
            halves_of_slots_are_apart
        }
    };
}

/// Tests a backing that was lent for reading: `$make` gives one over the bytes that it is given,
/// `fn(&[u8]) -> Region`.
#[macro_export]
macro_rules! lent_backing_suite {
    ($make:expr) => {
        $crate::clauses! { $crate::lent, $make,
            it_stays_the_same
            bytes_outside_are_refused
            what_was_lent_is_read
            nothing_can_be_written
        }
    };
}

/// Tests an engine: `$make` is a function that loads one and gives a request that it answers,
/// `fn() -> EngineUnderTest`.
#[macro_export]
macro_rules! engine_suite {
    ($make:expr) => {
        $crate::clauses! { $crate::engine, $make,
            the_signature_is_well_formed
            the_same_input_gives_the_same_output
            every_job_comes_back_once
            depth_many_jobs_are_in_flight
            a_payload_of_the_wrong_length_is_an_error
            a_failed_job_comes_back_whole
            an_interrupted_engine_fails_until_it_is_resumed
        }
    };
}
