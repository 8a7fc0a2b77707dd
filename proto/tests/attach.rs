//! What two ends of a queue pair tell each other comes back as it went, and whatever else a peer
//! sends is refused or harmless.
#![forbid(unsafe_code)]

use ferry_core::endpoint::GIDS_MAX;
use ferry_core::{
    Attachment, Endpoint, Gid, LinkKind, MemoryKey, QueuePair, RegionDescriptor, Retry, SlotLayout,
};
use ferry_proto::v1;
use proptest::prelude::*;
use prost::Message;

const LAYOUT: SlotLayout = SlotLayout { slots: 2, request_bytes: 64, reply_bytes: 64 };

fn queue_pairs() -> impl Strategy<Value = QueuePair> {
    let number = 0_u32..1 << 24;
    let gids = proptest::collection::vec(any::<[u8; 16]>().prop_map(Gid), 1..=GIDS_MAX);
    let mtu = (8_u32..=12).prop_map(|power| 1 << power);
    let retry = (1_u8..=31, 0_u8..=7, 0_u8..=7, 0_u8..=31).prop_map(
        |(ack_timeout, count, rnr_count, min_rnr_timer)| Retry {
            ack_timeout,
            count,
            rnr_count,
            min_rnr_timer,
        },
    );
    let rest = (any::<u16>(), any::<u8>(), any::<u8>());
    (number.clone(), number, gids, mtu, retry, rest).prop_map(
        |(number, first_psn, gids, path_mtu_bytes, retry, (lid, rd_atomic_max, serves))| {
            QueuePair {
                number,
                first_psn,
                gids,
                lid,
                path_mtu_bytes,
                rd_atomic_max,
                dest_rd_atomic_max: serves,
                retry,
            }
        },
    )
}

fn keys() -> impl Strategy<Value = MemoryKey> {
    (any::<u64>(), any::<u32>(), 1_u64..)
        .prop_filter("ends within the address space", |(address, _, bytes)| {
            address.checked_add(*bytes).is_some()
        })
        .prop_map(|(address, remote_key, bytes)| MemoryKey { address, remote_key, bytes })
}

/// A good message with one field that may be anything: near the edges of what is allowed.
fn wire_pairs() -> impl Strategy<Value = v1::QueuePair> {
    let number = prop_oneof![
        0_u32..40,
        Just(256),
        1023_u32..1026,
        250_u32..260,
        65_530_u32..65_540,
        (1 << 24) - 2..=(1_u32 << 24) + 2,
        any::<u32>(),
    ];
    let gid = (14_usize..=18, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]);
    (queue_pairs(), 0..13, number, gid).prop_map(|(pair, field, number, gid)| {
        let mut wire = v1::QueuePair::from(&pair);
        match field {
            0 => wire.qp_number = number,
            1 => wire.packet_sequence_number = number,
            2 => wire.lid = number,
            3 => wire.path_mtu_bytes = number,
            4 => wire.rd_atomic_max = number,
            5 => wire.dest_rd_atomic_max = number,
            6 => wire.retry_count = number,
            7 => wire.rnr_retry_count = number,
            8 => wire.min_rnr_timer = number,
            9 => wire.ack_timeout = number,
            10 => wire.gids.push(gid.into()),
            11 => wire.gids.clear(),
            _ => wire.gids = vec![vec![1; 16].into(); GIDS_MAX + 1],
        }
        wire
    })
}

proptest! {
    #[test]
    fn an_attachment_survives_the_wire(
        queue_pair in queue_pairs(), key in keys(), server_gid in any::<[u8; 16]>(),
    ) {
        let attachment = Attachment { queue_pair, key, server_gid: Gid(server_gid) };
        let sent = v1::AttachSessionRequest::new(v1::SessionRef::default(), &attachment);
        let came = v1::AttachSessionRequest::decode(sent.encode_to_vec().as_slice()).unwrap();
        prop_assert_eq!(came.attachment().unwrap(), attachment);
    }

    #[test]
    fn the_servers_end_survives_the_wire_before_and_after_its_memory_is_open(
        queue_pair in queue_pairs(), key in keys(), of_payloads in keys(),
    ) {
        for (key, payloads) in [(None, None), (Some(key), None), (Some(key), Some(of_payloads))] {
            let region =
                RegionDescriptor::Remote { queue_pair: queue_pair.clone(), key, payloads };
            let endpoint = v1::Endpoint::of(&Endpoint::bare(LinkKind::Rdma), &region);
            let bytes = endpoint.encode_to_vec();
            let (endpoint, pair) = v1::Endpoint::decode(bytes.as_slice()).unwrap().parts().unwrap();
            prop_assert_eq!(endpoint, Endpoint::bare(LinkKind::Rdma));
            prop_assert_eq!(pair.as_ref(), Some(&queue_pair));
            let mut told = v1::RegionDescriptor::of(&region);
            if told.is_empty() {
                prop_assert_eq!(key, None, "nothing is told of memory that is not open");
                continue;
            }
            let read = |told: &[_], pair| v1::RegionDescriptor::read(told, LAYOUT, pair);
            prop_assert_eq!(read(&told, pair.as_ref()).unwrap(), region);
            prop_assert!(read(&told, None).is_err(), "a key to nobody");
            told.resize(3, told[0].clone());
            prop_assert!(read(&told, pair.as_ref()).is_err(), "three keys");
            let framed = v1::RegionDescriptor::of(&RegionDescriptor::Framed);
            prop_assert!(read(&[&told[..1], &framed].concat(), pair.as_ref()).is_err());
            prop_assert!(read(&[&framed, &told[..1]].concat(), pair.as_ref()).is_err());
        }
    }

    #[test]
    fn what_is_taken_keeps_every_bound_and_nothing_else_is(wire in wire_pairs()) {
        let sizes = [256, 512, 1024, 2048, 4096];
        let allowed = wire.qp_number < 1 << 24
            && wire.packet_sequence_number < 1 << 24
            && (1..=GIDS_MAX).contains(&wire.gids.len())
            && wire.gids.iter().all(|gid| gid.len() == 16)
            && wire.lid <= 0xffff
            && sizes.contains(&wire.path_mtu_bytes)
            && wire.rd_atomic_max.max(wire.dest_rd_atomic_max) <= 255
            && wire.retry_count.max(wire.rnr_retry_count) <= 7
            && wire.min_rnr_timer <= 31
            && (1..=31).contains(&wire.ack_timeout);
        match QueuePair::try_from(wire.clone()) {
            Ok(pair) => {
                prop_assert!(allowed, "{:?}", wire);
                prop_assert_eq!(v1::QueuePair::from(&pair), wire, "taken as it is");
            }
            Err(error) => prop_assert!(!allowed, "{}: {:?}", error, wire),
        }
    }

    #[test]
    fn keys_never_reach_beyond_the_address_space(
        address in any::<u64>(), remote_key in any::<u32>(), bytes in any::<u64>(),
    ) {
        let wire = v1::MemoryKey { address, remote_key, bytes };
        let fits = bytes > 0 && address.checked_add(bytes).is_some();
        prop_assert_eq!(MemoryKey::try_from(wire).is_ok(), fits);
    }

    #[test]
    fn bytes_of_a_stranger_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        if let Ok(request) = v1::AttachSessionRequest::decode(bytes.as_slice()) {
            drop(request.attachment());
        }
        if let Ok(response) = v1::AttachSessionResponse::decode(bytes.as_slice()) {
            if let Some(endpoint) = response.endpoint {
                drop(endpoint.parts());
            }
            drop(v1::RegionDescriptor::read(&response.regions, LAYOUT, None));
        }
    }
}
