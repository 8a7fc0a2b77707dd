//! The link shm and its memory keep the contracts of links and backings.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a failure is a failed test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ferry_conformance::{ClientEnd, Connect, ServerEnd};
use ferry_core::Endpoint;
use ferry_memory::Importer;
use ferry_transport::{Admission, Listener, ShmClient, ShmListener};

fn listen() -> ShmListener {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("ferry-conformance-{}-{number}", std::process::id());
    ShmListener::bind(&name).unwrap()
}

fn connect(endpoint: Endpoint, importer: Option<Arc<dyn Importer>>) -> Connect {
    Box::new(move |told: &Admission, descriptor: &_| {
        let deadline = Instant::now() + Duration::from_secs(20);
        let Admission { session, generation, token, .. } = *told;
        let importer = importer.as_deref();
        let connected = ShmClient::connect(
            &endpoint, session, generation, token, descriptor, importer, deadline,
        );
        let (link, table) = connected.map_err(|error| error.to_string())?;
        Ok(ClientEnd { link: Box::new(link), table })
    })
}

fn open() -> ServerEnd {
    let listener = listen();
    let connect = connect(listener.endpoint(), None);
    ServerEnd { listener: Box::new(listener), connect }
}

ferry_conformance::link_suite!(open);

/// The doorbell alone in the memfd; the slots in memory that is reached by copies.
mod apart {
    use ferry_conformance::far::{FarDevice, Placing};

    use super::*;

    fn open() -> ServerEnd {
        let device = Arc::new(FarDevice::default());
        let listener = listen();
        let connect = connect(listener.endpoint(), Some(Arc::<FarDevice>::clone(&device)));
        ServerEnd { listener: Box::new(Placing { listener, placer: device }), connect }
    }

    ferry_conformance::link_suite!(open);
}
