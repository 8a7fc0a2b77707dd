//! What targets over HTTP share: a connection that is opened again where the server closed it.

use std::cell::RefCell;
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};

use crate::common::LONG;
use crate::http::{Answer, request};

pub(super) struct Client {
    address: SocketAddr,
    connection: RefCell<Option<BufReader<TcpStream>>>,
}

impl Client {
    pub(super) fn new(address: SocketAddr) -> Client {
        Client { address, connection: RefCell::default() }
    }

    /// The answer to one request. What the server does not read to its end costs the connection, so
    /// that one that is closed before the answer is no reason to fail, unless it is a new one.
    pub(super) fn call(&self, head: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let bytes = request(head, headers, body);
        tokio::task::block_in_place(|| {
            for _ in 0..2 {
                let kept = self.connection.take();
                let mut connection = kept.unwrap_or_else(|| self.connect());
                let is_sent = connection.get_mut().write_all(&bytes).is_ok();
                let answer = if is_sent { Answer::read(&mut connection, true) } else { None };
                if let Some(answer) = answer {
                    if answer.header("connection") != Some("close") {
                        self.connection.replace(Some(connection));
                    }
                    return answer;
                }
            }
            panic!("no answer on a new connection");
        })
    }

    fn connect(&self) -> BufReader<TcpStream> {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_nodelay(true).unwrap();
        BufReader::new(stream)
    }
}

/// What a refusal did: its status, and how its text ends but for the path, which it may repeat.
pub(super) fn refused(answer: &Answer, path: &str) -> String {
    // Whether something is ready, and what is wrong with a head, is told without a text.
    if answer.body.is_empty() && matches!(answer.status, 400 | 414 | 431) {
        return format!("{} without a text", answer.status);
    }
    let known = [400, 404, 405, 413, 415, 429, 501, 504];
    assert!(known.contains(&answer.status), "{answer:?}");
    let why = answer.error();
    assert!(!why.is_empty(), "{answer:?}");
    format!("{} {}", answer.status, super::shape(&why.replace(path, "")))
}
