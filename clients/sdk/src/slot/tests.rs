//! Slots and replies in memory that no CPU can address, beside those in memory of the host.

use std::time::Duration;

use ferry_conformance::far::FarDevice;
use ferry_core::{
    BoundSignature, DType, Endpoint, Generation, HostMemory, MemoryChoice, RegionDescriptor,
    SessionId, SlotLayout, SlotPlace, StageTimes, Status, Token, Transport,
};
use ferry_memory::{PeerAccess, Placer, SlotTable};
use ferry_transport::{Completion, Ending};

use super::*;
use crate::reply::Reply;

const LAYOUT: SlotLayout = SlotLayout { slots: 1, request_bytes: 64, reply_bytes: 100 };

fn tensor(name: &str, dtype: DType, offset: u64, bytes: u64) -> BoundTensor {
    let shape = vec![bytes / dtype.bytes()];
    BoundTensor { name: name.into(), dtype, shape, offset, bytes, open: false }
}

fn agreed() -> Arc<Agreed> {
    let inputs = vec![tensor("a", DType::U8, 0, 10), tensor("b", DType::F32, 16, 32)];
    let outputs = vec![tensor("x", DType::U8, 0, 3), tensor("y", DType::F32, 64, 8)];
    Arc::new(Agreed {
        session: SessionId(1),
        token: Token::new([0; Token::BYTES]),
        generation: Generation::FIRST,
        endpoint: Endpoint::bare(ferry_core::LinkKind::Local),
        region: RegionDescriptor::Framed,
        transport: Transport::CudaIpc,
        transport_reason: String::new(),
        layout: LAYOUT,
        signature: BoundSignature { inputs, outputs },
        lease: Duration::from_secs(30),
        model: "m".into(),
        version: 1,
        engine: "e".into(),
        takes_pictures: true,
        labels: Vec::new(),
        run_id: 0,
        place: None,
    })
}

fn far() -> Arc<SlotTable> {
    let memory = FarDevice::default().allocate(SlotTable::bytes(&LAYOUT).unwrap()).unwrap();
    SlotTable::over(LAYOUT, PeerAccess::None, memory).unwrap()
}

fn slot(table: &Arc<SlotTable>) -> Slot {
    Slot::new(table.acquire().unwrap(), agreed(), None, None)
}

fn request(slot: &Slot) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    slot.inner.request().copy_out(0, &mut bytes).unwrap();
    bytes
}

/// Past the caches or through them, by whoever reads next.
#[test]
fn what_a_device_reads_in_place_lands_whole() {
    const LONG: usize = 100_003;
    let layout = SlotLayout { slots: 1, request_bytes: LONG as u64 + 5, reply_bytes: 100 };
    let bytes: Vec<u8> = (0..LONG).map(|at| (at % 251).to_le_bytes()[0]).collect();
    let auto = SlotPlace::Host(MemoryChoice::Auto);
    let pageable = SlotPlace::Host(MemoryChoice::Always(HostMemory::Pageable));
    for (transport, place, past_caches) in [
        (Transport::Shm, Some(auto), true),
        (Transport::Shm, Some(pageable), false),
        (Transport::Shm, None, false),
        (Transport::Tcp, Some(auto), false),
        (Transport::CudaIpc, Some(SlotPlace::Cuda(0)), false),
    ] {
        let agreed = Arc::new(Agreed { transport, place, ..Agreed::clone(&agreed()) });
        assert_eq!(agreed.is_read_by_device(), past_caches, "{transport} {place:?}");
        let table = SlotTable::private(layout).unwrap();
        let mut slot = Slot::new(table.acquire().unwrap(), agreed, None, None);
        slot.set_jpeg(&bytes).unwrap();
        let mut read = vec![0; LONG + 5];
        slot.inner.request().copy_out(0, &mut read).unwrap();
        assert!(read[..LONG] == bytes && read[LONG..] == [0; 5], "{transport} {place:?}");
    }
}

#[test]
fn what_is_written_lands_in_slots_of_every_placement() {
    for table in [far(), SlotTable::private(LAYOUT).unwrap()] {
        let mut slot = slot(&table);
        slot.set_ping();
        slot.set_input(0, &[1; 10]).unwrap();
        slot.set_input(1, &[2; 32]).unwrap();
        slot.write(8, &[3; 9]).unwrap();
        slot.write(48, &[]).unwrap();
        let expected = [&[1; 8][..], &[3; 9], &[2; 31], &[0; 16]].concat();
        assert_eq!(request(&slot), expected);
        assert_eq!((slot.what.kind, slot.payload_bytes), (RequestKind::Tensor, 48));
        assert_eq!((slot.input_bytes(0).unwrap(), slot.input_bytes(1).unwrap()), (10, 32));
        for wrong in [
            slot.set_input(0, &[1; 9]),
            slot.set_input(0, &[1; 11]),
            slot.write(40, &[9; 9]),
            slot.write(usize::MAX, &[9]),
            slot.copy_from_device(40, 0, 9),
        ] {
            assert!(matches!(wrong, Err(Error::Size { .. })), "{wrong:?}");
        }
        assert!(matches!(slot.set_input(2, &[]), Err(Error::NoTensor { .. })));
        assert!(matches!(slot.copy_from_device(0, 4096, 8), Err(Error::NotOnDevice(_))));
        assert_eq!(request(&slot), expected, "what was refused changed nothing");
        slot.set_jpeg(&[7; 64]).unwrap();
        assert_eq!((slot.what.kind, slot.payload_bytes), (RequestKind::Jpeg, 64));
        slot.set_raw(2, 2, PixelFormat::Rgb8, &[8; 12]).unwrap();
        assert_eq!(request(&slot), [&[8; 12][..], &[7; 52]].concat());
        assert!(slot.set_jpeg(&[7; 65]).is_err());
    }
}

#[test]
fn a_slice_of_device_memory_is_refused_with_what_to_use() {
    let mut slot = slot(&far());
    for told in [slot.input_mut(0).unwrap_err(), slot.input_f32_mut(1).unwrap_err()] {
        let told = told.to_string();
        assert!(["cuda:0", "cuda-ipc", "`write`"].iter().all(|it| told.contains(it)), "{told}");
    }
}

fn reply(table: &Arc<SlotTable>, status: Status, half: &[u8]) -> Result<Reply, Error> {
    let mut slot = table.acquire().unwrap();
    slot.reply_mut().copy_in(0, half).unwrap();
    let done = Completion {
        request: 5,
        slot: Some(slot),
        what: Request::of(RequestKind::Ping),
        request_bytes: 0,
        ending: Ending::Replied,
        status,
        payload_bytes: half.len(),
        outputs: None,
        times: StageTimes::NONE,
    };
    Reply::from_completion(done, &agreed())
}

#[test]
fn replies_are_read_wherever_they_landed() {
    for table in [far(), SlotTable::private(LAYOUT).unwrap()] {
        let mut half = vec![0; 72];
        half[..3].copy_from_slice(&[1, 2, 3]);
        half[64..68].copy_from_slice(&1.5_f32.to_ne_bytes());
        half[68..].copy_from_slice(&(-2.0_f32).to_ne_bytes());
        let whole = reply(&table, Status::Ok, &half).unwrap();
        assert_eq!(whole.payload(), half);
        assert_eq!(whole.output(0).unwrap(), [1, 2, 3]);
        assert_eq!(whole.output_f32(1).unwrap(), [1.5, -2.0]);
        drop(whole);
        let short = reply(&table, Status::Ok, &half[..67]).unwrap();
        assert_eq!((short.payload().len(), short.output(0).unwrap().len()), (67, 3));
        assert!(matches!(short.output(1), Err(Error::Size { .. })));
        drop(short);
        let empty = reply(&table, Status::Ok, &[]).unwrap();
        assert!(empty.payload().is_empty());
        drop(empty);
        match reply(&table, Status::EngineFailed, b"no such thing").unwrap_err() {
            Error::Request { request: 5, text, .. } => assert_eq!(text, "no such thing"),
            other => panic!("{other:?}"),
        }
    }
}
