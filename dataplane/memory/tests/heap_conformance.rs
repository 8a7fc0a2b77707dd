//! Heap memory keeps the contract of backings.

use std::sync::Arc;

use ferry_memory::{Backing, HeapBacking};

fn make() -> Arc<dyn Backing> {
    Arc::new(HeapBacking::new(40_000).expect("map 40,000 bytes"))
}

ferry_conformance::backing_suite!(make);
