//! A session from end to end: the driver of a client and the lane of a server.
#![expect(clippy::unwrap_used, reason = "all of it is test code, helpers included")]

mod common;
mod driver;
mod faulty;
mod lane;
mod leaving;
