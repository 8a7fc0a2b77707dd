//! The real `ferry` against the real `ferryd`, as a person and as a script would use them.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod accuracy;
mod bad_input;
mod between;
mod cases;
mod contract;
mod death;
mod fresh;
mod loss;
mod oip;
mod options;
mod outputs;
mod pictures;
mod read_only;
mod replies;
mod resume;
mod room;
mod server;
mod tasks;
mod tune;
