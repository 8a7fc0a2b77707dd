//! The answer to an inference: JSON, and outputs as bytes behind it.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, header};
use bytes::Bytes;
use ferry_core::DType;
use ferry_proto::channel::MESSAGE_BYTES_MAX;
use ferry_proto::oip::infer_parameter::ParameterChoice;
use ferry_proto::oip::model_infer_response::InferOutputTensor;
use ferry_proto::oip::{InferParameter, ModelInferResponse};
use half::{bf16, f16};
use http_body::{Frame, SizeHint};
use serde::Serialize;

use super::Http;
use super::body::Hold;
use super::call::Answer;
use super::coding::{self, Coding};
use super::infer::BINARY_BYTES;
use super::refused::Refused;
use super::router::HEAD_BYTES;
use super::work::SHORT;
use crate::api::front::Caller;
use crate::api::oip::parameters::REGION;
use crate::error::ApiError;

/// Which outputs are written as bytes.
#[derive(Debug)]
pub(super) struct Form {
    /// Those that are not named below.
    pub(super) all: Option<bool>,
    pub(super) of: Vec<(String, bool)>,
}

impl Form {
    fn is_binary(&self, output: &str) -> bool {
        let named = self.of.iter().find(|(name, _)| name == output).map(|(_, is)| *is);
        named.or(self.all).unwrap_or(false)
    }
}

#[derive(Debug, Serialize)]
struct Told {
    model_name: String,
    model_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    id: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    parameters: BTreeMap<String, Value>,
    /// Written behind the others, with their elements.
    #[serde(skip)]
    outputs: Vec<Output>,
}

#[derive(Debug, Serialize)]
struct Output {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    parameters: BTreeMap<String, Value>,
    /// Written behind the others: it may have numbers that JSON does not have.
    #[serde(skip)]
    data: Option<Data>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Value {
    Flag(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
}

impl Value {
    fn of(choice: ParameterChoice) -> Value {
        match choice {
            ParameterChoice::BoolParam(flag) => Value::Flag(flag),
            ParameterChoice::Int64Param(number) => Value::Signed(number),
            ParameterChoice::Uint64Param(number) => Value::Unsigned(number),
            ParameterChoice::DoubleParam(number) => Value::Float(number),
            ParameterChoice::StringParam(text) => Value::Text(text),
        }
    }

    fn all(parameters: HashMap<String, InferParameter>) -> BTreeMap<String, Value> {
        let all = parameters.into_iter();
        all.filter_map(|(name, it)| Some((name, Value::of(it.parameter_choice?)))).collect()
    }
}

/// Elements of an output, in a flat list.
#[derive(Debug)]
struct Data {
    /// `None`: texts.
    dtype: Option<DType>,
    bytes: Bytes,
}

impl Data {
    fn write<W: Write>(&self, to: &mut W) -> io::Result<()> {
        macro_rules! numbers {
            ($of:ty, $one:expr) => {{
                let (all, _) = self.bytes.as_chunks::<{ size_of::<$of>() }>();
                list(to, all.iter().map(|bytes| <$of>::from_le_bytes(*bytes)), $one)
            }};
        }
        match self.dtype {
            None => list(to, texts(&self.bytes), plain),
            Some(DType::Bool) => list(to, self.bytes.iter().map(|&byte| byte != 0), plain),
            Some(DType::I8) => numbers!(i8, plain),
            Some(DType::I16) => numbers!(i16, plain),
            Some(DType::I32) => numbers!(i32, plain),
            Some(DType::I64) => numbers!(i64, plain),
            Some(DType::U8) => numbers!(u8, plain),
            Some(DType::U16) => numbers!(u16, plain),
            Some(DType::U32) => numbers!(u32, plain),
            Some(DType::U64) => numbers!(u64, plain),
            Some(DType::F32) => numbers!(f32, float),
            Some(DType::F64) => numbers!(f64, float),
            Some(DType::F16) => numbers!(f16, |to, it| float(to, f32::from(it))),
            Some(DType::Bf16) => numbers!(bf16, |to, it| float(to, f32::from(it))),
        }
    }
}

fn list<W: Write, T>(
    to: &mut W,
    all: impl Iterator<Item = T>,
    one: impl Fn(&mut W, T) -> io::Result<()>,
) -> io::Result<()> {
    to.write_all(b"[")?;
    for (at, element) in all.enumerate() {
        if at > 0 {
            to.write_all(b",")?;
        }
        one(to, element)?;
    }
    to.write_all(b"]")
}

fn plain<W: Write, T: Serialize>(to: &mut W, element: T) -> io::Result<()> {
    Ok(serde_json::to_writer(to, &element)?)
}

/// A number, or the word for what JSON has no number for: clients of the protocol, written for
/// Triton, read it.
fn float<W: Write, T: Serialize + Into<f64> + Copy>(to: &mut W, number: T) -> io::Result<()> {
    match number.into() {
        it if it.is_finite() => plain(to, number),
        it if it.is_nan() => to.write_all(b"NaN"),
        it if it > 0.0 => to.write_all(b"Infinity"),
        _ => to.write_all(b"-Infinity"),
    }
}

/// Texts, each behind its length in four bytes, the lowest first.
fn texts(mut bytes: &[u8]) -> impl Iterator<Item = Cow<'_, str>> {
    std::iter::from_fn(move || {
        let (length, behind) = bytes.split_first_chunk()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (text, behind) = behind.split_at_checked(length)?;
        bytes = behind;
        Some(String::from_utf8_lossy(text))
    })
}

/// Writes an answer.
///
/// # Errors
/// [`Refused`] if it is too long, or there is no room for it.
pub(super) async fn answer(
    http: &Http,
    caller: &Arc<Caller>,
    made: ModelInferResponse,
    form: &Form,
    headers: &HeaderMap,
) -> Answer {
    let (told, mut parts) = divide(made, form);
    let coding = Coding::of_answer(headers);
    let in_json = told.outputs.iter().filter_map(|it| it.data.as_ref()).map(|it| it.bytes.len());
    let is_long = in_json.sum::<usize>() > SHORT;
    let has_binary = !parts.is_empty();
    let mut hold = Hold::new(&http.limits, caller);
    let written = http.work.run_if(is_long, move || {
        let text = write(&told, &mut hold)?;
        Ok::<_, Refused>((text, hold))
    });
    let (text, hold) = written.await??;
    let head_bytes = text.len();
    let text = kept(text, hold);
    parts.insert(0, text);
    if coding != Coding::Identity {
        let mut hold = Hold::new(&http.limits, caller);
        let packed = http.work.run(move || {
            let packed = coding::deflate(&parts, coding, &mut hold)?;
            Ok::<_, Refused>(kept(packed, hold))
        });
        parts = vec![packed.await??];
    }
    let mut response = Response::new(Body::new(Parts(parts.into())));
    let headers = response.headers_mut();
    let kind = if has_binary { "application/octet-stream" } else { "application/json" };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if has_binary {
        headers.insert(HEAD_BYTES, head_bytes.into());
    }
    if coding != Coding::Identity {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    }
    Ok(response)
}

/// What is told in JSON, and the outputs that follow as bytes.
fn divide(made: ModelInferResponse, form: &Form) -> (Told, Vec<Bytes>) {
    let ModelInferResponse { model_name, model_version, id, parameters, .. } = made;
    let mut behind = Vec::new();
    let all = made.outputs.into_iter().zip(made.raw_output_contents);
    let one = |(output, bytes): (InferOutputTensor, Bytes)| {
        let InferOutputTensor { name, datatype, shape, parameters, .. } = output;
        let is_in_region = parameters.contains_key(REGION);
        // Clients of C++ take any parameters for the sign of bytes behind the JSON. What is in a
        // region has none, as with Triton: who asked knows where it is.
        let mut parameters = if is_in_region { BTreeMap::new() } else { Value::all(parameters) };
        let data = match form.is_binary(&name) {
            _ if is_in_region => None,
            true => {
                let length = Value::Unsigned(bytes.len() as u64);
                parameters.insert(BINARY_BYTES.to_owned(), length);
                behind.push(bytes);
                None
            }
            false => Some(Data { dtype: datatype.parse().ok(), bytes }),
        };
        Output { name, datatype, shape, parameters, data }
    };
    let outputs = all.map(one).collect();
    let parameters = Value::all(parameters);
    (Told { model_name, model_version, id, parameters, outputs }, behind)
}

/// The JSON, of at most as many bytes as a message has.
fn write(told: &Told, hold: &mut Hold) -> Result<Vec<u8>, Refused> {
    let mut text = Bounded { text: Vec::new(), hold, refused: None };
    let written = compose(&mut text, told);
    let Bounded { text, refused, .. } = text;
    match (written, refused) {
        (Ok(()), _) => Ok(text),
        (Err(_), Some(refused)) => Err(refused),
        (Err(why), None) => Err(ApiError::Internal(format!("an answer as JSON: {why}")).into()),
    }
}

fn compose<W: Write>(to: &mut W, told: &Told) -> io::Result<()> {
    open(to, told)?;
    to.write_all(b",\"outputs\":")?;
    let one = |to: &mut W, output: &Output| {
        open(to, output)?;
        if let Some(data) = &output.data {
            to.write_all(b",\"data\":")?;
            data.write(to)?;
        }
        to.write_all(b"}")
    };
    list(to, told.outputs.iter(), one)?;
    to.write_all(b"}")
}

/// An object without the brace that ends it: more follows.
fn open(to: &mut impl Write, object: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(object)?;
    to.write_all(text.strip_suffix(b"}").unwrap_or(&text))
}

/// Text that grows within its bounds.
struct Bounded<'h> {
    text: Vec<u8>,
    hold: &'h mut Hold,
    /// Why it does not grow any more.
    refused: Option<Refused>,
}

impl Write for Bounded<'_> {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        let needed = self.text.len() + part.len();
        let room = if needed > MESSAGE_BYTES_MAX {
            let why = format!(
                "the outputs have more than {MESSAGE_BYTES_MAX} bytes of JSON: ask for binary_data"
            );
            Err(ApiError::Busy(why).into())
        } else {
            self.hold.grow(&mut self.text, needed, MESSAGE_BYTES_MAX)
        };
        if let Err(refused) = room {
            self.refused = Some(refused);
            return Err(io::Error::other("no room"));
        }
        self.text.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes that are counted until they are sent.
fn kept(bytes: Vec<u8>, hold: Hold) -> Bytes {
    struct Kept {
        bytes: Vec<u8>,
        _hold: Hold,
    }

    impl AsRef<[u8]> for Kept {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }

    Bytes::from_owner(Kept { bytes, _hold: hold })
}

/// A body of several parts, none of which is copied.
struct Parts(VecDeque<Bytes>);

impl http_body::Body for Parts {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.0.pop_front().map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|part| part.len() as u64).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(dtype: DType, bytes: Vec<u8>) -> String {
        let mut text = Vec::new();
        Data { dtype: Some(dtype), bytes: bytes.into() }.write(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn elements_are_written_as_they_are_read_again() {
        let halves = [f16::from_f32(0.1), f16::INFINITY, f16::from_f32(-65504.0), f16::NAN];
        let halves = halves.iter().flat_map(|it| it.to_le_bytes()).collect();
        assert_eq!(written(DType::F16, halves), "[0.099975586,Infinity,-65504.0,NaN]");
        let brains = [bf16::from_f32(1.0), bf16::NEG_INFINITY];
        let brains = brains.iter().flat_map(|it| it.to_le_bytes()).collect();
        assert_eq!(written(DType::Bf16, brains), "[1.0,-Infinity]");
        let floats = [f64::MIN_POSITIVE, -0.0].iter().flat_map(|it| it.to_le_bytes()).collect();
        assert_eq!(written(DType::F64, floats), "[2.2250738585072014e-308,-0.0]");
        assert_eq!(written(DType::U64, u64::MAX.to_le_bytes().into()), "[18446744073709551615]");
        assert_eq!(written(DType::Bool, vec![0, 1]), "[false,true]");
        assert_eq!(written(DType::I8, Vec::new()), "[]");
    }
}
