//! A part of an arena keeps the contract of backings, between two others.

use ferry_memory::{Arena, Region};

fn make() -> Region {
    let arena = Arena::new(3 << 16).expect("map three parts");
    let parts = [0; 3].map(|_| arena.part(1 << 16).ok().flatten().expect("room for three parts"));
    let [_first, part, _last] = parts;
    part
}

ferry_conformance::backing_suite!(make);
