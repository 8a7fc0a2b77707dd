//! Memory that was lent for reading keeps the contract of backings, as far as it can.

use std::sync::Arc;

use bytes::Bytes;
use ferry_memory::{Backing, LentBacking};

fn make(bytes: &[u8]) -> Arc<dyn Backing> {
    Arc::new(LentBacking::new(Bytes::copy_from_slice(bytes)))
}

ferry_conformance::lent_backing_suite!(make);
