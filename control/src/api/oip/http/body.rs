//! The message of a call while it comes in: its length is looked at before anything is reserved for
//! it, and what it takes is counted as that of gRPC is.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::StatusCode;
use bytes::Bytes;
use futures_util::StreamExt;
use http_body::Body as _;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::Status;

use super::refused::Refused;
use crate::api::front::{Caller, Held, Limits, SLOWEST};

/// How long a message that is refused is read and thrown away, so that its sender, who may not look
/// before all is sent, gets to reading the answer: 2 GiB took 6 s on one host with two busy cores.
const WASTE_WITHIN: Duration = Duration::from_secs(10);

/// How long a sender may pause meanwhile.
const WASTE_PAUSE: Duration = Duration::from_secs(1);

/// What a call holds of the bytes that all calls may take.
#[derive(Debug)]
pub(super) struct Hold {
    limits: Arc<Limits>,
    caller: Arc<Caller>,
    /// Lists double, so that they are few.
    held: Vec<[Held; 2]>,
}

impl Hold {
    pub(super) fn new(limits: &Arc<Limits>, caller: &Arc<Caller>) -> Hold {
        let (limits, caller) = (Arc::clone(limits), Arc::clone(caller));
        Hold { limits, caller, held: Vec::new() }
    }

    /// Holds so many bytes more.
    ///
    /// # Errors
    /// [`Refused`] if there is no room for them.
    pub(super) fn more(&mut self, bytes: u64) -> Result<(), Refused> {
        if bytes > 0 {
            self.held.push(self.limits.hold(&self.caller, bytes)?);
        }
        Ok(())
    }

    /// Room for a list of bytes that grows to `needed` and no further than `most`: twice as much at
    /// a time.
    ///
    /// # Errors
    /// As [`more`](Hold::more).
    pub(super) fn grow(
        &mut self,
        list: &mut Vec<u8>,
        needed: usize,
        most: usize,
    ) -> Result<(), Refused> {
        if needed > list.capacity() {
            let wished = list.len().saturating_mul(2).max(16 << 10).min(most).max(needed);
            let more = wished - list.len();
            self.more((wished - list.capacity()) as u64)?;
            list.reserve_exact(more);
        }
        Ok(())
    }
}

/// A message that came whole.
#[derive(Debug)]
pub(super) struct Message {
    /// Its first bytes, as many as its header says: JSON.
    pub(super) head: Bytes,
    /// The others. They lie apart, so that a tensor that they begin with has an address that suits
    /// any type.
    pub(super) rest: Bytes,
    pub(super) hold: Hold,
}

/// Reads a message of at most `limit` bytes, and divides it behind the first `head_bytes`.
///
/// # Errors
/// [`Refused`] if it is longer, comes too slowly or not whole, or has no room.
pub(super) async fn read(
    body: Body,
    limit: usize,
    head_bytes: Option<usize>,
    hold: Hold,
) -> Result<Message, Refused> {
    let announced = body.size_hint().exact();
    let announced = announced.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    let mut parts = body.into_data_stream();
    let read = collect(&mut parts, announced, limit, head_bytes, hold).await;
    if read.is_err() {
        // What it held is given back already.
        waste(parts).await;
    }
    read
}

async fn collect(
    parts: &mut BodyDataStream,
    announced: Option<usize>,
    limit: usize,
    head_bytes: Option<usize>,
    mut hold: Hold,
) -> Result<Message, Refused> {
    let (mut head, mut rest) = begin(announced, limit, head_bytes, &mut hold)?;
    let (head_most, announced) = (head_bytes.unwrap_or(limit), announced.unwrap_or_default());
    let until = Instant::now() + hold.limits.within;
    loop {
        let so_far = head.len() + rest.len();
        let pace = Duration::from_secs(so_far.max(announced) as u64 / SLOWEST);
        let part = match timeout_at(until + pace, parts.next()).await {
            Ok(None) => break,
            Ok(Some(part)) => part.map_err(|error| Refused::bad(format!("the body: {error}")))?,
            Err(_elapsed) => {
                let status = Status::deadline_exceeded("it did not come in time (body-seconds)");
                let why = hold.limits.refuse(&hold.caller, "slow_body", status);
                return Err(Refused::new(StatusCode::REQUEST_TIMEOUT, why.message()));
            }
        };
        check(&hold, so_far.saturating_add(part.len()), limit)?;
        let (of_head, of_rest) = part.split_at(part.len().min(head_most - head.len()));
        for (list, part) in [(&mut head, of_head), (&mut rest, of_rest)] {
            let needed = list.len() + part.len();
            hold.grow(list, needed, limit)?;
            list.extend_from_slice(part);
        }
    }
    if let Some(head_bytes) = head_bytes.filter(|&bytes| head.len() < bytes) {
        return Err(too_short(head_bytes, head.len()));
    }
    Ok(Message { head: head.into(), rest: rest.into(), hold })
}

/// Room for both parts of a message, before any of it is read.
fn begin(
    announced: Option<usize>,
    limit: usize,
    head_bytes: Option<usize>,
    hold: &mut Hold,
) -> Result<(Vec<u8>, Vec<u8>), Refused> {
    if let Some((head_bytes, bytes)) = head_bytes.zip(announced).filter(|(head, all)| head > all) {
        return Err(too_short(head_bytes, bytes));
    }
    let bytes = announced.unwrap_or_default();
    check(hold, bytes, limit)?;
    let of_head = bytes.min(head_bytes.unwrap_or(limit));
    let (mut head, mut rest) = (Vec::new(), Vec::new());
    hold.grow(&mut head, of_head, limit)?;
    hold.grow(&mut rest, bytes - of_head, limit)?;
    Ok((head, rest))
}

fn check(hold: &Hold, bytes: usize, limit: usize) -> Result<(), Refused> {
    if bytes <= limit {
        return Ok(());
    }
    Err(too_long(hold, bytes, limit))
}

/// The refusal of a message that is longer than its method takes.
pub(super) fn too_long(hold: &Hold, bytes: usize, limit: usize) -> Refused {
    let why = format!("a message of {bytes} bytes or more; this method takes at most {limit}");
    let why = hold.limits.refuse(&hold.caller, "message_bytes", Status::resource_exhausted(why));
    Refused::new(StatusCode::PAYLOAD_TOO_LARGE, why.message())
}

fn too_short(head_bytes: usize, bytes: usize) -> Refused {
    let name = super::router::HEAD_BYTES;
    Refused::bad(format!("{name} is {head_bytes}, and the message has {bytes} bytes"))
}

/// Throws away what comes of a message of which nothing is wanted.
pub(super) async fn waste(mut parts: BodyDataStream) {
    let all = async { while let Ok(Some(Ok(_))) = timeout(WASTE_PAUSE, parts.next()).await {} };
    // What is left ends with the connection.
    drop(timeout(WASTE_WITHIN, all).await);
}

/// Divides a message that is there behind its first `head_bytes`.
///
/// # Errors
/// [`Refused`] if it has fewer.
pub(super) fn divide(
    mut whole: Bytes,
    head_bytes: Option<usize>,
    hold: Hold,
) -> Result<Message, Refused> {
    let at = head_bytes.unwrap_or(whole.len());
    if at > whole.len() {
        return Err(too_short(at, whole.len()));
    }
    let rest = whole.split_off(at);
    Ok(Message { head: whole, rest, hold })
}
