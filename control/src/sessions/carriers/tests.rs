//! Which transport is chosen, and what is refused.

use ferry_core::{MemoryChoice, Placement, SessionSpec};
use ferry_cuda::Device;
use ferry_memory::Placer;

use super::super::carrier::PassedOver;
use super::*;

/// A transport that says what it is told to.
#[derive(Debug)]
struct Fake {
    transport: Transport,
    fits: Result<(), Unfit>,
    suits: Result<String, PassedOver>,
}

impl Carrier for Fake {
    fn transport(&self) -> Transport {
        self.transport
    }

    fn fits(&self, _wish: &Wish<'_>) -> Result<(), Unfit> {
        self.fits.clone()
    }

    fn suits(&self, _wish: &Wish<'_>) -> Result<String, PassedOver> {
        self.suits.clone()
    }

    fn placer(
        &self,
        _device: &Arc<Device>,
        _placement: Placement,
        _memory: MemoryChoice,
    ) -> Option<Arc<dyn Placer>> {
        None
    }
}

fn fake(transport: Transport, suits: Result<&str, Option<&str>>) -> Arc<dyn Carrier> {
    let suits = suits.map(str::to_owned).map_err(|why| why.map(str::to_owned));
    Arc::new(Fake { transport, fits: Ok(()), suits })
}

fn wish(spec: &SessionSpec) -> Wish<'_> {
    Wish { spec, model: "m", device: None, is_this_host: true, is_inside: false }
}

#[test]
fn auto_takes_the_first_that_suits_and_says_what_it_passed_over() {
    let spec = SessionSpec::default();
    let unfit = Err(Unfit::new("one process alone may use it", "ask for another"));
    let (transport, suits) = (Transport::CudaIpc, Ok("on one device".to_owned()));
    let all: [Arc<dyn Carrier>; 4] = [
        Arc::new(Fake { transport, fits: unfit, suits }),
        fake(Transport::Shm, Err(Some("no host is shared"))),
        fake(Transport::Rdma, Err(None)),
        fake(Transport::Tcp, Ok("tcp works")),
    ];
    let (chosen, why) = best(all.iter(), &wish(&spec)).unwrap();
    assert_eq!(chosen.transport(), Transport::Tcp);
    let expected = "tcp works (cuda-ipc: one process alone may use it; shm: no host is shared)";
    assert_eq!(why, expected);
    assert!(best(all[..3].iter(), &wish(&spec)).is_err(), "nothing is left");
}

#[test]
fn carriers_are_tried_by_their_rank() {
    let all = Transport::ALL.map(|transport| fake(transport, Err(None)));
    let carriers = Carriers::new(all.into(), Arc::default(), Arc::from([]));
    let at = |wanted| carriers.all.iter().position(|it| it.transport() == wanted);
    use Transport::{CudaIpc, Gdr, Grpc, Local, Rdma, Shm, Tcp};
    assert!([CudaIpc, Shm, Gdr, Rdma, Tcp, Grpc, Local].map(at).is_sorted(), "local is last");
    assert_eq!(carriers.transports(), [Transport::Grpc], "the others have no lane");
}

#[test]
fn a_transport_without_a_lane_is_refused_with_what_was_found() {
    let found = Found::bad("rdma", "no device", "plug one in");
    let findings = Arc::from([Finding { area: Area::Transport, found }]);
    let carriers = Carriers::new(Vec::new(), Arc::default(), findings);
    let told = |transport| {
        let spec = SessionSpec { transport: Some(transport), ..SessionSpec::default() };
        carriers.choose(&wish(&spec), &[]).unwrap_err().to_string()
    };
    let missing = told(Transport::Rdma);
    assert!(missing.contains("no device") && missing.contains("plug one in"), "{missing}");
    let ended = told(Transport::Zmq);
    assert!(ended.contains("it has ended"), "{ended}");
}
