//! A peer that writes what it likes: bytes in a call, and HTTP/2 by hand.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use ferry_proto::channel::KEY_METADATA;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;

/// The headers are whole.
const END_HEADERS: u8 = 4;

/// Messages are the bytes that they are.
#[derive(Clone, Copy, Debug, Default)]
struct AsIs;

impl Codec for AsIs {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = AsIs;
    type Decoder = AsIs;

    fn encoder(&mut self) -> AsIs {
        AsIs
    }

    fn decoder(&mut self) -> AsIs {
        AsIs
    }
}

impl Encoder for AsIs {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for AsIs {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// A call with a message of these bytes.
pub(super) async fn send(
    channel: &Channel,
    path: &'static str,
    key: Option<&'static str>,
    message: Bytes,
) -> Result<Bytes, Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let mut request = Request::new(message);
    if let Some(key) = key {
        request.metadata_mut().insert(KEY_METADATA, key.parse().unwrap());
    }
    let answer = grpc.unary(request, PathAndQuery::from_static(path), AsIs).await?;
    Ok(answer.into_inner())
}

/// A connection that says nothing.
pub(super) fn tcp(address: &str) -> TcpStream {
    TcpStream::connect(address).unwrap()
}

/// One that begins to say something.
pub(super) fn half_preface(address: &str) -> TcpStream {
    let mut stream = tcp(address);
    // It may be sent away already.
    drop(stream.write_all(&PREFACE[..12]));
    stream
}

/// HTTP/2 by hand.
pub(super) struct Raw {
    stream: TcpStream,
    /// Of the next call.
    id: u32,
}

impl Raw {
    pub(super) fn connect(address: &str) -> Raw {
        let mut raw = Raw { stream: tcp(address), id: 1 };
        drop(raw.stream.write_all(PREFACE));
        raw.frame(SETTINGS, 0, 0, &[]);
        raw
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        // A peer that was sent away may not be heard.
        drop(self.stream.write_all(&frame));
    }

    /// A call whose message is said to have `bytes` bytes, of which only `some` come.
    pub(super) fn announce(&mut self, path: &str, key: Option<&str>, bytes: u32, some: &[u8]) {
        let mut headers = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "ferryd"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ]
        .into_iter()
        .chain(key.map(|key| (KEY_METADATA, key)))
        {
            // A literal that is not to be remembered, its name and value as they are.
            headers.push(0);
            for text in [name, value] {
                headers.push(u8::try_from(text.len()).unwrap());
                headers.extend(text.as_bytes());
            }
        }
        self.frame(HEADERS, END_HEADERS, self.id, &headers);
        let mut data = vec![0];
        data.extend(bytes.to_be_bytes());
        data.extend(some);
        self.frame(DATA, 0, self.id, &data);
        self.id += 2;
    }

    /// Reads what has come; the server has not closed the connection.
    pub(super) fn still_there(&mut self) {
        self.stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut some = [0; 64 << 10];
        loop {
            match self.stream.read(&mut some) {
                Ok(0) => panic!("the server closed the connection"),
                Ok(_) => {}
                Err(error) => {
                    let is_silent =
                        matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                    assert!(is_silent, "{error}");
                    return;
                }
            }
        }
    }
}
