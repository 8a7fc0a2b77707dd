//! The link tcp keeps the contract of links, over sockets of both families and with buffers that
//! no payload fits.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a failure is a failed test")]

use std::net::TcpListener;
use std::time::{Duration, Instant};

use ferry_conformance::{ClientEnd, ServerEnd};
use ferry_transport::{Admission, Listener, TcpClient, TcpListenerLink, TcpOptions};

fn open_on(address: &str, options: TcpOptions) -> ServerEnd {
    let listener = TcpListenerLink::new(TcpListener::bind(address).unwrap(), options).unwrap();
    let endpoint = listener.endpoint();
    let connect = move |told: &Admission, _: &_| {
        let deadline = Instant::now() + Duration::from_secs(20);
        let Admission { session, generation, token, layout, .. } = *told;
        let connected = TcpClient::connect(&endpoint, session, generation, token, layout, deadline);
        let (link, table) = connected.map_err(|error| error.to_string())?;
        Ok(ClientEnd { link: Box::new(link), table })
    };
    ServerEnd { listener: Box::new(listener), connect: Box::new(connect) }
}

fn open() -> ServerEnd {
    open_on("127.0.0.1:0", TcpOptions::default())
}

ferry_conformance::link_suite!(open);

mod over_ipv6 {
    fn open() -> ferry_conformance::ServerEnd {
        super::open_on("[::1]:0", super::TcpOptions::default())
    }

    ferry_conformance::link_suite!(open);
}

mod with_small_buffers {
    use ferry_transport::TcpOptions;

    fn open() -> ferry_conformance::ServerEnd {
        let options = TcpOptions { socket_buffer_bytes: Some(16 << 10), ..TcpOptions::default() };
        super::open_on("127.0.0.1:0", options)
    }

    ferry_conformance::link_suite!(open);
}
