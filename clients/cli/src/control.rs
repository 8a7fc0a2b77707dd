//! The control plane's services, from a synchronous program.

use ferry_bench::Stop;
use ferry_client::blocking::Client;
use ferry_client::{Channel, v1};
use ferry_proto::v1::admin_client::AdminClient;
use ferry_proto::v1::local_client::LocalClient;
use ferry_proto::v1::models_client::ModelsClient;
use ferry_proto::v1::runs_client::RunsClient;

use tokio::signal::unix::{SignalKind, signal};

use crate::args::Server;
use crate::failure::{Failure, INTERRUPTED};

/// Connects to the server.
pub(crate) fn connect(server: &Server) -> Result<Client, Failure> {
    Ok(Client::connect_with(&server.url, server.key.as_deref())?)
}

/// What the server says of a model.
pub(crate) fn model(client: &Client, name: &str, version: u64) -> Result<v1::Model, Failure> {
    let get = v1::GetModelRequest { name: name.to_owned(), version };
    Ok(client.run(models(client).get(get))?.into_inner())
}

pub(crate) fn models(client: &Client) -> ModelsClient<Channel> {
    ModelsClient::new(client.control().channel())
}

pub(crate) fn admin(client: &Client) -> AdminClient<Channel> {
    AdminClient::new(client.control().channel())
}

pub(crate) fn runs(client: &Client) -> RunsClient<Channel> {
    RunsClient::new(client.control().channel())
}

pub(crate) fn local(client: &Client) -> LocalClient<Channel> {
    LocalClient::new(client.control().channel())
        .max_decoding_message_size(ferry_proto::channel::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(ferry_proto::channel::MESSAGE_BYTES_MAX)
}

/// Asks for a stop on the first SIGINT or SIGTERM, so that what was begun is put back; ends the
/// process on the second.
pub(crate) fn stop_on_signals(client: &Client) -> Stop {
    let stop = Stop::default();
    let asked = stop.clone();
    // Before anything is begun that has to be put back.
    let signals = client.run(async {
        Ok::<_, std::io::Error>((
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        ))
    });
    let Ok((mut interrupt, mut terminate)) = signals else { return stop };
    let next =
        async move || tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () };
    client.run(async {
        drop(tokio::spawn(async move {
            let mut next = next;
            next().await;
            asked.ask();
            next().await;
            #[expect(
                clippy::exit,
                clippy::disallowed_methods,
                reason = "whoever asks twice does not want to wait"
            )]
            std::process::exit(INTERRUPTED.into());
        }));
    });
    stop
}
