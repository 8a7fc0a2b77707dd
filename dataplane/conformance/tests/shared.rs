//! Memory that two processes share keeps the contract of backings, at the end that made it and at
//! the end that was handed the descriptor.

use ferry_core::SlotLayout;
use ferry_memory::{Region, SharedBacking};

const BYTES: usize = 40_960;
const LAYOUT: SlotLayout = SlotLayout { slots: 1, request_bytes: 20_480, reply_bytes: 20_480 };

mod made {
    use super::{BYTES, LAYOUT, Region, SharedBacking};

    fn make() -> Region {
        Region::whole(SharedBacking::create(BYTES, LAYOUT).expect("make a memfd").0)
    }

    ferry_conformance::backing_suite!(make);
}

mod handed_over {
    use super::{BYTES, LAYOUT, Region, SharedBacking};

    fn make() -> Region {
        let (_, memfd) = SharedBacking::create(BYTES, LAYOUT).expect("make a memfd");
        Region::whole(SharedBacking::import(memfd, BYTES, LAYOUT).expect("map it"))
    }

    ferry_conformance::backing_suite!(make);
}
