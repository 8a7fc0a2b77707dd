//! Heap memory keeps the contract of backings.

use ferry_memory::{HeapBacking, Region};

fn make() -> Region {
    Region::whole(HeapBacking::new(40_000).expect("map 40,000 bytes"))
}

ferry_conformance::backing_suite!(make);
