//! A server, a client of its control plane, and the client's end of a session.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ferry_connect::{ControlPlane, Lease};
use ferry_control::models::{Residency, Used};
use ferry_control::state::State;
use ferry_control::{Config, RdmaOptions, Server, bind};
use ferry_core::frame::VERSION;
use ferry_core::{
    Attachment, Generation, RegionDescriptor, Request, RequestKind, RequestRecord, SessionId,
    SlotLayout, Status, Token, Transport, WaitPolicy,
};
use ferry_memory::SlotTable;
use ferry_proto::v1;
use ferry_proto::v1::sessions_client::SessionsClient;
use ferry_transport::{
    ConnectError, Driver, DriverOptions, Link, LinkError, RecordSink, UnixClock,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

/// A watchdog, and no more: nothing here takes as long.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// A server that runs.
pub(crate) struct Running {
    pub(crate) state: Arc<State>,
    pub(crate) channel: Channel,
    pub(crate) address: SocketAddr,
    pub(crate) http: Option<SocketAddr>,
    pub(crate) metrics: Option<SocketAddr>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
}

/// What is served where a test does not say otherwise: a store in memory, small limits.
pub(crate) fn config() -> Config {
    // A device of this machine must not change what tests see.
    let rdma = RdmaOptions { device: Some("no-such-device".into()), ..RdmaOptions::default() };
    Config {
        rdma,
        listen: "127.0.0.1:0".into(),
        store: "sqlite::memory:".into(),
        sample_every: Duration::ZERO,
        ..Config::default()
    }
}

impl Running {
    pub(crate) async fn start(edit: impl FnOnce(&mut Config)) -> Running {
        let mut config = config();
        edit(&mut config);
        let listeners = bind(&config).await.unwrap();
        let (address, http) = (listeners.local_addr().unwrap(), listeners.http_addr().unwrap());
        let metrics = listeners.metrics_addr().unwrap();
        let url = format!("http://{address}");
        let server = Server::build(config).await.unwrap();
        let state = Arc::clone(server.state());
        let (stop, stopped) = oneshot::channel();
        let shutdown = async { drop(stopped.await) };
        let task = tokio::spawn(server.serve(listeners, shutdown));
        let channel = Channel::from_shared(url.clone()).unwrap().connect().await.unwrap();
        Running { state, channel, address, http, metrics, stop, task }
    }

    /// A model that is in memory.
    pub(crate) fn served(&self, model: &str) -> Used {
        match self.state.models.hold(model, 0).unwrap() {
            Residency::Resident(used) => used,
            Residency::Absent(key) => panic!("{key:?} is not in memory"),
        }
    }

    pub(crate) fn sessions(&self) -> SessionsClient<Channel> {
        SessionsClient::new(self.channel.clone())
    }

    pub(crate) async fn open(
        &self,
        asked: v1::OpenSessionRequest,
    ) -> Result<v1::OpenSessionResponse, tonic::Status> {
        self.sessions().open(asked).await.map(tonic::Response::into_inner)
    }

    /// A session that is connected.
    pub(crate) async fn client(&self, asked: v1::OpenSessionRequest) -> Client {
        Client::connect(&self.open(asked).await.unwrap())
    }

    pub(crate) async fn stop(self) {
        drop(self.stop);
        tokio::time::timeout(LONG, self.task).await.unwrap().unwrap().unwrap();
    }
}

/// Asks for a session with `echo`.
pub(crate) fn ask(transport: Transport, bytes_in: u64, bytes_out: u64) -> v1::OpenSessionRequest {
    let shape = |name: &str, size| v1::TensorShape { name: name.into(), shape: vec![size] };
    v1::OpenSessionRequest {
        protocol_min: VERSION.into(),
        protocol_max: VERSION.into(),
        model: "echo".into(),
        transport: transport.name().into(),
        wait: v1::WaitPolicy::Block.into(),
        shapes: vec![shape("input", bytes_in), shape("output", bytes_out)],
        client: "test".into(),
        host_id: ferry_memory::host_id().unwrap(),
        ..v1::OpenSessionRequest::default()
    }
}

/// Keeps the records of a client.
#[derive(Debug, Default)]
pub(crate) struct Records(pub(crate) Mutex<Vec<RequestRecord>>);

impl RecordSink for Records {
    fn record(&self, record: RequestRecord) {
        self.0.lock().unwrap().push(record);
    }
}

/// The client's end of a session.
pub(crate) struct Client {
    pub(crate) driver: Driver,
    pub(crate) table: Arc<SlotTable>,
    pub(crate) reference: v1::SessionRef,
    pub(crate) records: Arc<Records>,
}

pub(crate) const TENSOR: Request = Request::of(RequestKind::Tensor);

/// Connects the link of a session; the reason if it is refused.
pub(crate) fn link(
    opened: &v1::OpenSessionResponse,
    token: Token,
) -> Result<(Box<dyn Link>, Arc<SlotTable>), String> {
    let (session, _, generation) = opened.session.as_ref().unwrap().parts().unwrap();
    let (endpoint, _) = opened.endpoint.clone().unwrap().parts().unwrap();
    let layout = SlotLayout::from(opened.layout.unwrap());
    let region = v1::RegionDescriptor::read(&opened.regions, layout, None).unwrap();
    let lease = Lease { session, generation, token, layout, region: &region };
    let options = ferry_connect::Options::default();
    let connected = ferry_connect::connect(&endpoint, &lease, &options, &mut NoControlPlane);
    connected.map(|it| (it.link, it.table)).map_err(|error| error.to_string())
}

/// The links of these tests need none.
struct NoControlPlane;

impl ControlPlane for NoControlPlane {
    fn attach(&mut self, _attachment: &Attachment) -> Result<RegionDescriptor, ConnectError> {
        Err(LinkError::Closed.into())
    }

    fn link(&mut self) -> Result<Box<dyn Link>, ConnectError> {
        Err(LinkError::Closed.into())
    }
}

impl Client {
    pub(crate) fn connect(opened: &v1::OpenSessionResponse) -> Client {
        let reference = opened.session.clone().unwrap();
        let (session, token, generation) = reference.parts().unwrap();
        let (link, table) = link(opened, token).unwrap();
        let options = driver_options(session, generation, opened.run_id);
        let records = Arc::new(Records::default());
        let sink = Arc::clone(&records) as Arc<dyn RecordSink>;
        Client { driver: Driver::new(link, options, sink), table, reference, records }
    }

    /// Sends one request without waiting.
    pub(crate) fn send(&mut self, payload: &[u8]) -> u64 {
        let mut slot = self.table.acquire().expect("a free slot");
        slot.request_mut().copy_in(0, payload).unwrap();
        self.driver.submit(slot, payload.len(), TENSOR, Some(1)).unwrap()
    }

    /// Waits for one reply: its status and its payload. A lost link has the status `link_lost`.
    pub(crate) fn reply(&mut self) -> (Status, Vec<u8>) {
        tokio::task::block_in_place(|| self.reply_here())
    }

    /// As [`reply`](Client::reply), on a thread that may block.
    fn reply_here(&mut self) -> (Status, Vec<u8>) {
        self.driver.wait(Some(Instant::now() + LONG));
        let done = self.driver.take().expect("a reply in time");
        let mut payload = vec![0; done.payload_bytes];
        if let Some(slot) = &done.slot {
            slot.reply().copy_out(0, &mut payload).unwrap();
        }
        (done.status, payload)
    }

    /// As [`infer`](Client::infer), on a thread that may block.
    pub(crate) fn infer_here(&mut self, payload: &[u8]) -> (Status, Vec<u8>) {
        self.send(payload);
        self.reply_here()
    }

    pub(crate) fn infer(&mut self, payload: &[u8]) -> (Status, Vec<u8>) {
        self.send(payload);
        self.reply()
    }
}

fn driver_options(session: SessionId, generation: Generation, run: i64) -> DriverOptions {
    let (wait, clock) = (WaitPolicy::Block, UnixClock::read());
    DriverOptions { session, generation, run, wait, first_request: 1, clock }
}

/// What `echo` makes of `input`.
pub(crate) fn echoed(input: &[u8], bytes_out: usize) -> Vec<u8> {
    input.iter().copied().cycle().take(bytes_out).collect()
}

/// Looks until it is so.
pub(crate) async fn until(what: &str, mut is: impl FnMut() -> bool) {
    until_asked(what, async || is()).await;
}

/// As [`until`], by asking somebody.
pub(crate) async fn until_asked(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !is().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
