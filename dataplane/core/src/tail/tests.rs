use proptest::prelude::*;

use super::*;
use crate::stage::DURATION_MAX_NS;

fn hop() -> impl Strategy<Value = Hop> {
    let ns = || prop::option::of(0..=DURATION_MAX_NS);
    (any::<u64>(), ns(), ns(), ns()).prop_map(|(relay, out_ns, away_ns, back_ns)| Hop {
        relay,
        out_ns,
        away_ns,
        back_ns,
    })
}

fn tail() -> impl Strategy<Value = Tail> {
    let shape = prop::collection::vec(any::<u64>(), 0..5);
    let shapes = prop::option::of(prop::collection::vec(shape, 0..8));
    let hops = prop::collection::vec(hop(), 0..=HOPS_MAX);
    (shapes, hops, prop::option::of(batch())).prop_map(|(shapes, hops, batch)| Tail {
        outputs: shapes.map(|shapes| Box::new(OutputShapes::of(shapes).expect("they fit"))),
        hops: Hops(hops),
        batch: batch.map(Box::new),
    })
}

fn batch() -> impl Strategy<Value = InBatch> {
    let ns = prop::option::of(0..=DURATION_MAX_NS);
    (1_u32.., 0..=DURATION_MAX_NS, ns, any::<bool>()).prop_map(|(rows, gather, scatter_ns, ran)| {
        let rows = NonZeroU32::new(rows).filter(|_| ran);
        InBatch { rows, gather_ns: Some(gather), scatter_ns }
    })
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_itself(tail in tail()) {
        let bytes = tail.encode();
        prop_assert!(bytes.len() <= TAIL_BYTES_MAX);
        prop_assert_eq!(Tail::decode(&bytes), Ok(tail));
    }

    #[test]
    fn any_bytes_are_a_tail_or_an_error(
        words in prop::collection::vec(prop_oneof![any::<u64>(), 0_u64..0x0030_0003], 0..40)
    ) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        if let Ok(tail) = Tail::decode(&bytes) {
            prop_assert!(tail.encode().len() <= bytes.len(), "what is unknown is skipped");
        }
    }

    #[test]
    fn records_of_later_versions_are_skipped(
        tail in tail(), kind in 5_u16.., body in prop::collection::vec(any::<u8>(), 0..40)
    ) {
        let mut bytes = tail.encode();
        prop_assume!(bytes.len() + record_bytes(body.len()) <= TAIL_BYTES_MAX);
        put_record(&mut bytes, kind, |out| out.extend_from_slice(&body));
        prop_assert_eq!(Tail::decode(&bytes), Ok(tail));
    }
}

#[test]
fn nothing_to_say_is_nothing() {
    assert_eq!(Tail::NONE.encode(), Vec::<u8>::new());
    assert_eq!(Tail::decode(&[]), Ok(Tail::NONE));
    assert_eq!(Tail::with_outputs(None), Tail::NONE);
}

#[test]
fn the_largest_tail_fits() {
    let mut outputs = OutputShapes::default();
    while outputs.push(&[]).is_ok() {}
    let hop = Hop { relay: u64::MAX, out_ns: Some(0), away_ns: None, back_ns: Some(7) };
    let mut hops = Hops::default();
    for _ in 0..HOPS_MAX {
        hops.push(hop).unwrap();
    }
    assert_eq!(hops.push(hop), Err(TailError::Hops));
    let rows = NonZeroU32::new(u32::MAX);
    let batch = InBatch { rows, gather_ns: None, scatter_ns: Some(DURATION_MAX_NS) };
    let batch = Some(Box::new(batch));
    let tail = Tail { outputs: Some(Box::new(outputs)), hops, batch };
    let bytes = tail.encode();
    assert_eq!(bytes.len(), TAIL_BYTES_MAX - 16);
    assert_eq!(Tail::decode(&bytes), Ok(tail));
}

#[test]
fn each_wrong_record_is_named() {
    let decode = |bytes: &[u8]| Tail::decode(bytes).expect_err("wrong");
    assert_eq!(decode(&[0; 4]), TailError::Length(4));
    assert_eq!(decode(&vec![0; TAIL_BYTES_MAX + 8]), TailError::Length(TAIL_BYTES_MAX + 8));
    let record = |kind, what| TailError::Record { kind, what };
    assert_eq!(decode(&[0; 8]), record(0, "types must rise"));
    assert_eq!(decode(&[9, 0, 5, 0, 0, 0, 0, 0]), record(9, "is cut off"));
    assert_eq!(decode(&[9, 0, 0xff, 0xff, 0, 0, 0, 0]), record(9, "is cut off"));
    assert_eq!(decode(&[9, 0, 1, 0, 7, 0, 1, 0]), record(9, "its padding is not zero"));
    let twice = [[3, 0, 0, 0, 0, 0, 0, 0]; 2].concat();
    assert_eq!(decode(&twice), record(3, "types must rise"));
    assert_eq!(decode(&[2, 0, 0, 0, 0, 0, 0, 0]), record(2, "is no whole number of hops"));
    let mut many = Vec::new();
    put_record(&mut many, TYPE_HOPS, |out| out.resize(out.len() + 9 * HOP_BYTES, 0));
    assert_eq!(decode(&many), record(2, "has more hops than a request may pass"));
    let endless = [1, 0, 2, 0, 1, 0x80, 0, 0];
    assert!(matches!(decode(&endless), TailError::Shapes(ShapesError::Malformed(_))));
}

#[test]
fn the_layout_is_what_the_document_says() {
    let mut hops = Hops::default();
    hops.push(Hop { relay: 0x0102, out_ns: Some(0x0304), away_ns: None, back_ns: Some(5) })
        .unwrap();
    let outputs = OutputShapes::of([[1, 200]]).unwrap();
    let bytes = Tail { outputs: Some(Box::new(outputs)), hops, batch: None }.encode();
    assert_eq!(&bytes[..8], &[1, 0, 4, 0, 2, 1, 0xc8, 1]);
    assert_eq!(&bytes[8..12], &[2, 0, 26, 0]);
    assert_eq!(&bytes[12..20], &[2, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&bytes[20..26], &[4, 3, 0, 0, 0, 0]);
    assert_eq!(&bytes[26..32], &[0xff; 6]);
    assert_eq!(&bytes[32..38], &[5, 0, 0, 0, 0, 0]);
    assert_eq!(&bytes[38..], &[0, 0]);
}
