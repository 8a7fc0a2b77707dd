//! What every [`Link`] and [`Listener`] promises.
//!
//! Forged frames go through the client's own [`Link::submit`]: a client's link sends a frame as it
//! is (only a payload longer than its slot may be rejected there), and the server's end refuses.

mod carry;
mod end;
mod pair;
mod refuse;
mod wait;

use std::sync::Arc;

use ferry_core::RegionDescriptor;
use ferry_memory::SlotTable;
use ferry_transport::{Admission, Link, Listener};

pub use carry::{
    a_slot_in_flight_cannot_be_claimed, order_is_kept_with_all_slots_in_flight,
    payloads_of_every_size_arrive_whole, sent_is_reported_once, sessions_do_not_mix,
    tails_arrive_with_their_frames, what_is_not_taken_is_given_back,
};
pub use end::{
    a_dropped_client_is_gone, a_dropped_server_is_gone, a_write_after_evict_changes_nothing,
    evict_ends_the_session_at_the_peer, the_next_generation_is_admitted,
};
pub use refuse::{
    a_frame_of_an_old_generation_is_refused, a_frame_of_another_session_is_refused,
    a_frame_of_the_wrong_kind_is_refused, a_payload_that_is_too_long_is_refused,
    a_slot_in_flight_is_refused, a_slot_out_of_range_is_refused, a_wrong_token_is_refused,
};
pub use wait::{an_arrival_ends_a_park, nothing_is_slept_through, the_waker_ends_a_park};

/// A listener and the way to it.
pub struct ServerEnd {
    /// Open, without sessions.
    pub listener: Box<dyn Listener>,
    /// Connects clients to it.
    pub connect: Connect,
}

/// Connects the client of a session, by what its client was told: session, generation, token and
/// layout of the admission, and the descriptor that `admit` returned. Called on a thread of its
/// own while the listener is polled, so it may wait for the server's answer; or it returns a link
/// whose handshake goes on while it is polled. A refusal is an error, or a link that reports
/// [`Event::Gone`](ferry_transport::Event::Gone).
pub type Connect =
    Box<dyn Fn(&Admission, &RegionDescriptor) -> Result<ClientEnd, String> + Send + Sync>;

/// A client's link and the slots of its session.
pub struct ClientEnd {
    /// Connected, or connecting.
    pub link: Box<dyn Link>,
    /// Where it takes slots from.
    pub table: Arc<SlotTable>,
}

impl std::fmt::Debug for ServerEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerEnd").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ClientEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientEnd").field("link", &self.link).finish_non_exhaustive()
    }
}
