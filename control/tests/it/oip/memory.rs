//! Tensors in shared memory that clients registered.

use ferry_control::tenants::{Quota, TenantConfig};
use ferry_proto::channel::KEY_METADATA;
use ferry_proto::oip;
use tonic::{Code, Request};

use super::{client, identity, number, output, text};
use crate::common::Running;

/// A file of shared memory, which goes with the value.
pub(crate) struct Shm(pub(crate) String);

impl Shm {
    pub(crate) fn new(what: &str, bytes: usize) -> Shm {
        let key = format!("ferry-oip-{}-{what}", std::process::id());
        std::fs::write(format!("/dev/shm/{key}"), vec![0; bytes]).unwrap();
        Shm(key)
    }

    pub(crate) fn path(&self) -> String {
        format!("/dev/shm/{}", self.0)
    }

    fn register(
        &self,
        name: &str,
        offset: u64,
        byte_size: u64,
    ) -> oip::SystemSharedMemoryRegisterRequest {
        let (name, key) = (name.to_owned(), format!("/{}", self.0));
        oip::SystemSharedMemoryRegisterRequest { name, key, offset, byte_size }
    }
}

impl Drop for Shm {
    fn drop(&mut self) {
        std::fs::remove_file(self.path()).unwrap();
    }
}

fn status(name: &str) -> oip::SystemSharedMemoryStatusRequest {
    oip::SystemSharedMemoryStatusRequest { name: name.into() }
}

fn unregister(name: &str) -> oip::SystemSharedMemoryUnregisterRequest {
    oip::SystemSharedMemoryUnregisterRequest { name: name.into() }
}

fn place(region: &str, at: i64, bytes: i64) -> Vec<(&str, oip::InferParameter)> {
    let mut all =
        vec![("shared_memory_region", text(region)), ("shared_memory_byte_size", number(bytes))];
    if at != 0 {
        all.push(("shared_memory_offset", number(at)));
    }
    all
}

/// Asks the identity for 1,000 floats `at` some place of a region, into another one.
fn through(from: (&str, i64), to: (&str, i64)) -> oip::ModelInferRequest {
    let mut request = identity(&[1, 10, 100], &[]);
    request.raw_input_contents.clear();
    for (name, value) in place(from.0, from.1, 4000) {
        request.inputs[0].parameters.insert(name.into(), value);
    }
    request.outputs = vec![output("OUTPUT0", &place(to.0, to.1, 4096))];
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tensor_goes_from_one_region_to_another() {
    let server = Running::start(|_| {}).await;
    let mut client = client(&server);
    let (shm_in, shm_out) = (Shm::new("in", 10_000), Shm::new("out", 20_000));
    // What clients begin with.
    client.system_shared_memory_unregister(unregister("")).await.unwrap();
    let unregister_cuda = oip::CudaSharedMemoryUnregisterRequest::default();
    client.cuda_shared_memory_unregister(unregister_cuda).await.unwrap();
    client.system_shared_memory_register(shm_in.register("in", 1000, 9000)).await.unwrap();
    client.system_shared_memory_register(shm_out.register("out", 0, 20_000)).await.unwrap();
    let told = client.system_shared_memory_status(status("")).await.unwrap().into_inner();
    assert_eq!(told.regions.len(), 2);
    let region = &told.regions["in"];
    assert_eq!((region.offset, region.byte_size), (1000, 9000));
    assert_eq!(region.key, format!("/{}", shm_in.0));

    let sent: Vec<u8> = (0..=252).cycle().take(4000).collect();
    let mut file = std::fs::read(shm_in.path()).unwrap();
    file[1000 + 48..][..4000].copy_from_slice(&sent);
    std::fs::write(shm_in.path(), &file).unwrap();
    let answer = client.model_infer(through(("in", 48), ("out", 100))).await.unwrap().into_inner();
    // Clients index the entry of every output.
    assert_eq!(answer.raw_output_contents, [Vec::new()]);
    let told = &answer.outputs[0];
    assert_eq!(told.shape, [1, 10, 100]);
    for (name, value) in [
        ("shared_memory_region", text("out")),
        ("shared_memory_offset", number(100)),
        ("shared_memory_byte_size", number(4000)),
    ] {
        assert_eq!(told.parameters.get(name), Some(&value), "{told:?}");
    }
    let made = std::fs::read(shm_out.path()).unwrap();
    assert_eq!(made[100..][..4000], sent);
    assert!(made[..100].iter().chain(&made[4100..]).all(|&byte| byte == 0));

    client.system_shared_memory_unregister(unregister("in")).await.unwrap();
    let refused = client.model_infer(through(("in", 48), ("out", 100))).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
    let refused = client.system_shared_memory_status(status("in")).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_lie_in_a_region_is_refused_and_a_cut_file_harms_nobody() {
    let server = Running::start(|_| {}).await;
    let mut client = client(&server);
    let shm = Shm::new("bad", 8192);
    for (asked, code, word) in [
        (shm.register("r", 0, 8193), Code::InvalidArgument, "byte_size: "),
        (shm.register("r", u64::MAX, 2), Code::InvalidArgument, "byte_size: "),
        (shm.register("r", 0, 0), Code::InvalidArgument, "byte_size: "),
        (shm.register("", 0, 8), Code::InvalidArgument, "name: "),
    ] {
        let refused = client.system_shared_memory_register(asked).await.unwrap_err();
        assert_eq!(refused.code(), code);
        assert!(refused.message().starts_with(word), "{}", refused.message());
    }
    for key in ["/../etc/passwd", "a/b", "..", "a\0b", "", "/ferry-oip-there-is-none"] {
        let key = key.to_owned();
        let asked = oip::SystemSharedMemoryRegisterRequest { key, ..shm.register("r", 0, 8) };
        let refused = client.system_shared_memory_register(asked).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with("key: "), "{}", refused.message());
    }
    client.system_shared_memory_register(shm.register("r", 0, 8192)).await.unwrap();
    let twice = client.system_shared_memory_register(shm.register("r", 0, 8)).await.unwrap_err();
    assert_eq!(twice.code(), Code::AlreadyExists);
    for (from, to) in [(4200, 0), (i64::MAX, 0), (0, 4097), (0, i64::MAX)] {
        let refused = client.model_infer(through(("r", from), ("r", to))).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }
    let mut small = through(("r", 0), ("r", 4096));
    small.outputs = vec![output("OUTPUT0", &place("r", 4096, 3999))];
    let refused = client.model_infer(small).await.unwrap_err();
    assert!(refused.message().contains("room for 3999"), "{}", refused.message());
    let mut both = through(("r", 0), ("r", 4096));
    both.inputs[0].contents = Some(oip::InferTensorContents::default());
    let refused = client.model_infer(both).await.unwrap_err();
    assert!(refused.message().contains("shared memory"), "{}", refused.message());
    let mut classes = through(("r", 0), ("r", 4096));
    classes.outputs[0].parameters.insert("classification".into(), number(1));
    let refused = client.model_infer(classes).await.unwrap_err();
    assert!(refused.message().starts_with("classification: "), "{}", refused.message());

    client.model_infer(through(("r", 0), ("r", 4096))).await.unwrap();
    std::fs::File::options().write(true).open(shm.path()).unwrap().set_len(4000).unwrap();
    for (from, to) in [(4096, 0), (0, 4096)] {
        let refused = client.model_infer(through(("r", from), ("r", to))).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().contains("cut short"), "{}", refused.message());
    }
    client.model_infer(identity(&[1, 1, 1], &[0; 4])).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_is_of_the_tenant_that_registered_it() {
    let server = Running::start(|config| {
        let tenant = |name: &str| {
            let (name, key) = (name.to_owned(), format!("key of {name}"));
            TenantConfig { name, key, quota: Quota::default(), rate: None }
        };
        config.tenants = vec![tenant("a"), tenant("b")];
        config.operator_key = Some("operator".into());
    })
    .await;
    fn of<T>(tenant: &str, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let key = format!("key of {tenant}").parse().unwrap();
        request.metadata_mut().insert(KEY_METADATA, key);
        request
    }
    let mut client = client(&server);
    let shm = Shm::new("tenants", 10_000);
    client.system_shared_memory_register(of("a", shm.register("r", 0, 10_000))).await.unwrap();
    let told = client.system_shared_memory_status(of("b", status(""))).await.unwrap();
    assert!(told.into_inner().regions.is_empty());
    let stolen = client.model_infer(of("b", through(("r", 0), ("r", 5000)))).await.unwrap_err();
    assert_eq!(stolen.code(), Code::NotFound);
    let again = client.system_shared_memory_register(of("b", shm.register("mine", 0, 10)));
    let again = again.await.unwrap_err();
    assert!(again.message().contains("another tenant"), "{}", again.message());
    client.system_shared_memory_unregister(of("b", unregister("r"))).await.unwrap();
    client.system_shared_memory_unregister(of("b", unregister(""))).await.unwrap();
    client.model_infer(of("a", through(("r", 0), ("r", 5000)))).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_of_a_gpu_is_refused_with_the_reason() {
    let server = Running::start(|_| {}).await;
    let mut client = client(&server);
    let asked = oip::CudaSharedMemoryStatusRequest::default();
    let none = client.cuda_shared_memory_status(asked).await.unwrap().into_inner();
    assert!(none.regions.is_empty());
    let asked = oip::CudaSharedMemoryRegisterRequest {
        name: "g".into(),
        raw_handle: vec![0; 64].into(),
        device_id: 0,
        byte_size: 4096,
    };
    let short = vec![0; 63].into();
    for (wrong, field) in [
        (oip::CudaSharedMemoryRegisterRequest { raw_handle: short, ..asked.clone() }, "raw_handle"),
        (oip::CudaSharedMemoryRegisterRequest { device_id: -1, ..asked.clone() }, "device_id"),
        (oip::CudaSharedMemoryRegisterRequest { byte_size: 0, ..asked.clone() }, "byte_size"),
        (oip::CudaSharedMemoryRegisterRequest { name: String::new(), ..asked.clone() }, "name"),
    ] {
        let refused = client.cuda_shared_memory_register(wrong).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with(field), "{}", refused.message());
    }
    let refused = client.cuda_shared_memory_register(asked).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(refused.message().contains("system shared memory"), "{}", refused.message());
    let asked = oip::CudaSharedMemoryStatusRequest { name: "g".into() };
    let refused = client.cuda_shared_memory_status(asked).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    server.stop().await;
}
