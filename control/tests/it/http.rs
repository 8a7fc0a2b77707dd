//! The Open Inference Protocol over HTTP, as its clients see it, and as nobody should use it.

mod infer;
mod log;
mod questions;
mod refused;
mod regions;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use ferry_control::Config;
use serde_json::Value;

use crate::common::{LONG, Running};

pub(crate) const HEAD_BYTES: &str = "inference-header-content-length";

/// A server with HTTP, and where that is.
pub(crate) async fn start(edit: impl FnOnce(&mut Config)) -> (Running, SocketAddr) {
    let server = Running::start(|config| {
        config.http = Some("127.0.0.1:0".into());
        edit(config);
    })
    .await;
    let address = server.http.unwrap();
    (server, address)
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The next one; `None` if the server closed the connection instead.
    pub(crate) fn read(from: &mut impl Read, has_body: bool) -> Option<Answer> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match from.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                Ok(_) => return None,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let pair = |line: &str| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_ascii_lowercase(), value.to_owned()))
        };
        let mut answer = Answer { status, headers: lines.filter_map(pair).collect(), body: vec![] };
        let length = answer.header("content-length").map_or(0, |it| it.parse().unwrap());
        answer.body.resize(if has_body { length } else { 0 }, 0);
        from.read_exact(&mut answer.body).unwrap();
        Some(answer)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_slice(&self.body).unwrap_or_else(|why| panic!("{why}: {text}"))
    }

    /// What an error says.
    pub(crate) fn error(&self) -> String {
        self.json()["error"].as_str().unwrap().to_owned()
    }
}

/// A connection.
pub(crate) struct Connection(pub(crate) TcpStream);

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Connection {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        stream.set_nodelay(true).unwrap();
        Connection(stream)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// Sends a request without waiting for its answer.
    pub(crate) fn ask(&mut self, head: &str, headers: &[(&str, &str)], body: &[u8]) {
        self.send(&request(head, headers, body));
    }

    /// The next answer; `None` if the server closed the connection instead.
    pub(crate) fn answer(&mut self, has_body: bool) -> Option<Answer> {
        Answer::read(&mut self.0, has_body)
    }

    pub(crate) fn call(&mut self, head: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.ask(head, headers, body);
        self.answer(true).expect("an answer")
    }
}

/// The bytes of a request.
pub(crate) fn request(head: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{head} HTTP/1.1\r\nhost: ferryd\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if !headers.iter().any(|(name, _)| matches!(*name, "content-length" | "transfer-encoding")) {
        text += &format!("content-length: {}\r\n", body.len());
    }
    [text.as_bytes(), b"\r\n", body].concat()
}

/// One call on a connection of its own.
async fn call(address: SocketAddr, head: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    tokio::task::block_in_place(|| Connection::open(address).call(head, headers, body))
}

pub(crate) const INFER: &str = "POST /v2/models/echo/infer";

/// JSON and bytes behind it, and the header that tells them apart.
pub(crate) fn with_bytes(json: &Value, bytes: &[u8]) -> (String, Vec<u8>) {
    let json = json.to_string();
    (json.len().to_string(), [json.as_bytes(), bytes].concat())
}

/// Floats as bytes.
pub(crate) fn floats(count: usize) -> Vec<u8> {
    (0..=u16::MAX)
        .cycle()
        .map(|it| f32::from(it) / 8.0)
        .take(count)
        .flat_map(f32::to_le_bytes)
        .collect()
}
