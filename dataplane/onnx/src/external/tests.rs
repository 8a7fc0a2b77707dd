use super::*;

fn number(field: u64, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, field << 3 | VARINT);
    put_varint(&mut out, value);
    out
}

fn bytes(field: u64, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, field, payload.as_ref());
    out
}

/// A tensor of four bytes in `location`.
fn weight(location: &str, offset: u64) -> Vec<u8> {
    let entry = |key: &str, value: &str| bytes(13, [bytes(1, key), bytes(2, value)].concat());
    let offset = offset.to_string();
    let entries =
        [entry("location", location), entry("offset", &offset), entry("length", "4")].concat();
    [number(1, 1), bytes(8, "w"), entries, number(14, 1)].concat()
}

/// One weight in the main graph and one in a graph of an attribute; and a field that nobody knows.
fn model(main: &[u8], inner: &[u8]) -> Vec<u8> {
    let attribute = bytes(6, bytes(5, inner));
    let node = bytes(1, bytes(5, attribute));
    [bytes(7, [node, bytes(5, main)].concat()), bytes(777, "kept")].concat()
}

fn files() -> Files {
    [("d.bin".to_owned(), b"01234567".to_vec()), ("sub/e".to_owned(), b"abcd".to_vec())].into()
}

#[test]
fn files_are_found_at_every_depth() {
    let all = model(&weight("./d.bin", 0), &weight("sub/e", 0));
    assert_eq!(names(&all).unwrap(), ["d.bin", "sub/e"]);
    let inside = bytes(9, "1234");
    assert_eq!(names(&model(&inside, &inside)).unwrap(), [""; 0]);
}

#[test]
fn weights_come_from_memory_and_the_rest_stays() {
    let all = model(&weight("./d.bin", 2), &weight("sub/e", 0));
    let raw = |data: &str| [number(1, 1), bytes(8, "w"), bytes(9, data)].concat();
    let inside = resolved(&all, &files(), Weights::Inside).unwrap();
    assert_eq!(inside, model(&raw("2345"), &raw("abcd")));
    let beside = resolved(&all, &files(), Weights::Beside).unwrap();
    assert_eq!(beside, model(&weight("d.bin", 2), &raw("abcd")));
}

#[test]
fn what_is_not_there_is_named() {
    let refused = |main: &[u8]| {
        let all = model(main, &[]);
        let error = names(&all).and_then(|_| resolved(&all, &files(), Weights::Beside));
        error.unwrap_err()
    };
    for outside in ["../d.bin", "/etc/passwd", "", "sub/../../d.bin"] {
        let why = refused(&weight(outside, 0));
        assert!(why.contains("no file in the model's folder"), "{outside}: {why}");
    }
    let why = refused(&weight("d.bin", 6));
    assert!(why.contains("4 bytes at 6") && why.contains("which has 8"), "{why}");
    let why = refused(&weight("d.bin", u64::MAX));
    assert!(why.contains("which has 8"), "{why}");
    let why = refused(&weight("none", 0));
    assert!(why.contains("none"), "{why}");
}

#[test]
fn no_bytes_are_too_odd() {
    let whole = model(&weight("d.bin", 0), &weight("sub/e", 0));
    for at in 0..whole.len() {
        for flip in [1, 0x15, 0x80] {
            let mut changed = whole.clone();
            changed[at] ^= flip;
            // Nothing but an answer or an error.
            drop(names(&changed).and_then(|_| resolved(&changed, &files(), Weights::Inside)));
        }
        drop(names(&whole[..at]));
    }
    let mut deep = Vec::new();
    for _ in 0..100 {
        deep = bytes(1, bytes(5, bytes(6, deep)));
    }
    assert!(names(&bytes(7, deep)).unwrap_err().contains("deep"));
}
