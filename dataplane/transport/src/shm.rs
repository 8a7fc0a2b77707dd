//! The link `shm`: payloads are written in place in memory that both ends map, and a ring of slot
//! numbers is the doorbell.
//!
//! ```text
//! client                              memfd of the session                     server's lane
//! payload → slot's request half ───► [slots]
//! header  → slot's request cell ───► [header cells] ──── copied out once ───► checked
//! number  → request ring        ───► [ring, sleeping] ─────────────────────► popped
//!           (bell, an eventfd, only if the lane sleeps) ───────────────────► epoll
//! ```
//!
//! and the same way back, with a futex in the memfd instead of the bell: a client waits for one
//! server, a lane for thousands of clients and for their deaths. The Unix socket on which the memfd
//! was handed over stays open for the life of the session: its end is how either side learns that
//! the other one died.
//!
//! The lane polls the rings of the sessions that are active. A session that fell silent is *armed*:
//! its sleeping flag is raised, its next request rings its bell, and until then it costs nothing.

mod client;
mod door;
mod layout;
mod listener;
mod notices;
mod seats;
mod session;
mod wire;

pub use client::ShmClient;
pub use layout::SessionLayout;
pub use listener::ShmListener;

#[cfg(test)]
mod tests;
