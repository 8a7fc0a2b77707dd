//! Tensors as JSON: from lists of elements, nested or not, to bytes.

use ferry_core::DType;
use serde_json::value::RawValue;

use super::body::Hold;
use super::refused::Refused;

/// Most lists within lists: as many as a tensor has dimensions.
const DEPTH_MAX: usize = 64;

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
    if matches!(dtype, DType::F16 | DType::Bf16) {
        return format!("{dtype} has no JSON: send it as bytes (binary_data_size)");
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
            // Nearest to what is written, and not infinite because it is too large.
            let number = element.parse().ok().filter(|it: &$of| it.is_finite())?;
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
        DType::F16 | DType::Bf16 => return None,
    }
    Some(())
}
