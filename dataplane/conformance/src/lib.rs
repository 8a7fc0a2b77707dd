//! The suites that every link, backing and engine must pass.
