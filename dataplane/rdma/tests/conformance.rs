//! The link rdma keeps the contract of links. Needs a device: `./test rdma` runs it, on Soft-RoCE
//! in a virtual machine or on the device that FERRY_RDMA_DEVICE names.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a failure is a failed test")]

mod common;

use std::time::{Duration, Instant};

use common::{attachable, options};
use ferry_conformance::{ClientEnd, ServerEnd};
use ferry_rdma::{Fence, RdmaClient, RdmaListener};
use ferry_transport::Admission;

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
