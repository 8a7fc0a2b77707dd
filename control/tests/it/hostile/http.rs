//! The same over HTTP.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ferry_proto::channel::KEY_METADATA;
use ferry_proto::v1;
use ferry_proto::v1::admin_client::AdminClient;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::{channel, descriptors, keyed, kib, limited, refused, serves, strangers_are_sent_away};
use crate::binary::Ferryd;
use crate::common::{LONG, until_asked};
use crate::http::{Answer, Connection, HEAD_BYTES, INFER, floats, with_bytes};

const A: (&str, &str) = (KEY_METADATA, "a");

fn connect(ferryd: &Ferryd) -> Connection {
    Connection::open(ferryd.http.as_ref().unwrap().parse().unwrap())
}

/// An honest tenant is served over gRPC and over HTTP, from its first connection on.
async fn serves_both(ferryd: &Ferryd) {
    serves(ferryd).await;
    let (sent, mut connection) = (floats(6), connect(ferryd));
    let (head, body) = identity(&sent);
    let answer =
        tokio::task::block_in_place(|| connection.call(INFER, &[A, (HEAD_BYTES, &head)], &body));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body.ends_with(&sent));
}

/// Asks the identity for these floats.
fn identity(sent: &[u8]) -> (String, Vec<u8>) {
    let asked = serde_json::json!({
        "parameters": { "binary_data_output": true },
        "inputs": [{
            "name": "INPUT0", "datatype": "FP32", "shape": [1, 1, sent.len() / 4],
            "parameters": { "binary_data_size": sent.len() },
        }],
    });
    with_bytes(&asked, sent)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_inflates_without_end_is_refused_while_it_does() {
    let folder = tempfile::tempdir().unwrap();
    let ferryd = limited(folder.path(), 1024);
    serves_both(&ferryd).await;
    let before = kib(&ferryd, "VmHWM");
    let mut to = GzEncoder::new(Vec::new(), Compression::best());
    to.write_all(&vec![b' '; 1 << 20]).unwrap();
    // 4 GiB in 4 MiB: members of one file.
    let bomb = to.finish().unwrap().repeat(4096);
    assert!(bomb.len() < 8 << 20, "{}", bomb.len());
    let mut bombs: Vec<_> = (0..12).map(|_| connect(&ferryd)).collect();
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            for connection in &mut bombs {
                let bomb = &bomb;
                scope.spawn(move || {
                    let headers = [A, ("content-encoding", "gzip")];
                    let answer = connection.call(INFER, &headers, bomb);
                    assert!(matches!(answer.status, 413 | 429), "{answer:?}");
                });
            }
        });
    });
    let grown = kib(&ferryd, "VmHWM") - before;
    // What all messages may take, and what the allocator keeps.
    assert!(grown < 800 << 10, "{grown} KiB");
    // One that has the server for itself gets as far as its bound.
    drop(bombs);
    serves_both(&ferryd).await;
    drop(refused(ferryd, folder.path()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn long_lists_take_no_more_than_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let ferryd = limited(folder.path(), 1024);
    serves_both(&ferryd).await;
    let before = kib(&ferryd, "VmHWM");
    let data = "0,".repeat(20 << 20);
    let json = |datatype: &str, size: usize, list: &str| {
        format!(
            r#"{{"inputs":[{{"name":"INPUT0","datatype":"{datatype}","shape":[1,1,{size}],{list}}}]}}"#
        )
    };
    let count = (20 << 20) + 1;
    let inputs = r#"{"name":"","datatype":"","shape":[]},"#.repeat(1 << 20);
    for (body, statuses) in [
        // 40 MiB that would be 160 as numbers, more than one connection may have.
        (json("FP64", count, &format!(r#""data":[{data}0]"#)), &[429][..]),
        (json("FP32", 1 << 62, &format!(r#""data":[{data}0]"#)), &[400]),
        (json("FP32", 1, &format!(r#""data":[{data}0]"#)), &[400]),
        (json("FP32", 1, &format!(r#""other":[{data}0],"data":[1]"#)), &[200]),
        (json("FP32", 1, &format!(r#""parameters":{{"a":[{data}0]}},"data":[1]"#)), &[400]),
        (format!(r#"{{"inputs":[{inputs}"#), &[400]),
    ] {
        let answer =
            tokio::task::block_in_place(|| connect(&ferryd).call(INFER, &[A], body.as_bytes()));
        assert!(statuses.contains(&answer.status), "{statuses:?}: {answer:?}");
    }
    let grown = kib(&ferryd, "VmHWM") - before;
    assert!(grown < 400 << 10, "{grown} KiB for messages of 40 MiB");
    serves_both(&ferryd).await;
    drop(refused(ferryd, folder.path()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_announced_and_never_end_hold_little_and_not_for_long() {
    let folder = tempfile::tempdir().unwrap();
    let ferryd = limited(folder.path(), 1024);
    serves_both(&ferryd).await;
    let before = kib(&ferryd, "VmHWM");
    let mut peers = Vec::new();
    for key in [None, Some("a"), Some("b")] {
        for _ in 0..30 {
            for (head, length) in [(INFER, "100000000"), ("POST /v2/repository/index", "200000")] {
                let mut peer = connect(&ferryd);
                let mut headers = vec![("content-length", length)];
                headers.extend(key.map(|key| (KEY_METADATA, key)));
                peer.ask(head, &headers, &[b' '; 500]);
                peers.push(peer);
            }
        }
    }
    serves_both(&ferryd).await;
    let grown = kib(&ferryd, "VmHWM") - before;
    assert!(grown < 100 << 10, "{grown} KiB for 180 bodies of 500 bytes each");
    let mut statuses: Vec<u16> = peers
        .iter_mut()
        .filter_map(|peer| tokio::task::block_in_place(|| peer.answer(true)))
        .map(|answer| answer.status)
        .collect();
    statuses.sort_unstable();
    statuses.dedup();
    assert_eq!(statuses, [401, 408, 429], "nobody's, slow ones, and those without room");
    drop(peers);
    let kinds = refused(ferryd, folder.path()).await;
    for kind in ["slow_body of a", "slow_body of b", "calls_bytes of a", "wrong_key of nobody"] {
        assert!(kinds.iter().any(|it| it == kind), "{kind}: {kinds:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_too_long_are_told_so_before_memory_is_spent_and_after_they_were_sent() {
    let folder = tempfile::tempdir().unwrap();
    let ferryd = limited(folder.path(), 1024);
    serves_both(&ferryd).await;
    let before = kib(&ferryd, "VmHWM");
    let told = |answer: &Answer, most: &str| {
        assert_eq!(answer.status, 413, "{answer:?}");
        assert!(answer.error().ends_with(most), "{answer:?}");
    };
    let of_infer = "this method takes at most 134217728";
    // Announced, and not sent: 128 MiB and a byte, 2 GiB, 2^63.
    for length in ["134217729", "2147483648", "9223372036854775808"] {
        let mut peer = connect(&ferryd);
        peer.ask(INFER, &[A, ("content-length", length)], b"{");
        told(&tokio::task::block_in_place(|| peer.answer(true)).unwrap(), of_infer);
    }
    // Sent, by one who does not look before all is sent: 129 MiB, and pieces of which nobody knows how
    // many come.
    let piece = vec![b' '; 1 << 20];
    let mut whole = connect(&ferryd);
    let mut pieces = connect(&ferryd);
    tokio::task::block_in_place(|| {
        whole.ask(INFER, &[A, ("content-length", "135266304")], b"");
        (0..129).for_each(|_| whole.send(&piece));
        told(&whole.answer(true).unwrap(), of_infer);
        pieces.ask("POST /v2/repository/index", &[A, ("transfer-encoding", "chunked")], b"");
        for _ in 0..40 {
            pieces.send(b"100000\r\n");
            pieces.send(&piece);
            pieces.send(b"\r\n");
        }
        pieces.send(b"0\r\n\r\n");
        told(&pieces.answer(true).unwrap(), "this method takes at most 262144");
    });
    let grown = kib(&ferryd, "VmHWM") - before;
    assert!(grown < 30 << 10, "{grown} KiB for messages of which nothing is kept");
    serves_both(&ferryd).await;
    let kinds = refused(ferryd, folder.path()).await;
    assert_eq!(kinds, ["message_bytes of a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_are_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let ferryd = limited(folder.path(), 1024);
    serves_both(&ferryd).await;
    // More than the kernel keeps between two ends of a connection.
    let (head, body) = identity(&vec![0; 24 << 20]);
    let mut never = connect(&ferryd);
    never.ask(INFER, &[A, (HEAD_BYTES, &head)], &body);
    // One that reads, though slowly, gets all of a shorter one.
    let mut slow = connect(&ferryd);
    slow.ask(INFER, &[A, (HEAD_BYTES, &head)], &body);
    let mut read = vec![0; 12 << 20];
    tokio::task::block_in_place(|| {
        std::thread::sleep(Duration::from_millis(500));
        slow.0.read_exact(&mut read).unwrap();
        std::thread::sleep(Duration::from_millis(500));
        slow.0.read_exact(&mut read).unwrap();
    });
    drop(slow);
    let mut admin = AdminClient::new(channel(&ferryd).await);
    until_asked("who never reads is given up", async || {
        let told = admin.status(keyed("operator", v1::StatusRequest {})).await.unwrap();
        let refused = told.into_inner().refused;
        refused.iter().any(|it| (&*it.link, &*it.what) == ("http", "slow_reader"))
    })
    .await;
    drop(never);
    serves_both(&ferryd).await;
    let kinds = refused(ferryd, folder.path()).await;
    assert_eq!(kinds, ["slow_reader of nobody"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_whose_answers_nobody_reads_are_not_read_either() {
    let folder = tempfile::tempdir().unwrap();
    let ferryd = limited(folder.path(), 1024);
    serves_both(&ferryd).await;
    let before = kib(&ferryd, "VmHWM");
    let mut flood = connect(&ferryd);
    let some = "GET /v2/models/stats HTTP/1.1\r\nferry-key: a\r\n\r\n".repeat(1000);
    flood.0.set_nonblocking(true).unwrap();
    let until = Instant::now() + Duration::from_millis(1500);
    let mut sent = 0;
    tokio::task::block_in_place(|| {
        while Instant::now() < until {
            match flood.0.write(some.as_bytes()) {
                // The rest of a request that was cut is sent as no other's head.
                Ok(bytes) if bytes == some.len() => sent += bytes,
                Ok(_) | Err(_) => break,
            }
        }
        std::thread::sleep(Duration::from_millis(500));
    });
    assert!(sent > 1 << 20, "{sent}");
    let grown = kib(&ferryd, "VmHWM") - before;
    assert!(grown < 50 << 10, "{grown} KiB for {sent} bytes of requests");
    serves_both(&ferryd).await;
    drop(flood);
    drop(refused(ferryd, folder.path()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_lock_nobody_out_and_are_gone_soon() {
    let folder = tempfile::tempdir().unwrap();
    // 64 connections, half of them strangers'.
    let ferryd = limited(folder.path(), 256);
    serves_both(&ferryd).await;
    let before = descriptors(&ferryd);
    let address = ferryd.http.clone().unwrap();
    let silent: Vec<_> = (0..150).map(|_| TcpStream::connect(&address).unwrap()).collect();
    serves_both(&ferryd).await;
    let half = |ferryd: &Ferryd| {
        let mut stream = TcpStream::connect(ferryd.http.as_ref().unwrap()).unwrap();
        // It may be sent away already.
        drop(stream.write_all(b"GET /v2/health/live HTTP/1.1\r\nhost: "));
        stream
    };
    let halves: Vec<_> = (0..150).map(|_| half(&ferryd)).collect();
    serves_both(&ferryd).await;
    strangers_are_sent_away(ferryd, folder.path(), before, (silent, halves), half).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_http_end_their_connection_alone() {
    let folder = tempfile::tempdir().unwrap();
    let ferryd = limited(folder.path(), 1024);
    let long = "x".repeat(64 << 10);
    let many = "a: b\r\n".repeat(1000);
    for bytes in [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "\u{0}\u{1}\u{2}\r\n\r\n".into(),
        "GET /v2 HTTP/9.9\r\n\r\n".into(),
        format!("GET /{long} HTTP/1.1\r\n\r\n"),
        format!("GET /v2 HTTP/1.1\r\n{many}\r\n"),
        format!("GET /v2 HTTP/1.1\r\na: {long}\r\n\r\n"),
        "POST /v2/models/echo/infer HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n".into(),
        "POST /v2/models/echo/infer HTTP/1.1\r\ncontent-length: -1\r\n\r\n".into(),
        "POST /v2/models/echo/infer HTTP/1.1\r\nferry-key: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".into(),
        "POST /v2/models/echo/infer HTTP/1.1\r\nferry-key: a\r\ntransfer-encoding: chunked\r\n\r\n\
         fffffffffffffffff\r\n".into(),
    ] {
        let mut connection = connect(&ferryd);
        // It may be closed before all of it is sent.
        drop(connection.0.write_all(bytes.as_bytes()));
        let closed = tokio::task::block_in_place(|| {
            let status = connection.answer(true).map(|answer| answer.status);
            assert!(status.is_none_or(|status| (400..=505).contains(&status)), "{status:?}");
            let mut byte = [0];
            !matches!(connection.0.read(&mut byte), Ok(1))
        });
        assert!(closed, "{}", &bytes[..40.min(bytes.len())]);
    }
    // A body that is cut off.
    let mut cut = connect(&ferryd);
    cut.ask(INFER, &[A, ("content-length", "1000")], b"{");
    cut.0.shutdown(std::net::Shutdown::Write).unwrap();
    let late = Instant::now();
    tokio::task::block_in_place(|| drop(cut.answer(true)));
    assert!(late.elapsed() < LONG);
    serves_both(&ferryd).await;
    drop(refused(ferryd, folder.path()).await);
}
