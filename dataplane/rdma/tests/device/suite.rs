//! The link keeps the contract of links, with each fence.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_conformance::{ClientEnd, ServerEnd};
use ferry_memory::Placer;
use ferry_rdma::{Fence, RdmaClient, RdmaListener};
use ferry_transport::Admission;

use crate::door::{attachable_on, options};
use crate::pretended::{Flaw, Pretender};

fn open(fence: Fence) -> ServerEnd {
    open_on(fence, None)
}

fn open_on(fence: Fence, placer: Option<Arc<dyn Placer>>) -> ServerEnd {
    let listener = RdmaListener::open(ferry_rdma::RdmaOptions { fence, ..options() }).unwrap();
    let (listener, door) = attachable_on(listener, placer);
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

/// Payloads in memory of a pretended device, as the transport gdr has them.
mod apart {
    fn open() -> ferry_conformance::ServerEnd {
        let placer = super::Pretender::new(super::Flaw::None);
        super::open_on(ferry_rdma::Fence::Auto, Some(placer))
    }

    ferry_conformance::link_suite!(open);
}
