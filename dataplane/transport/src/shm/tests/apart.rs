//! Slots in memory of a device: what is described wrongly, and what becomes of the memory.

use ferry_conformance::far::FarDevice;
use ferry_core::{DeviceMemory, DeviceUuid, IpcHandle, RegionDescriptor};
use ferry_memory::{HeapBacking, Importer, MemoryError, Placer, Region};

use super::*;
use crate::connect::ConnectError;
use crate::link::AdmitError;

fn admit(server: &mut Server, device: &Arc<FarDevice>, number: u64) -> (u64, DeviceMemory) {
    let placer: Arc<dyn Placer> = Arc::<FarDevice>::clone(device);
    let admission = Admission { placer: Some(placer), ..admission(number) };
    match server.listener.admit(admission).unwrap() {
        RegionDescriptor::OnDevice { bytes, slots, .. } => (bytes, slots),
        other => panic!("{other:?}"),
    }
}

/// Connects on a thread of its own, by what is described, while the server is polled.
fn connect(
    server: &mut Server,
    bytes: u64,
    slots: DeviceMemory,
    importer: Option<&dyn Importer>,
) -> Result<(ShmClient, Arc<ferry_memory::SlotTable>), ConnectError> {
    let descriptor = RegionDescriptor::OnDevice { bytes, layout: LAYOUT, slots };
    let endpoint = server.listener.endpoint();
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let Admission { session, generation, token, .. } = admission(1);
            let late = Instant::now() + WATCHDOG;
            ShmClient::connect(&endpoint, session, generation, token, &descriptor, importer, late)
        });
        while !client.is_finished() {
            server.settle();
        }
        client.join().unwrap()
    })
}

fn told(connected: Result<(ShmClient, Arc<ferry_memory::SlotTable>), ConnectError>) -> String {
    match connected.unwrap_err() {
        ConnectError::Memory(why @ MemoryError::Foreign { .. }) => why.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_opened_is_refused_and_the_session_ends() {
    type Forge = fn(&mut DeviceMemory);
    let forge: [(&str, Forge); 3] = [
        ("another device", |it| it.device = DeviceUuid([0; DeviceUuid::BYTES])),
        ("no such allocation", |it| it.handle = IpcHandle([0xEE; IpcHandle::BYTES])),
        ("described are", |it| it.bytes -= 1),
    ];
    for (why, forge) in forge {
        let (mut server, device) = (Server::new(), Arc::new(FarDevice::default()));
        let (bytes, mut slots) = admit(&mut server, &device, 1);
        forge(&mut slots);
        let told = told(connect(&mut server, bytes, slots, Some(&*device)));
        assert!(told.contains(why), "{told}");
        server.listener.evict(SessionId(1), Status::SessionEnded);
        assert_eq!(device.live(), 0, "{why}: the session's memory is freed");
    }
}

#[test]
fn a_client_without_an_importer_is_told_what_to_ask_for() {
    let (mut server, device) = (Server::new(), Arc::new(FarDevice::default()));
    let (bytes, slots) = admit(&mut server, &device, 1);
    let told = told(connect(&mut server, bytes, slots, None));
    assert!(told.contains("ask for shm"), "{told}");
    // Nothing was asked of the server: the session still waits for its client.
    assert!(connect(&mut server, bytes, slots, Some(&*device)).is_ok());
}

#[test]
fn memory_of_an_ended_session_is_gone_and_is_never_given_to_another() {
    let (mut server, device) = (Server::new(), Arc::new(FarDevice::default()));
    let (bytes, first) = admit(&mut server, &device, 1);
    let (client, table) = connect(&mut server, bytes, first, Some(&*device)).unwrap();
    let mut late = table.acquire().unwrap();
    server.listener.evict(SessionId(1), Status::SessionEnded);
    let (_, second) = admit(&mut server, &device, 1);
    assert_ne!(first.handle, second.handle, "a lease has memory of its own");
    drop(client);
    late.request_mut().copy_in(0, &[0xBB; 100]).unwrap();
    drop((late, table));
    assert_eq!(device.live(), 1, "the second lease's");
    let told = told(connect(&mut server, bytes, first, Some(&*device)));
    assert!(told.contains("gone"), "{told}");
}

#[test]
fn memory_that_no_other_process_can_open_is_not_admitted() {
    #[derive(Debug)]
    struct Silent;
    impl Placer for Silent {
        fn on_device(&self) -> bool {
            true
        }
        fn allocate(&self, bytes: usize) -> Result<Region, MemoryError> {
            HeapBacking::new(bytes).map(Region::whole)
        }
        fn register(&self, memory: Region) -> Result<Region, MemoryError> {
            Ok(memory)
        }
    }
    let mut server = Server::new();
    let placer: Option<Arc<dyn Placer>> = Some(Arc::new(Silent));
    let refused = server.listener.admit(Admission { placer, ..admission(1) }).unwrap_err();
    assert!(matches!(&refused, AdmitError::Memory(_)), "{refused:?}");
}
