//! The references: the least that moves the same bytes the same way, with no server around it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;

use anyhow::{Context, anyhow};
use ferry_client::{Transport, WaitPolicy};

use super::bare_grpc::BareGrpc;
use super::bare_shm::BareShm;
use super::pair::Plan;
use crate::Error;

/// One side of a ping-pong; the other one is a thread of its own.
pub(super) trait Bare {
    /// Fills, sends, and waits for the reply.
    fn once(&mut self) -> Result<(), Error>;
}

type Start = fn(&Plan, WaitPolicy) -> Result<Box<dyn Bare>, Error>;

/// The reference of each link that has one.
const REFERENCES: &[(Transport, Start)] = &[
    (Transport::Shm, |plan, wait| Ok(Box::new(BareShm::start(plan, wait)?))),
    (Transport::Tcp, |plan, _| Ok(Box::new(BareTcp::start(plan)?))),
    (Transport::Zmq, |plan, _| Ok(Box::new(BareZmq::start(plan)?))),
    (Transport::Grpc, |plan, _| Ok(Box::new(BareGrpc::start(plan)?))),
];

/// The transports that have a reference.
pub fn references() -> impl Iterator<Item = Transport> {
    REFERENCES.iter().map(|&(transport, _)| transport)
}

/// Starts the reference of a link.
pub(super) fn start(
    plan: &Plan,
    transport: Transport,
    wait: WaitPolicy,
) -> Result<Box<dyn Bare>, Error> {
    let found = REFERENCES.iter().find(|(of, _)| *of == transport);
    let none = || Error::Usage(format!("{transport} has no bare reference"));
    let (_, start) = found.ok_or_else(none)?;
    start(plan, wait)
}

pub(super) fn thread(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, Error> {
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    spawned.context("start the reference's thread").map_err(Error::Failed)
}

pub(super) fn source(plan: &Plan) -> Vec<u8> {
    vec![7; plan.in_bytes]
}

/// std's sockets, blocking, without Nagle's delay; buffers are reused.
struct BareTcp {
    stream: TcpStream,
    source: Vec<u8>,
    sent: Vec<u8>,
    answer: Vec<u8>,
}

impl BareTcp {
    fn start(plan: &Plan) -> Result<BareTcp, Error> {
        let listener = TcpListener::bind("127.0.0.1:0").context("bind")?;
        let address = listener.local_addr().context("read the address")?;
        let (mut landed, reply) = (vec![0; plan.in_bytes], vec![8; plan.out_bytes]);
        thread("bare-tcp", move || {
            let Ok((mut stream, _)) = listener.accept() else { return };
            drop(stream.set_nodelay(true));
            // Ends when the client goes.
            while stream.read_exact(&mut landed).and_then(|()| stream.write_all(&reply)).is_ok() {}
        })?;
        let stream = TcpStream::connect(address).context("connect")?;
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        let (sent, answer) = (vec![0; plan.in_bytes], vec![0; plan.out_bytes]);
        Ok(BareTcp { stream, source: source(plan), sent, answer })
    }
}

impl Bare for BareTcp {
    fn once(&mut self) -> Result<(), Error> {
        self.sent.copy_from_slice(&self.source);
        self.stream.write_all(&self.sent).context("send")?;
        Ok(self.stream.read_exact(&mut self.answer).context("receive")?)
    }
}

/// libzmq's DEALER and ROUTER over TCP, blocking; buffers are reused, and as many copies are made
/// as a slot needs: one to fill, one into libzmq and one out of it at each end.
struct BareZmq {
    _context: zmq::Context,
    socket: zmq::Socket,
    source: Vec<u8>,
    sent: Vec<u8>,
    answer: Vec<u8>,
}

/// How long a receive may block: the server's thread ends this long after its client.
const ZMQ_WAIT_MS: i32 = 1000;

impl BareZmq {
    fn start(plan: &Plan) -> Result<BareZmq, Error> {
        let server_context = zmq::Context::new();
        let server = server_context.socket(zmq::ROUTER).context("make a socket")?;
        server.set_linger(0).context("set linger")?;
        server.set_rcvtimeo(ZMQ_WAIT_MS).context("set a timeout")?;
        server.bind("tcp://127.0.0.1:*").context("bind")?;
        let address = server.get_last_endpoint().context("read the address")?;
        let address = address.map_err(|_bytes| anyhow!("the address is no text"))?;
        let (mut landed, reply) = (vec![0; plan.in_bytes], vec![8; plan.out_bytes]);
        thread("bare-zmq", move || {
            let _context = server_context;
            let mut peer = zmq::Message::new();
            let mut serve = || {
                server.recv(&mut peer, 0)?;
                server.recv_into(&mut landed, 0)?;
                server.send(&peer[..], zmq::SNDMORE)?;
                server.send(&reply[..], 0)
            };
            // A second without a request: its client is gone, or another link is measured.
            while serve().is_ok() {}
        })?;
        let context = zmq::Context::new();
        let socket = context.socket(zmq::DEALER).context("make a socket")?;
        socket.set_linger(0).context("set linger")?;
        socket.connect(&address).context("connect")?;
        let (sent, answer) = (vec![0; plan.in_bytes], vec![0; plan.out_bytes]);
        Ok(BareZmq { _context: context, socket, source: source(plan), sent, answer })
    }
}

impl Bare for BareZmq {
    fn once(&mut self) -> Result<(), Error> {
        self.sent.copy_from_slice(&self.source);
        self.socket.send(&self.sent, 0).context("send")?;
        self.socket.recv_into(&mut self.answer, 0).context("receive")?;
        Ok(())
    }
}
