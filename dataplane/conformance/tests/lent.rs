//! Memory that was lent for reading keeps the contract of backings, as far as it can.

use bytes::Bytes;
use ferry_memory::{LentBacking, Region};

fn make(bytes: &[u8]) -> Region {
    Region::whole(LentBacking::new(Bytes::copy_from_slice(bytes)))
}

ferry_conformance::lent_backing_suite!(make);
