//! The largest elements of an output, as texts.

use bytes::Bytes;
use ferry_core::DType;

use crate::error::ApiError;
use crate::serving::inline::InlineTensor;

/// The type of such an output.
pub(super) const DATATYPE: &str = "BYTES";

/// Most elements of an output that classes are made of: each takes 48 bytes meanwhile.
const ELEMENTS_MAX: usize = 1 << 20;

/// Most texts of an output.
const TEXTS_MAX: usize = 1 << 16;

/// Texts `VALUE:INDEX:LABEL`, or `VALUE:INDEX` where there is no label.
#[derive(Debug)]
pub(super) struct Classes {
    pub(super) shape: Vec<u64>,
    /// Each text behind its length in four bytes, the lowest first.
    pub(super) contents: Bytes,
}

/// How many elements are looked at until the call may end: its caller may have gone meanwhile, and
/// other calls wait for the thread.
const AT_A_TIME: usize = 1 << 14;

/// The `count` largest elements of an output, or all if it has fewer, of each item if it
/// `has_batch`. Elements that are no numbers come last.
///
/// # Errors
/// [`ApiError::Field`] for an output of truth values, and for more elements or texts than are made.
pub(super) async fn of(
    output: &InlineTensor,
    has_batch: bool,
    labels: &[String],
    count: u64,
) -> Result<Classes, ApiError> {
    let refused = |why: String| ApiError::field("classification", why);
    let elements = output.contents.len() as u64 / output.dtype.bytes();
    if elements > ELEMENTS_MAX as u64 {
        let why = format!("{:?} has {elements} elements; at most {ELEMENTS_MAX}", output.name);
        return Err(refused(why));
    }
    if output.dtype == DType::Bool {
        let why = format!("{:?} is {}, which has no largest", output.name, output.dtype);
        return Err(refused(why));
    }
    let items = if has_batch { output.shape.first().copied().unwrap_or(1) } else { 1 };
    let items_at_least_one = usize::try_from(items).unwrap_or(usize::MAX).max(1);
    let of_item = usize::try_from(elements).unwrap_or(usize::MAX) / items_at_least_one;
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(of_item);
    let texts = count.saturating_mul(items_at_least_one);
    if texts > TEXTS_MAX {
        return Err(refused(format!("{texts} texts; at most {TEXTS_MAX} of an output")));
    }
    let element_bytes = usize::try_from(output.dtype.bytes()).unwrap_or(1);
    let (mut contents, mut pace) = (Vec::new(), Pace::default());
    for item in output.contents.chunks_exact(of_item.max(1) * element_bytes) {
        for (index, value) in largest(output.dtype, item, count, &mut pace).await {
            let label = labels.get(index).map(|label| format!(":{label}")).unwrap_or_default();
            let text = format!("{value}:{index}{label}");
            let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
            contents.extend_from_slice(&length.to_le_bytes());
            contents.extend_from_slice(text.as_bytes());
        }
        pace.did(count).await;
    }
    let count = count as u64;
    let shape = if has_batch { vec![items, count] } else { vec![count] };
    Ok(Classes { shape, contents: contents.into() })
}

/// Lets others run after so much work.
#[derive(Debug, Default)]
struct Pace(usize);

impl Pace {
    async fn did(&mut self, elements: usize) {
        self.0 += elements;
        if self.0 >= AT_A_TIME {
            self.0 = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// An element: what it is compared by, and how it is written.
#[derive(Clone, Copy, Debug)]
enum Value {
    Float(f64),
    Integer(i128),
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            // As many digits as clients of the protocol are used to.
            Value::Float(number) => write!(f, "{number:.6}"),
            Value::Integer(number) => write!(f, "{number}"),
        }
    }
}

impl Value {
    /// The larger one first.
    fn before(&self, other: &Value) -> std::cmp::Ordering {
        match (self, other) {
            (Value::Integer(a), Value::Integer(b)) => b.cmp(a),
            (Value::Float(a), Value::Float(b)) => a.is_nan().cmp(&b.is_nan()).then(b.total_cmp(a)),
            // Elements of one tensor are of one kind.
            _ => std::cmp::Ordering::Equal,
        }
    }
}

/// Of equal ones the first comes first.
fn order(a: &(usize, Value), b: &(usize, Value)) -> std::cmp::Ordering {
    a.1.before(&b.1).then(a.0.cmp(&b.0))
}

async fn largest(dtype: DType, item: &[u8], count: usize, pace: &mut Pace) -> Vec<(usize, Value)> {
    let element_bytes = usize::try_from(dtype.bytes()).unwrap_or(1);
    let at_a_time = AT_A_TIME.max(count);
    let mut best: Vec<(usize, Value)> = Vec::new();
    for (part, bytes) in item.chunks(at_a_time * element_bytes).enumerate() {
        let values = values(dtype, bytes);
        let looked_at = values.len();
        best.extend((part * at_a_time..).zip(values));
        if count > 0 && count < best.len() {
            best.select_nth_unstable_by(count - 1, order);
        }
        best.truncate(count);
        pace.did(looked_at).await;
    }
    best.sort_unstable_by(order);
    best
}

/// The elements; none of truth values, which have no largest.
fn values(dtype: DType, bytes: &[u8]) -> Vec<Value> {
    let float = |value: f32| Value::Float(value.into());
    match dtype {
        DType::Bool => Vec::new(),
        DType::I8 => each(bytes, |it| Value::Integer(i8::from_ne_bytes(it).into())),
        DType::I16 => each(bytes, |it| Value::Integer(i16::from_ne_bytes(it).into())),
        DType::I32 => each(bytes, |it| Value::Integer(i32::from_ne_bytes(it).into())),
        DType::I64 => each(bytes, |it| Value::Integer(i64::from_ne_bytes(it).into())),
        DType::U8 => each(bytes, |it| Value::Integer(u8::from_ne_bytes(it).into())),
        DType::U16 => each(bytes, |it| Value::Integer(u16::from_ne_bytes(it).into())),
        DType::U32 => each(bytes, |it| Value::Integer(u32::from_ne_bytes(it).into())),
        DType::U64 => each(bytes, |it| Value::Integer(u64::from_ne_bytes(it).into())),
        DType::F16 => each(bytes, |it| float(half::f16::from_ne_bytes(it).to_f32())),
        DType::Bf16 => each(bytes, |it| float(half::bf16::from_ne_bytes(it).to_f32())),
        DType::F32 => each(bytes, |it| float(f32::from_ne_bytes(it))),
        DType::F64 => each(bytes, |it| Value::Float(f64::from_ne_bytes(it))),
    }
}

fn each<const N: usize>(bytes: &[u8], one: impl Fn([u8; N]) -> Value) -> Vec<Value> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| one(*chunk)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(dtype: DType, shape: &[u64], contents: Vec<u8>) -> InlineTensor {
        let (name, shape, contents) = ("y".to_owned(), shape.to_vec(), contents.into());
        InlineTensor { name, dtype, shape, contents }
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|it| it.to_ne_bytes()).collect()
    }

    fn texts(classes: &Classes) -> Vec<String> {
        let (mut rest, mut texts) = (&classes.contents[..], Vec::new());
        while let Some((length, behind)) = rest.split_first_chunk::<4>() {
            let (text, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
            texts.push(String::from_utf8(text.to_vec()).unwrap());
            rest = behind;
        }
        texts
    }

    #[tokio::test]
    async fn the_largest_come_first_with_their_labels() {
        let labels = ["cat", "dog", "owl"].map(str::to_owned);
        let output = output(DType::F32, &[4], floats(&[0.25, f32::NAN, 0.5, 0.5]));
        let classes = of(&output, false, &labels, 3).await.unwrap();
        assert_eq!(texts(&classes), ["0.500000:2:owl", "0.500000:3", "0.250000:0:cat"]);
        assert_eq!(classes.shape, [3]);
        assert_eq!(texts(&of(&output, false, &[], u64::MAX).await.unwrap())[3], "NaN:1");
    }

    #[tokio::test]
    async fn what_no_client_reads_is_not_written() {
        let large = |elements: usize| output(DType::I8, &[elements as u64], vec![1; elements]);
        let told = async |elements, count| {
            of(&large(elements), false, &[], count).await.unwrap_err().to_string()
        };
        assert!(told(ELEMENTS_MAX + 1, 1).await.contains("elements"));
        assert!(told(TEXTS_MAX + 1, u64::MAX).await.contains("texts"));
        assert_eq!(of(&large(ELEMENTS_MAX), false, &[], 1).await.unwrap().shape, [1]);
    }

    #[tokio::test]
    async fn each_item_of_a_batch_has_its_own() {
        let output = output(DType::I8, &[2, 3], vec![1, 3, 2, 0xff, 0xfe, 0xfd]);
        let classes = of(&output, true, &[], 2).await.unwrap();
        assert_eq!(texts(&classes), ["3:1", "2:2", "-1:0", "-2:1"]);
        assert_eq!(classes.shape, [2, 2]);
    }

    #[tokio::test]
    async fn halves_are_numbers_and_truth_has_no_largest() {
        let halves = [half::f16::from_f32(-1.5), half::f16::from_f32(2.0)];
        let bytes = halves.iter().flat_map(|it| it.to_ne_bytes()).collect();
        let classes = of(&output(DType::F16, &[2], bytes), false, &[], 1).await.unwrap();
        assert_eq!(texts(&classes), ["2.000000:1"]);
        let told = of(&output(DType::Bool, &[1], vec![1]), false, &[], 1).await.unwrap_err();
        assert!(told.to_string().contains("BOOL"), "{told}");
    }

    #[tokio::test]
    async fn tensors_without_elements_have_no_classes() {
        for (shape, has_batch) in [(&[0, 3][..], true), (&[2, 0], true), (&[0], false)] {
            let classes =
                of(&output(DType::F32, shape, Vec::new()), has_batch, &[], 5).await.unwrap();
            assert!(classes.contents.is_empty(), "{shape:?}");
        }
    }

    #[tokio::test]
    async fn an_output_of_several_pieces_has_the_same_classes_as_one() {
        let mut values = vec![0.5; 5 * AT_A_TIME + 7];
        for (at, value) in [(3, 2.0), (AT_A_TIME, 3.0), (5 * AT_A_TIME + 6, 4.0), (7, 3.0)] {
            values[at] = value;
        }
        let output = output(DType::F32, &[values.len() as u64], floats(&values));
        let told = texts(&of(&output, false, &[], 5).await.unwrap());
        let last = format!("4.000000:{}", 5 * AT_A_TIME + 6);
        let middle = format!("3.000000:{AT_A_TIME}");
        assert_eq!(told, [&last, "3.000000:7", &middle, "2.000000:3", "0.500000:0"]);
        let many = texts(&of(&output, false, &[], 2 * AT_A_TIME as u64).await.unwrap());
        assert_eq!((many.len(), &many[..5]), (2 * AT_A_TIME, &told[..]));
    }

    #[tokio::test]
    async fn whoever_is_gone_ends_the_work_on_its_classes() {
        let output = output(DType::I8, &[ELEMENTS_MAX as u64], vec![1; ELEMENTS_MAX]);
        let mut work = std::pin::pin!(of(&output, false, &[], 1));
        // Each piece is an end of its own: the call can be dropped there.
        for _ in 0..ELEMENTS_MAX / AT_A_TIME {
            assert!(futures_util::poll!(work.as_mut()).is_pending());
        }
        assert!(work.await.is_ok());
    }
}
