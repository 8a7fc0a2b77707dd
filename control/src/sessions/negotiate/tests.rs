use super::*;

fn choose(transports: &[Transport], has_rdma: bool, host_id: &str) -> Transport {
    let offer = Offer { transports, findings: &[], request_bytes_max: 1, is_inside: false };
    let host_id = host_id.to_owned();
    offer.choose(&v1::OpenSessionRequest { has_rdma, host_id, ..Default::default() }).0
}

#[test]
fn rdma_is_chosen_between_two_hosts_that_both_have_it() {
    let own = ferry_memory::host_id().unwrap();
    let all = [Transport::Shm, Transport::Rdma, Transport::Tcp];
    assert_eq!(choose(&all, true, "another"), Transport::Rdma);
    assert_eq!(choose(&all, false, "another"), Transport::Tcp, "the client has none");
    assert_eq!(choose(&all[2..], true, "another"), Transport::Tcp, "the server has none");
    assert_eq!(choose(&all, true, &own), Transport::Shm, "one host");
    assert_eq!(choose(&all[1..], true, &own), Transport::Tcp, "one host without shm");
}

#[test]
fn a_transport_without_a_lane_is_refused_with_what_was_found() {
    let findings = [v1::Finding {
        area: "transport".into(),
        name: "rdma".into(),
        usable: false,
        detail: "no device".into(),
        fix: "plug one in".into(),
    }];
    let transports = &[Transport::Tcp];
    let offer = Offer { transports, findings: &findings, request_bytes_max: 1, is_inside: false };
    let asked = v1::OpenSessionRequest::default();
    let told = offer.transport(Some(Transport::Rdma), &asked).unwrap_err().to_string();
    assert!(told.contains("no device") && told.contains("plug one in"), "{told}");
    let told = offer.transport(Some(Transport::Zmq), &asked).unwrap_err().to_string();
    assert!(told.contains("it has ended"), "{told}");
}
