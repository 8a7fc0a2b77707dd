use super::*;
use crate::key::Key;

#[tokio::test]
async fn rows_of_a_call_that_broke_are_neither_accepted_nor_lost() {
    // A port that was free a moment ago: whoever is asked, the call fails.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let channel = tonic::transport::Channel::from_shared(url).unwrap().connect_lazy();
    let channel = Channel::new(channel, Key::new(None).unwrap());
    let mut sender = Sender { channel, stream: None, counts: RecordCounts::default() };
    let session = Some(v1::SessionRef::default());
    for rows in [vec![1, 2], vec![3]] {
        let session = session.clone();
        sender.send(v1::TimingBatch { session, request: rows, ..Default::default() }).await;
    }
    sender.finish().await;
    let RecordCounts { accepted, lost, unknown, refused } = sender.counts;
    assert_eq!((accepted, lost, refused), (0, 0, 0));
    assert_eq!(unknown, 3);
}
