//! The pool, the echo engine and the preparation of requests, from outside.

mod common;
mod echo;
mod endings;
mod pool;
mod prepare;
