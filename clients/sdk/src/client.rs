//! A connection to a server's control plane.

use std::sync::Arc;
use std::time::Duration;

use ferry_core::{Attachment, RegionDescriptor, Transport};
use ferry_proto::v1;
use ferry_proto::v1::sessions_client::SessionsClient;

use crate::agreed::Agreed;
use crate::channel::endpoint;
use crate::error::Error;
use crate::keeper::Keeper;
use crate::key::{Channel, Key};
use crate::options::{Has, Options, SessionBuilder};
use crate::recorder::RecordCounts;
use crate::session::Session;

/// How long the server may take to connect its end of a link: it waits 2 s for its device, and its
/// lane may be busy.
const TELL_WITHIN: Duration = Duration::from_secs(5);

/// A connection to a server. Clones share it. Needs a tokio runtime with time and I/O; for
/// programs without one there is [`blocking::Client`](crate::blocking::Client).
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) server: Arc<str>,
    pub(crate) keeper: Arc<Keeper>,
    key: Key,
}

async fn connect(server: &str, key: &Key) -> Result<Channel, Error> {
    let channel = endpoint(server)?
        .connect()
        .await
        .map_err(|source| Error::Connect { server: server.to_owned(), source })?;
    Ok(Channel::new(channel, key.clone()))
}

impl Client {
    /// Connects to `server`, such as `127.0.0.1:7077` or `http://127.0.0.1:7077`.
    ///
    /// # Errors
    /// [`Error::Address`] if that is no such address, [`Error::Connect`] if nobody answers there.
    pub async fn connect(server: &str) -> Result<Client, Error> {
        Client::connect_with(server, None).await
    }

    /// Connects as a tenant, where the server has tenants.
    ///
    /// # Errors
    /// As [`connect`](Client::connect).
    pub async fn connect_with(server: &str, key: Option<&str>) -> Result<Client, Error> {
        let key = Key::new(key)?;
        let channel = connect(server, &key).await?;
        Ok(Client { server: server.into(), keeper: Keeper::start(channel), key })
    }

    /// The address that it was given.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// A further connection to the same server, with the same key, which the calling runtime
    /// drives: for programs that spread their load over several.
    ///
    /// # Errors
    /// As [`connect`](Client::connect).
    pub async fn new_channel(&self) -> Result<Channel, Error> {
        connect(&self.server, &self.key).await
    }

    /// Asks for a session with a model.
    pub fn session(&self, model: &str) -> SessionBuilder<'_, Client> {
        SessionBuilder { client: self, options: self.options(model) }
    }

    pub(crate) fn options(&self, model: &str) -> Options {
        Options { key: Some(self.key.clone()), ..Options::new(model) }
    }

    /// The channel of the control plane, for the other services of [`v1`].
    pub fn channel(&self) -> Channel {
        self.keeper.channel.clone()
    }

    /// Sends the timings that wait, and says what became of all so far.
    pub async fn flush(&self) -> RecordCounts {
        self.keeper.flush().await
    }

    pub(crate) async fn negotiate(&self, options: &Options) -> Result<Agreed, Error> {
        let (rdma, cuda) = (options.may_be(Transport::Rdma), options.may_be(Transport::CudaIpc));
        let has = if rdma || cuda {
            let connect = options.connect.clone();
            let look = move || Has {
                rdma: rdma && ferry_connect::has_rdma(&connect),
                cuda: cuda && ferry_connect::has_cuda(),
            };
            // Reads the system's tables and may load libraries. A panic in there is no device.
            tokio::task::spawn_blocking(look).await.unwrap_or_default()
        } else {
            Has::default()
        };
        let mut sessions = SessionsClient::new(self.channel());
        let opened = sessions.open(options.to_wire(has)).await;
        let opened = opened.map_err(Error::refused("open a session"))?.into_inner();
        let mut agreed = Agreed::from_wire(opened)?;
        agreed.transport_reason += &options.failed.reasons();
        Ok(agreed)
    }

    /// Tells the server of this end of a session; how its memory is reached.
    pub(crate) async fn tell(
        &self,
        agreed: &Agreed,
        attachment: &Attachment,
    ) -> Result<RegionDescriptor, Error> {
        let request = v1::AttachSessionRequest::new(agreed.to_ref(), attachment);
        let mut sessions = SessionsClient::new(self.channel());
        let told = tokio::time::timeout(TELL_WITHIN, sessions.attach(request)).await;
        let told = told.map_err(|_elapsed| Error::Attach {
            transport: agreed.transport,
            why: format!(
                "no answer to Sessions.Attach within {TELL_WITHIN:?}: see the server's log"
            ),
        })?;
        agreed.attached(told.map_err(Error::refused("attach the session"))?.into_inner())
    }

    /// Takes a session up again, or opens a new one if the server does not know it any more.
    pub(crate) async fn resume(&self, old: &Agreed, options: &Options) -> Result<Agreed, Error> {
        let request = v1::ResumeSessionRequest { session: Some(old.to_ref()) };
        let mut sessions = SessionsClient::new(self.channel());
        let resumed = sessions.resume(request).await;
        match resumed.map_err(Error::refused("resume the session")) {
            Ok(resumed) => Agreed::from_wire(resumed.into_inner()),
            Err(error) if error.session_is_gone() => self.negotiate(options).await,
            Err(error) => Err(error),
        }
    }
}

impl SessionBuilder<'_, Client> {
    /// Opens the session and connects its data plane.
    ///
    /// # Errors
    /// [`Error::Refused`] with what the server says, [`Error::Attach`] if the data plane cannot be
    /// connected.
    pub async fn open(self) -> Result<Session, Error> {
        Session::open(self.client.clone(), self.options).await
    }
}
