//! Tensors as JSON: from lists of elements, nested or not, to bytes.

use ferry_core::DType;
use half::{bf16, f16};
use serde_json::value::RawValue;

use super::body::Hold;
use super::refused::Refused;

/// Most lists within lists: as many as a tensor has dimensions.
const DEPTH_MAX: usize = 64;

/// Numbers that JSON does not have, as texts: so are they in the JSON of protocol buffers.
const NAN: &str = "\"NaN\"";
const INFINITY: &str = "\"Infinity\"";
const NEGATIVE_INFINITY: &str = "\"-Infinity\"";

/// How they are written by those who do not care, Triton among them.
const BARE: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];

/// A request in which numbers that JSON does not have stand bare in lists, with quotation marks around
/// them; `None` if there are none.
///
/// # Errors
/// [`Refused`] if there is no room for it.
pub(super) fn quoted(text: &[u8], hold: &mut Hold) -> Result<Option<Vec<u8>>, Refused> {
    let mut count = 0;
    each_bare(text, |_, _| count += 1);
    if count == 0 {
        return Ok(None);
    }
    let bytes = text.len() + 2 * count;
    hold.more(bytes as u64)?;
    let (mut all, mut rest, mut copied) = (Vec::with_capacity(bytes), text, 0);
    each_bare(text, |at, word| {
        let (before, behind) = rest.split_at(at - copied);
        all.extend_from_slice(before);
        all.push(b'"');
        all.extend_from_slice(word);
        all.push(b'"');
        rest = behind.strip_prefix(word).unwrap_or(behind);
        copied = at + word.len();
    });
    all.extend_from_slice(rest);
    Ok(Some(all))
}

/// Finds them: outside of texts, where an element of a list begins.
fn each_bare(text: &[u8], mut found: impl FnMut(usize, &'static [u8])) {
    let (mut is_text, mut is_escaped, mut last) = (false, false, 0);
    for (at, &byte) in text.iter().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = is_text,
            b'"' => is_text = !is_text,
            b'N' | b'I' | b'-' if !is_text && matches!(last, b'[' | b',') => {
                if let Some(word) = BARE.into_iter().find(|word| text[at..].starts_with(word)) {
                    found(at, word);
                }
            }
            _ => {}
        }
        if !byte.is_ascii_whitespace() {
            last = byte;
        }
    }
}

/// The bytes of the input `name`, of `count` elements: row by row, however they are nested.
///
/// # Errors
/// [`Refused`] names the input, and the element that its type does not hold.
pub(super) fn bytes_of(
    name: &str,
    dtype: DType,
    count: u64,
    data: &RawValue,
    hold: &mut Hold,
) -> Result<Vec<u8>, Refused> {
    let bad = |why: String| Refused::bad(format!("inputs.data: {name:?}: {why}"));
    let text = data.get();
    // No element is shorter than its digit and the sign behind it.
    let most = (text.len() as u64).div_ceil(2);
    if count > most {
        return Err(bad(format!("it has fewer than the {count} elements that its shape says")));
    }
    let bytes = dtype.bytes_of(&[count]);
    hold.more(bytes)?;
    let mut into = Vec::with_capacity(usize::try_from(bytes).unwrap_or(usize::MAX));
    let mut found = 0;
    let (mut depth, mut rest) = (0_usize, text);
    while let Some(first) = rest.bytes().next() {
        match first {
            b'[' => depth += 1,
            b']' => depth = depth.saturating_sub(1),
            b',' | b' ' | b'\t' | b'\n' | b'\r' => {}
            _ => {
                let is_end = |it: char| matches!(it, ',' | ']' | ' ' | '\t' | '\n' | '\r');
                let (element, behind) = rest.split_at(rest.find(is_end).unwrap_or(rest.len()));
                found += 1;
                if found > count {
                    return Err(bad(format!(
                        "it has more than the {count} elements that its shape says"
                    )));
                }
                if depth == 0 || push(dtype, element, &mut into).is_none() {
                    return Err(bad(not_held(dtype, element, depth)));
                }
                rest = behind;
                continue;
            }
        }
        if depth > DEPTH_MAX {
            return Err(bad(format!("lists within more than {DEPTH_MAX} lists")));
        }
        rest = &rest[1..];
    }
    if found < count {
        return Err(bad(format!("it has {found} elements; its shape says {count}")));
    }
    Ok(into)
}

fn not_held(dtype: DType, element: &str, depth: usize) -> String {
    if depth == 0 {
        return "its data is no list".to_owned();
    }
    let shown: String = element.chars().take(40).collect();
    format!("{shown} is nothing that {dtype} holds")
}

/// Appends the bytes of one element; `None` if the type does not hold it.
fn push(dtype: DType, element: &str, into: &mut Vec<u8>) -> Option<()> {
    macro_rules! number {
        ($of:ty) => {{
            let number: $of = element.parse().ok()?;
            into.extend_from_slice(&number.to_le_bytes());
        }};
    }
    macro_rules! float {
        ($of:ty) => {{
            let number = match element {
                NAN => <$of>::NAN,
                INFINITY => <$of>::INFINITY,
                NEGATIVE_INFINITY => <$of>::NEG_INFINITY,
                // Nearest to what is written, and not infinite because it is too large.
                _ => element.parse().ok().filter(|it: &$of| it.is_finite())?,
            };
            into.extend_from_slice(&number.to_le_bytes());
        }};
    }
    match dtype {
        DType::Bool => into.push(u8::from(element.parse::<bool>().ok()?)),
        DType::I8 => number!(i8),
        DType::I16 => number!(i16),
        DType::I32 => number!(i32),
        DType::I64 => number!(i64),
        DType::U8 => number!(u8),
        DType::U16 => number!(u16),
        DType::U32 => number!(u32),
        DType::U64 => number!(u64),
        DType::F32 => float!(f32),
        DType::F64 => float!(f64),
        DType::F16 => float!(f16),
        DType::Bf16 => float!(bf16),
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_the_nearest_and_never_infinite_by_being_too_large() {
        let bytes = |dtype, element: &str| {
            let mut bytes = Vec::new();
            push(dtype, element, &mut bytes).map(|()| bytes)
        };
        let half = |number: f32| Some(f16::from_f32(number).to_le_bytes().to_vec());
        let brain = |number: f32| Some(bf16::from_f32(number).to_le_bytes().to_vec());
        for (dtype, element, expected) in [
            (DType::F16, "-1.5", half(-1.5)),
            (DType::F16, "0.1", half(0.1)),
            (DType::F16, "65504", half(65504.0)),
            (DType::F16, "65520", None),
            (DType::F16, "6e-8", half(6e-8)),
            (DType::F16, NAN, half(f32::NAN)),
            (DType::F16, NEGATIVE_INFINITY, half(f32::NEG_INFINITY)),
            (DType::Bf16, "2.5", brain(2.5)),
            (DType::Bf16, "1e39", None),
            (DType::Bf16, INFINITY, brain(f32::INFINITY)),
            (DType::F32, "1e39", None),
            (DType::F32, NAN, Some(f32::NAN.to_le_bytes().to_vec())),
            (DType::F64, INFINITY, Some(f64::INFINITY.to_le_bytes().to_vec())),
            (DType::F64, "\"1\"", None),
            (DType::F64, "\"nan\"", None),
            (DType::I32, NAN, None),
            (DType::Bool, NAN, None),
        ] {
            assert_eq!(bytes(dtype, element), expected, "{dtype} {element}");
        }
    }

    #[test]
    fn words_for_numbers_are_found_in_lists_and_not_in_texts() {
        let found = |text: &str| {
            let mut all = Vec::new();
            each_bare(text.as_bytes(), |at, word| all.push((at, word.len())));
            all
        };
        assert_eq!(found("[NaN,1, Infinity ,\n-Infinity]"), [(1, 3), (8, 8), (19, 9)]);
        assert_eq!(found(r#"["NaN","[NaN","\"[NaN",1]"#), []);
        assert_eq!(found(r#"["\\",NaN]"#), [(6, 3)]);
        assert_eq!(found(r#"{"id":NaN,"x":-Infinity}"#), []);
        assert_eq!(found("[-1,-I,N,[-Infinity]"), [(10, 9)]);
    }
}
