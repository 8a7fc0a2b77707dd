//! Memory that is only reached by copies keeps the contract of backings.

use ferry_conformance::far::FarDevice;
use ferry_memory::{Placer, Region};

fn make() -> Region {
    FarDevice::default().allocate(40_000).expect("take 40,000 bytes")
}

ferry_conformance::backing_suite!(make);
