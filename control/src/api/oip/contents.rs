//! Tensors as lists of numbers, which the protocol allows in place of bytes.

use bytes::Bytes;
use ferry_core::DType;
use ferry_proto::oip::InferTensorContents;

use crate::error::ApiError;

/// The bytes of a tensor that is given as a list.
///
/// # Errors
/// [`ApiError::Field`] names the list that fits the type, if another one is filled, and a number
/// that the type does not hold.
pub(super) fn bytes_of(
    name: &str,
    dtype: DType,
    contents: InferTensorContents,
) -> Result<Bytes, ApiError> {
    let fitting = fitting(dtype).ok_or_else(|| {
        let why =
            format!("{name:?} is {dtype}, for which there is no list: use raw_input_contents");
        ApiError::field("inputs.contents", why)
    })?;
    if let Some(other) = filled(&contents).find(|&list| list != fitting) {
        let why = format!("{name:?} is {dtype}: fill {fitting}, and not {other}");
        return Err(ApiError::field("inputs.contents", why));
    }
    let InferTensorContents { int_contents: ints, uint_contents: uints, .. } = &contents;
    let bytes = match dtype {
        DType::Bool => Some(contents.bool_contents.iter().map(|&it| u8::from(it)).collect()),
        DType::I8 => narrow(ints, |it| i8::try_from(it).ok().map(i8::to_le_bytes)),
        DType::I16 => narrow(ints, |it| i16::try_from(it).ok().map(i16::to_le_bytes)),
        DType::I32 => narrow(ints, |it| Some(it.to_le_bytes())),
        DType::U8 => narrow(uints, |it| u8::try_from(it).ok().map(u8::to_le_bytes)),
        DType::U16 => narrow(uints, |it| u16::try_from(it).ok().map(u16::to_le_bytes)),
        DType::U32 => narrow(uints, |it| Some(it.to_le_bytes())),
        DType::I64 => narrow(&contents.int64_contents, |it| Some(it.to_le_bytes())),
        DType::U64 => narrow(&contents.uint64_contents, |it| Some(it.to_le_bytes())),
        DType::F32 => narrow(&contents.fp32_contents, |it| Some(it.to_le_bytes())),
        DType::F64 => narrow(&contents.fp64_contents, |it| Some(it.to_le_bytes())),
        DType::F16 | DType::Bf16 => None,
    };
    let why = || format!("{name:?} has a number in {fitting} that {dtype} does not hold");
    bytes.map(Bytes::from).ok_or_else(|| ApiError::field("inputs.contents", why()))
}

/// The bytes of each number; `None` if one does not fit.
fn narrow<T: Copy, const N: usize>(
    numbers: &[T],
    one: impl Fn(T) -> Option<[u8; N]>,
) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(numbers.len().saturating_mul(N));
    for &number in numbers {
        bytes.extend_from_slice(&one(number)?);
    }
    Some(bytes)
}

/// The list for a type.
fn fitting(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::Bool => "bool_contents",
        DType::I8 | DType::I16 | DType::I32 => "int_contents",
        DType::I64 => "int64_contents",
        DType::U8 | DType::U16 | DType::U32 => "uint_contents",
        DType::U64 => "uint64_contents",
        DType::F32 => "fp32_contents",
        DType::F64 => "fp64_contents",
        DType::F16 | DType::Bf16 => return None,
    })
}

/// The lists that have something in them.
fn filled(contents: &InferTensorContents) -> impl Iterator<Item = &'static str> {
    let lists = [
        ("bool_contents", contents.bool_contents.is_empty()),
        ("int_contents", contents.int_contents.is_empty()),
        ("int64_contents", contents.int64_contents.is_empty()),
        ("uint_contents", contents.uint_contents.is_empty()),
        ("uint64_contents", contents.uint64_contents.is_empty()),
        ("fp32_contents", contents.fp32_contents.is_empty()),
        ("fp64_contents", contents.fp64_contents.is_empty()),
        ("bytes_contents", contents.bytes_contents.is_empty()),
    ];
    lists.into_iter().filter(|(_, is_empty)| !is_empty).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(dtype: DType, contents: InferTensorContents) -> Result<Bytes, String> {
        bytes_of("x", dtype, contents).map_err(|error| error.to_string())
    }

    #[test]
    fn each_type_has_its_list_and_its_width() {
        let contents = |dtype| {
            let mut contents = InferTensorContents::default();
            match dtype {
                DType::Bool => contents.bool_contents = vec![true, false],
                DType::I8 | DType::I16 | DType::I32 => contents.int_contents = vec![1, -2],
                DType::U8 | DType::U16 | DType::U32 => contents.uint_contents = vec![1, 2],
                DType::I64 => contents.int64_contents = vec![1, -2],
                DType::U64 => contents.uint64_contents = vec![1, 2],
                DType::F32 => contents.fp32_contents = vec![1.5, -2.0],
                DType::F64 => contents.fp64_contents = vec![1.5, -2.0],
                DType::F16 | DType::Bf16 => {}
            }
            contents
        };
        for dtype in DType::ALL {
            let made = bytes(dtype, contents(dtype));
            match dtype {
                DType::F16 | DType::Bf16 => assert!(made.unwrap_err().contains("raw_input")),
                _ => assert_eq!(made.unwrap().len() as u64, 2 * dtype.bytes(), "{dtype}"),
            }
        }
        assert_eq!(bytes(DType::I16, contents(DType::I16)).unwrap()[..], [1, 0, 0xfe, 0xff]);
        assert_eq!(bytes(DType::F32, contents(DType::F32)).unwrap()[..4], 1.5_f32.to_le_bytes());
        assert_eq!(bytes(DType::Bool, contents(DType::Bool)).unwrap()[..], [1, 0]);
    }

    #[test]
    fn other_lists_and_numbers_that_do_not_fit_are_named() {
        let ints = || InferTensorContents { int_contents: vec![300], ..Default::default() };
        let told = bytes(DType::I8, ints()).unwrap_err();
        assert!(told.contains("\"x\"") && told.contains("INT8"), "{told}");
        assert!(bytes(DType::I16, ints()).is_ok());
        let told = bytes(DType::F32, ints()).unwrap_err();
        assert!(told.contains("fill fp32_contents, and not int_contents"), "{told}");
        let negative = InferTensorContents { int_contents: vec![-129], ..Default::default() };
        assert!(bytes(DType::I8, negative).is_err());
    }
}
