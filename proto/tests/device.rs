//! Memory of a device survives the wire, and every length of it is checked.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "helpers of tests; a failure is a failed test")]

use bytes::Bytes;
use ferry_core::{DeviceMemory, DeviceUuid, IpcHandle, RegionDescriptor, SlotLayout};
use ferry_proto::v1;
use proptest::prelude::*;
use prost::Message;

const LAYOUT: SlotLayout = SlotLayout { slots: 2, request_bytes: 64, reply_bytes: 64 };

fn memories() -> impl Strategy<Value = DeviceMemory> {
    let bytes = proptest::collection::vec(any::<u8>(), 80);
    (bytes, 0..u64::MAX / 2, 1..u64::MAX / 2).prop_map(|(name, offset, bytes)| DeviceMemory {
        handle: IpcHandle(name[..64].try_into().unwrap()),
        device: DeviceUuid(name[64..].try_into().unwrap()),
        offset,
        bytes,
    })
}

fn complete(told: &[v1::RegionDescriptor]) -> Option<RegionDescriptor> {
    v1::RegionDescriptor::read(told, LAYOUT, None).ok()
}

proptest! {
    #[test]
    fn slots_on_a_device_survive_the_wire(slots in memories(), bytes in any::<u64>()) {
        let region = RegionDescriptor::OnDevice { bytes, layout: LAYOUT, slots };
        let regions = v1::RegionDescriptor::of(&region);
        let sent = v1::OpenSessionResponse { regions, ..Default::default() };
        let came = v1::OpenSessionResponse::decode(sent.encode_to_vec().as_slice()).unwrap();
        prop_assert_eq!(complete(&came.regions), Some(region));
        // What is told twice, in part or in the wrong order is nothing.
        let [memfd, handle] = came.regions.as_slice() else { panic!("two") };
        for wrong in [
            vec![handle.clone()],
            vec![handle.clone(), memfd.clone()],
            vec![memfd.clone(), memfd.clone()],
            vec![memfd.clone(), handle.clone(), handle.clone()],
            vec![memfd.clone(), v1::RegionDescriptor { kind: None }],
        ] {
            prop_assert_eq!(complete(&wrong), None);
        }
    }

    #[test]
    fn every_length_is_checked(
        handle in 0_usize..130, device in 0_usize..40, offset in any::<u64>(), bytes in any::<u64>(),
    ) {
        let wire = v1::GpuHandle {
            cuda_ipc_handle: Bytes::from(vec![1; handle]),
            device_uuid: Bytes::from(vec![2; device]),
            offset,
            bytes,
        };
        let range = bytes > 0 && offset.checked_add(bytes).is_some();
        prop_assert_eq!(DeviceMemory::try_from(&wire).is_ok(), range && (handle, device) == (64, 16));
        let exact = v1::GpuHandle {
            cuda_ipc_handle: Bytes::from(vec![1; 64]),
            device_uuid: Bytes::from(vec![2; 16]),
            ..wire
        };
        prop_assert_eq!(DeviceMemory::try_from(&exact).is_ok(), range);
    }
}
