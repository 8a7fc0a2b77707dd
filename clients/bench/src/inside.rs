//! The transport `local`: the server drives it, and tells the timings.

use ferry_client::Channel;
use ferry_client::Status;
use ferry_client::blocking::Client;
use ferry_proto::channel::MESSAGE_BYTES_MAX;
use ferry_proto::rows;
use ferry_proto::v1::local_client::LocalClient;

use crate::Error;
use crate::crew::Outcome;
use crate::member::Extent;
use crate::summary::Summary;
use crate::work::Work;

/// One round: the server opens sessions, warms them up, and sends so many requests per client.
pub(crate) fn round(
    client: &Client,
    work: &Work,
    extent: Extent,
    outcome: &mut Outcome,
    summary: &mut Summary,
) -> Result<(), Error> {
    let Extent::Requests(requests) = extent else {
        let why = "the server drives `local` by numbers of requests, not by time";
        return Err(Error::Usage(why.into()));
    };
    let load = &outcome.load;
    let mut request = work.drive();
    request.clients = load.clients;
    request.requests = requests;
    request.warmup = load.warmup;
    request.window = load.window;
    request.placement = load.way.place().map(Into::into);
    request.run_id = load.run_id.unwrap_or_default();
    request.set_wait(load.wait.into());
    let (mut first, mut last) = (u64::MAX, 0);
    client.run(async {
        let mut batches = local(client).drive(request).await?.into_inner();
        while let Some(batch) = batches.message().await? {
            let rows = rows(&batch).map_err(|error| Error::Failed(error.into()))?;
            for row in &rows {
                let total = row.times.of(ferry_client::Stage::Total).unwrap_or(0);
                let fill = row.times.of(ferry_client::Stage::Fill).unwrap_or(0);
                first = first.min(row.started_unix_ns.saturating_sub(fill));
                last = last.max(row.started_unix_ns.saturating_add(total));
                if row.status == Status::Ok {
                    summary.add(row);
                    outcome.requests += 1;
                } else {
                    outcome.errors += 1;
                    let first =
                        || format!("a reply with status {:?}: see the server's log", row.status);
                    outcome.first_error.get_or_insert_with(first);
                }
            }
        }
        Ok::<(), Error>(())
    })?;
    outcome.lasted += std::time::Duration::from_nanos(last.saturating_sub(first));
    Ok(())
}

/// Whole payloads travel in its messages.
fn local(client: &Client) -> LocalClient<Channel> {
    LocalClient::new(client.control().channel())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}
