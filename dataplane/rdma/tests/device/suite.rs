//! The link keeps the contract of links, with each fence.

use std::time::{Duration, Instant};

use ferry_conformance::{ClientEnd, ServerEnd};
use ferry_rdma::{Fence, RdmaClient, RdmaListener};
use ferry_transport::Admission;

use crate::door::{attachable, options};

fn open(fence: Fence) -> ServerEnd {
    let listener = RdmaListener::open(ferry_rdma::RdmaOptions { fence, ..options() }).unwrap();
    let (listener, door) = attachable(listener);
    let connect = move |told: &Admission, region: &_| {
        let deadline = Instant::now() + Duration::from_secs(20);
        let Admission { session, generation, token, layout, .. } = *told;
        let mut attach = |attachment: &_| door.attach(session, attachment);
        let connected = RdmaClient::connect(
            &options(),
            session,
            generation,
            token,
            layout,
            region,
            &mut attach,
            deadline,
        );
        let (link, table) = connected.map_err(|error| format!("{error:?}"))?;
        Ok(ClientEnd { link: Box::new(link), table })
    };
    ServerEnd { listener, connect: Box::new(connect) }
}

mod windows {
    fn open() -> ferry_conformance::ServerEnd {
        super::open(ferry_rdma::Fence::Window)
    }

    ferry_conformance::link_suite!(open);
}

mod registrations {
    fn open() -> ferry_conformance::ServerEnd {
        super::open(ferry_rdma::Fence::Registration)
    }

    ferry_conformance::link_suite!(open);
}
