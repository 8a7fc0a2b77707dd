//! Which transport is chosen, and what is refused.

use super::*;

fn choose(transports: &[Transport], has_rdma: bool, host_id: &str) -> Transport {
    let offer = Offer { transports, findings: &[], request_bytes_max: 1, is_inside: false };
    let host_id = host_id.to_owned();
    let asked = v1::OpenSessionRequest { has_rdma, host_id, ..Default::default() };
    offer.choose(&asked, &Gpu::CPU).0
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
    let told = offer.transport(Some(Transport::Rdma), &asked, &Gpu::CPU).unwrap_err().to_string();
    assert!(told.contains("no device") && told.contains("plug one in"), "{told}");
    let told = offer.transport(Some(Transport::Zmq), &asked, &Gpu::CPU).unwrap_err().to_string();
    assert!(told.contains("it has ended"), "{told}");
}

fn offer(transports: &[Transport]) -> Offer<'_> {
    Offer { transports, findings: &[], request_bytes_max: 1, is_inside: false }
}

fn here(has_cuda: bool) -> v1::OpenSessionRequest {
    let host_id = ferry_memory::host_id().unwrap();
    v1::OpenSessionRequest { has_cuda, host_id, ..Default::default() }
}

#[test]
fn memory_of_the_models_device_is_chosen_where_both_ends_have_it() {
    let all = [Transport::Shm, Transport::CudaIpc, Transport::Tcp];
    let choose = |asked: &v1::OpenSessionRequest, model: &Gpu<'_>| offer(&all).choose(asked, model);
    let (chosen, why) = choose(&here(true), &Gpu::SHARED);
    assert_eq!(chosen, Transport::CudaIpc);
    assert!(why.contains("cuda:1"), "{why}");
    // What stands in the way is told, unless there is no device to begin with.
    let pinned = v1::Placement { host_memory: "pinned".into(), ..Default::default() };
    let wish = v1::OpenSessionRequest { placement: Some(pinned), ..here(true) };
    for (asked, model, hint) in [
        (here(false), Gpu::SHARED, Some("sees no CUDA device")),
        (here(true), Gpu::EXCLUSIVE, Some("compute mode")),
        (wish, Gpu::SHARED, Some("pinned")),
        (here(true), Gpu::CPU, None),
    ] {
        let (chosen, why) = choose(&asked, &model);
        assert_eq!(chosen, Transport::Shm, "{hint:?}");
        assert_eq!(why.contains("cuda-ipc"), hint.is_some(), "{why}");
        assert!(why.contains(hint.unwrap_or_default()), "{why}");
    }
    let far = v1::OpenSessionRequest { host_id: "another".into(), ..here(true) };
    assert_eq!(choose(&far, &Gpu::SHARED).0, Transport::Tcp);
    let without = offer(&[Transport::Shm, Transport::Tcp]).choose(&here(true), &Gpu::SHARED);
    assert_eq!(without.0, Transport::Shm, "the server has none");
}

#[test]
fn cuda_ipc_by_name_needs_one_host_and_a_model_on_a_device_that_both_can_use() {
    let all = [Transport::Shm, Transport::CudaIpc];
    let ask = |asked: &v1::OpenSessionRequest, model: &Gpu<'_>| {
        offer(&all).transport(Some(Transport::CudaIpc), asked, model)
    };
    // Who names it need not say that it can.
    assert_eq!(ask(&here(false), &Gpu::SHARED).unwrap().0, Transport::CudaIpc);
    let far = v1::OpenSessionRequest { host_id: "another".into(), ..here(true) };
    for (asked, model, hints) in [
        (&far, Gpu::SHARED, ["host_id", "ask for rdma or tcp"]),
        (&here(true), Gpu::CPU, ["m runs on the CPU", "m.toml"]),
        (&here(true), Gpu::EXCLUSIVE, ["compute mode", "nvidia-smi -i 1 -c DEFAULT"]),
    ] {
        let told = ask(asked, &model).unwrap_err().to_string();
        assert!(hints.iter().all(|hint| told.contains(hint)), "{told}");
    }
}
