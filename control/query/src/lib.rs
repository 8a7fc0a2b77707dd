//! Reads a store: one read-only statement, bounded in rows, bytes and time.
//!
//! A crate of its own because two programs need it and neither may depend on the other: `ferryd`
//! answers queries over gRPC, `ferry sql` opens the file itself. What a person or a peer typed is
//! not trusted, and three things stand in its way: only one `SELECT`, `WITH`, `VALUES` or `EXPLAIN`
//! is let through; the file is opened read-only; and the connection refuses every write itself.

#![deny(unsafe_code)]

#[expect(unsafe_code, reason = "sqlx does not set SQLite's limits")]
mod bounds;
mod cell;
mod error;
mod location;
mod reader;
mod statement;

pub use cell::Cell;
pub use error::QueryError;
pub use location::{BadLocation, Location};
pub use reader::{QueryLimits, Reader, Rows};
pub use statement::check;
