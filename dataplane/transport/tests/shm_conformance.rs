//! The link shm and its memory keep the contracts of links and backings.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ferry_conformance::{ClientEnd, ServerEnd};
use ferry_transport::{Admission, Listener, ShmClient, ShmListener};

fn open() -> ServerEnd {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("ferry-conformance-{}-{number}", std::process::id());
    let listener = ShmListener::bind(&name).unwrap();
    let endpoint = listener.endpoint();
    let connect = move |told: &Admission, descriptor: &_| {
        let deadline = Instant::now() + Duration::from_secs(20);
        let Admission { session, generation, token, .. } = *told;
        let connected =
            ShmClient::connect(&endpoint, session, generation, token, descriptor, deadline);
        let (link, table) = connected.map_err(|error| error.to_string())?;
        Ok(ClientEnd { link: Box::new(link), table })
    };
    ServerEnd { listener: Box::new(listener), connect: Box::new(connect) }
}

ferry_conformance::link_suite!(open);

mod memory {
    use std::sync::Arc;

    use ferry_core::SlotLayout;
    use ferry_memory::{Backing, SharedBacking};

    fn make() -> Arc<dyn Backing> {
        let layout = SlotLayout { slots: 1, request_bytes: 4096, reply_bytes: 4096 };
        Arc::new(SharedBacking::create(8192, layout).unwrap().0)
    }

    ferry_conformance::backing_suite!(make);
}
