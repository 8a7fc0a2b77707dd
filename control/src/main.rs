//! `ferryd`, the server.
fn main() {}
