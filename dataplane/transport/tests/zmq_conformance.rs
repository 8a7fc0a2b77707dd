//! The link zmq keeps the contract of links, over sockets of both families.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a failure is a failed test")]

use std::time::{Duration, Instant};

use ferry_conformance::{ClientEnd, ServerEnd};
use ferry_transport::{Admission, Listener, ZmqClient, ZmqListenerLink, ZmqOptions};

fn open_on(address: &str) -> ServerEnd {
    let bound = ZmqListenerLink::bind(address.parse().unwrap(), ZmqOptions::default());
    let listener = bound.unwrap();
    let endpoint = listener.endpoint();
    let connect = move |told: &Admission, _: &_| {
        let deadline = Instant::now() + Duration::from_secs(20);
        let Admission { session, generation, token, layout, .. } = *told;
        let connected = ZmqClient::connect(&endpoint, session, generation, token, layout, deadline);
        let (link, table) = connected.map_err(|error| error.to_string())?;
        Ok(ClientEnd { link: Box::new(link), table })
    };
    ServerEnd { listener: Box::new(listener), connect: Box::new(connect) }
}

fn open() -> ServerEnd {
    open_on("127.0.0.1:0")
}

ferry_conformance::link_suite!(open);

mod over_ipv6 {
    fn open() -> ferry_conformance::ServerEnd {
        super::open_on("[::1]:0")
    }

    ferry_conformance::link_suite!(open);
}
