//! A network between client and server that a test can cut: a control plane that names another
//! address for the data plane, and what forwards from there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ferry_proto::v1;
use ferry_proto::v1::sessions_client::SessionsClient;
use ferry_proto::v1::sessions_server::{Sessions, SessionsServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::resume::LONG;

/// The way between one client and one server.
pub(crate) struct Between {
    /// Where clients find it, instead of the server.
    pub(crate) url: String,
    way: Arc<Way>,
    _runtime: Runtime,
}

#[derive(Debug)]
struct Way {
    /// Connections end when it changes.
    cuts: watch::Sender<u64>,
    /// What the server sends is swallowed on connections that were made after so many cuts.
    muted: AtomicU64,
    /// Connections that there are.
    open: AtomicU64,
    /// Resumes that are refused before one is let through.
    refusals: AtomicU64,
}

/// What a refused resume is told.
pub(crate) const REFUSAL: &str = "no way to the server";

impl Between {
    /// In front of the server at `url`.
    pub(crate) fn new(url: &str) -> Between {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.unwrap();
        let way = Arc::new(Way {
            cuts: watch::Sender::new(0),
            muted: AtomicU64::new(u64::MAX),
            open: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
        });
        let (server, its) = (url.to_owned(), Arc::clone(&way));
        let address = runtime.block_on(async move {
            let channel = Channel::from_shared(server).unwrap().connect().await.unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let control = Control { server: SessionsClient::new(channel), way: its };
            let serving = tonic::transport::Server::builder()
                .add_service(SessionsServer::new(control))
                .serve_with_incoming(TcpIncoming::from(listener));
            tokio::spawn(serving);
            address
        });
        Between { url: format!("http://{address}"), way, _runtime: runtime }
    }

    /// Ends every connection of the data plane that there is.
    pub(crate) fn cut(&self) {
        self.way.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// The same, and waits until they have ended. For clients that do not come again meanwhile.
    pub(crate) fn cut_off(&self) {
        self.cut();
        let late = Instant::now() + LONG;
        while self.way.open.load(Ordering::SeqCst) > 0 {
            assert!(Instant::now() < late, "connections go on");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The next resumes, so many, do not reach the server.
    pub(crate) fn refuse_resumes(&self, count: u64) {
        self.way.refusals.store(count, Ordering::SeqCst);
    }

    /// No reply comes through until the next cut: requests stay in flight.
    pub(crate) fn mute(&self) {
        self.way.muted.store(*self.way.cuts.borrow(), Ordering::SeqCst);
    }
}

/// The server's sessions, reached by another way.
struct Control {
    server: SessionsClient<Channel>,
    way: Arc<Way>,
}

impl Control {
    /// Puts a forwarder in front of what the answer names.
    async fn divert(&self, opened: &mut v1::OpenSessionResponse) {
        let v1::Endpoint { link, address, .. } = opened.endpoint.as_mut().unwrap();
        assert!(matches!(&**link, "tcp" | "zmq"), "{link}: only what is on TCP can be diverted");
        let server = address.trim_start_matches("tcp://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        *address = address.replace(&server, &listener.local_addr().unwrap().to_string());
        tokio::spawn(forward(listener, server, Arc::clone(&self.way)));
    }
}

async fn forward(listener: TcpListener, server: String, way: Arc<Way>) {
    while let Ok((client, _)) = listener.accept().await {
        let Ok(server) = TcpStream::connect(&server).await else { continue };
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        let mut cuts = way.cuts.subscribe();
        let made_after = *cuts.borrow_and_update();
        let way = Arc::clone(&way);
        way.open.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            let ((from_client, to_client), (from_server, to_server)) =
                (client.into_split(), server.into_split());
            tokio::select! {
                () = pump(from_client, to_server, || false) => {}
                () = pump(from_server, to_client, || {
                    way.muted.load(Ordering::SeqCst) == made_after
                }) => {}
                _ = cuts.changed() => {}
            }
            // The sockets went with what read and wrote them.
            way.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, is_muted: impl Fn() -> bool) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if !is_muted() && to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Sessions for Control {
    async fn open(
        &self,
        asked: Request<v1::OpenSessionRequest>,
    ) -> Answer<v1::OpenSessionResponse> {
        let mut opened = self.server.clone().open(asked.into_inner()).await?;
        self.divert(opened.get_mut()).await;
        Ok(opened)
    }

    async fn resume(
        &self,
        asked: Request<v1::ResumeSessionRequest>,
    ) -> Answer<v1::OpenSessionResponse> {
        let one_less = |left: u64| left.checked_sub(1);
        if self.way.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
            return Err(Status::unavailable(REFUSAL));
        }
        let mut opened = self.server.clone().resume(asked.into_inner()).await?;
        self.divert(opened.get_mut()).await;
        Ok(opened)
    }

    async fn attach(
        &self,
        asked: Request<v1::AttachSessionRequest>,
    ) -> Answer<v1::AttachSessionResponse> {
        self.server.clone().attach(asked.into_inner()).await
    }

    async fn heartbeat(
        &self,
        asked: Request<v1::HeartbeatRequest>,
    ) -> Answer<v1::HeartbeatResponse> {
        self.server.clone().heartbeat(asked.into_inner()).await
    }

    async fn close(
        &self,
        asked: Request<v1::CloseSessionRequest>,
    ) -> Answer<v1::CloseSessionResponse> {
        self.server.clone().close(asked.into_inner()).await
    }
}
