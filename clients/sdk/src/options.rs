//! What a session is asked for.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ferry_core::{SlotPlace, Transport, WaitPolicy};
use ferry_proto::v1;
use ferry_transport::RecordSink;

use crate::error::Error;
use crate::key::Key;

/// Everything that a session can be asked for. Made by [`SessionBuilder`].
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) model: String,
    pub(crate) version: u64,
    pub(crate) transport: Option<Transport>,
    pub(crate) wait: WaitPolicy,
    pub(crate) place: Option<SlotPlace>,
    pub(crate) slots: u32,
    pub(crate) shapes: Vec<(String, Vec<u64>)>,
    pub(crate) request_bytes_min: u64,
    pub(crate) reply_bytes_min: u64,
    pub(crate) run_id: i64,
    pub(crate) record: bool,
    pub(crate) warmup: u64,
    pub(crate) observer: Option<Arc<dyn RecordSink>>,
    pub(crate) timeout: Duration,
    /// The server is told of `timeout`: somebody chose it.
    pub(crate) is_timeout_told: bool,
    pub(crate) connect: ferry_connect::Options,
    /// Why choices of the server's did not work: they are not offered again.
    pub(crate) failed: Arc<Failed>,
    /// The key of the tenant, for links that are calls of the control plane.
    pub(crate) key: Option<Key>,
}

/// Transports that the server chose and that did not work, with the reason.
#[derive(Debug, Default)]
pub(crate) struct Failed {
    rdma: OnceLock<String>,
    cuda_ipc: OnceLock<String>,
}

/// What this end has, and the server may choose a transport by.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Has {
    pub(crate) rdma: bool,
    pub(crate) cuda: bool,
}

impl Failed {
    fn of(&self, transport: Transport) -> Option<&OnceLock<String>> {
        match transport {
            Transport::Rdma | Transport::Gdr => Some(&self.rdma),
            Transport::CudaIpc => Some(&self.cuda_ipc),
            _ => None,
        }
    }

    /// The reasons so far, as they are added to the one for the transport in use.
    pub(crate) fn reasons(&self) -> String {
        [Transport::Rdma, Transport::CudaIpc]
            .into_iter()
            .filter_map(|it| Some(format!(" ({it}: {})", self.of(it)?.get()?)))
            .collect()
    }
}

/// How long a request may take before the caller gets an error: the slowest model of the reference
/// takes seconds on one core.
const TIMEOUT: Duration = Duration::from_secs(60);

impl Options {
    pub(crate) fn new(model: &str) -> Options {
        Options {
            model: model.to_owned(),
            version: 0,
            transport: None,
            wait: WaitPolicy::default(),
            place: None,
            slots: 0,
            shapes: Vec::new(),
            request_bytes_min: 0,
            reply_bytes_min: 0,
            run_id: 0,
            record: true,
            warmup: 0,
            observer: None,
            timeout: TIMEOUT,
            is_timeout_told: false,
            connect: ferry_connect::Options::default(),
            failed: Arc::default(),
            key: None,
        }
    }

    /// The timeout in microseconds; none is shorter than one.
    fn timeout_us(&self) -> u64 {
        u64::try_from(self.timeout.as_micros()).unwrap_or(u64::MAX).max(1)
    }

    /// Whether the server may choose a transport for which this end has to have something.
    pub(crate) fn may_be(&self, transport: Transport) -> bool {
        let failed = self.failed.of(transport).is_some_and(|it| it.get().is_some());
        self.transport.is_none() && !failed
    }

    /// Notes that a session could not be attached, so that a transport that the server chose is
    /// not offered again. `true` if that makes another try worth its while now.
    pub(crate) fn failed(&self, transport: Transport, why: &Error) -> bool {
        let place = self.failed.of(transport).filter(|_| self.transport.is_none());
        let is_first = place.is_some_and(|it| it.set(why.to_string()).is_ok());
        if is_first {
            tracing::warn!(%transport, %why, "the server's choice does not work: trying without");
        }
        is_first
    }

    /// The request; `has` says what may be chosen.
    pub(crate) fn to_wire(&self, has: Has) -> v1::OpenSessionRequest {
        let frame = u32::from(ferry_core::frame::VERSION);
        let shape = |(name, shape): &(String, Vec<u64>)| v1::TensorShape {
            name: name.clone(),
            shape: shape.clone(),
        };
        let mut request = v1::OpenSessionRequest {
            protocol_min: frame,
            protocol_max: frame,
            model: self.model.clone(),
            version: self.version,
            placement: self.place.map(Into::into),
            slots: self.slots,
            shapes: self.shapes.iter().map(shape).collect(),
            request_bytes_min: self.request_bytes_min,
            reply_bytes_min: self.reply_bytes_min,
            timeout_us: if self.is_timeout_told { self.timeout_us() } else { 0 },
            run_id: self.run_id,
            client_records: self.record,
            unrecorded: !self.record,
            transport: self.transport.map(|it| it.name().to_owned()).unwrap_or_default(),
            client: concat!("ferry-client ", env!("CARGO_PKG_VERSION")).to_owned(),
            host_id: ferry_memory::host_id().unwrap_or_default(),
            has_rdma: has.rdma,
            has_cuda: has.cuda,
            ..Default::default()
        };
        request.set_wait(self.wait.into());
        request
    }
}

/// Asks for a session step by step. `C` is the client that opens it.
#[derive(Debug)]
#[must_use = "nothing is opened before `open`"]
pub struct SessionBuilder<'c, C> {
    pub(crate) client: &'c C,
    pub(crate) options: Options,
}

impl<C> SessionBuilder<'_, C> {
    /// This version of the model; the latest if not said.
    pub fn version(mut self, version: u64) -> Self {
        self.options.version = version;
        self
    }

    /// This transport or an error; without it the server chooses, and
    /// [`Agreed::transport_reason`](crate::Agreed::transport_reason) says why.
    pub fn transport(mut self, transport: Transport) -> Self {
        self.options.transport = Some(transport);
        self
    }

    /// How to wait for replies; [`WaitPolicy::Adaptive`] if not said.
    pub fn wait(mut self, wait: WaitPolicy) -> Self {
        self.options.wait = wait;
        self
    }

    /// Where the slots are to lie, for a model on a GPU: memory of the host that is `pinned`,
    /// `mapped` or neither for it, or the GPU's own. If not said, the server decides for each
    /// request between pinned and mapped.
    pub fn place(mut self, place: SlotPlace) -> Self {
        self.options.place = Some(place);
        self
    }

    /// How many requests can be in flight; the server's default if not said.
    pub fn slots(mut self, slots: u32) -> Self {
        self.options.slots = slots;
        self
    }

    /// Chooses the open dimensions of an input or output by giving its whole shape.
    pub fn shape(mut self, tensor: &str, shape: &[u64]) -> Self {
        self.options.shapes.push((tensor.to_owned(), shape.to_vec()));
        self
    }

    /// Makes room for requests of this many bytes where they can be longer than the input tensors:
    /// pictures.
    pub fn request_bytes(mut self, bytes: u64) -> Self {
        self.options.request_bytes_min = bytes;
        self
    }

    /// Makes room for replies of this many bytes where only the model knows how large they are. If
    /// not said, the server makes room for what it has seen and more. Where a reply has no room
    /// either way, the session is opened again with that room by itself, and the request is sent
    /// once more.
    pub fn reply_bytes(mut self, bytes: u64) -> Self {
        self.options.reply_bytes_min = bytes;
        self
    }

    /// Records under this run; under the server's own if not said.
    pub fn run(mut self, run_id: i64) -> Self {
        self.options.run_id = run_id;
        self
    }

    /// Whether to report the timing of each request to the server's store; true if not said. If
    /// not, the server records nothing of them either; an observer still sees them.
    pub fn record(mut self, record: bool) -> Self {
        self.options.record = record;
        self
    }

    /// The first `requests` requests are neither reported nor observed; none if not said. A request
    /// that is sent once more counts once.
    pub fn warmup(mut self, requests: u64) -> Self {
        self.options.warmup = requests;
        self
    }

    /// Also hands the timing of each request to `observer`, once it is complete: a reply's own
    /// `reply` stage arrives with the next reply.
    pub fn observer(mut self, observer: Arc<dyn RecordSink>) -> Self {
        self.options.observer = Some(observer);
        self
    }

    /// The device for the transport `rdma`, as `ibv_devices` shows it. The first with an
    /// active port if not said.
    #[cfg(feature = "rdma")]
    pub fn rdma_device(mut self, device: &str) -> Self {
        self.options.connect.rdma.device = Some(device.to_owned());
        self
    }

    /// Entry of the port's table of addresses for the transport `rdma`. Chosen by rank if
    /// not said.
    #[cfg(feature = "rdma")]
    pub fn rdma_gid_index(mut self, index: u8) -> Self {
        self.options.connect.rdma.gid_index = Some(index);
        self
    }

    /// How long a reply is waited for; 60 s if not said. The server is told of it where it is said: a
    /// request that still waits there so long after it arrived does not run, and one that cannot be
    /// answered in time is refused at once; both have the status `late`.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = timeout;
        self.options.is_timeout_told = true;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_that_failed_is_not_offered_again_and_a_wish_is_kept() {
        let why = || Error::Attach { transport: Transport::Rdma, why: "no way".into() };
        let auto = Options::new("echo");
        assert!(auto.may_be(Transport::Rdma) && auto.may_be(Transport::CudaIpc));
        assert!(!auto.failed(Transport::Tcp, &why()), "another transport has no other choice");
        assert_eq!(auto.failed.reasons(), "");
        assert!(auto.may_be(Transport::Rdma));
        assert!(auto.failed(Transport::Rdma, &why()), "another try makes sense, once");
        assert!(!auto.failed(Transport::Rdma, &why()));
        assert!(!auto.may_be(Transport::Rdma));
        assert!(auto.may_be(Transport::CudaIpc), "the other one has not failed");
        assert!(auto.failed(Transport::CudaIpc, &why()));
        assert!(!auto.may_be(Transport::CudaIpc));
        let reasons = auto.failed.reasons();
        assert_eq!(
            (reasons.matches("no way").count(), reasons.matches("(cuda-ipc:").count()),
            (2, 1)
        );
        for named in [Transport::Rdma, Transport::CudaIpc] {
            let wish = Options { transport: Some(named), ..Options::new("echo") };
            assert!(!wish.may_be(named), "who names it need not offer it");
            assert!(!wish.failed(named, &why()), "no other transport than was asked for");
        }
    }
}
