//! JSON of requests, read into lists that have bounds.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;

use ferry_proto::oip::InferParameter;
use ferry_proto::oip::infer_parameter::ParameterChoice;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::api::oip::parameters::Parameters;

/// Most inputs or outputs of a request: more than models have.
const TENSORS_MAX: usize = 4096;

/// Most dimensions of a tensor.
const DIMS_MAX: usize = 64;

/// Most parameters of a request or a tensor.
const PARAMETERS_MAX: usize = 256;

/// An inference. Fields that are not here are not looked at.
#[derive(Debug, Deserialize)]
pub(super) struct Request<'a> {
    #[serde(default)]
    pub(super) id: String,
    #[serde(default, deserialize_with = "parameters")]
    pub(super) parameters: Parameters,
    #[serde(borrow, deserialize_with = "list::<_, _, TENSORS_MAX>")]
    pub(super) inputs: Vec<Input<'a>>,
    #[serde(default, deserialize_with = "list::<_, _, TENSORS_MAX>")]
    pub(super) outputs: Vec<Output>,
}

/// An input.
#[derive(Debug, Deserialize)]
pub(super) struct Input<'a> {
    pub(super) name: String,
    pub(super) datatype: String,
    #[serde(deserialize_with = "list::<_, _, DIMS_MAX>")]
    pub(super) shape: Vec<i64>,
    #[serde(default, deserialize_with = "parameters")]
    pub(super) parameters: Parameters,
    /// Its elements: JSON that is not read yet.
    #[serde(borrow, default)]
    pub(super) data: Option<&'a RawValue>,
}

/// An output that is asked for.
#[derive(Debug, Deserialize)]
pub(super) struct Output {
    pub(super) name: String,
    #[serde(default, deserialize_with = "parameters")]
    pub(super) parameters: Parameters,
}

/// A list of at most `MOST` elements.
fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MOST: usize>(
    from: D,
) -> Result<Vec<T>, D::Error> {
    struct List<T, const MOST: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for List<T, MOST> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MOST} elements")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Vec<T>, A::Error> {
            let mut all = Vec::new();
            while let Some(element) = from.next_element()? {
                if all.len() == MOST {
                    return Err(A::Error::invalid_length(MOST + 1, &self));
                }
                all.push(element);
            }
            Ok(all)
        }
    }

    from.deserialize_seq(List::<T, MOST>(PhantomData))
}

/// Parameters of a request or a tensor.
fn parameters<'de, D: Deserializer<'de>>(from: D) -> Result<Parameters, D::Error> {
    struct All;

    impl<'de> Visitor<'de> for All {
        type Value = Parameters;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "an object of at most {PARAMETERS_MAX} parameters")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Parameters, A::Error> {
            let mut all = HashMap::new();
            while let Some((name, value)) = from.next_entry::<String, Value>()? {
                if all.len() == PARAMETERS_MAX {
                    return Err(A::Error::invalid_length(PARAMETERS_MAX + 1, &self));
                }
                all.insert(name, InferParameter { parameter_choice: Some(value.0) });
            }
            Ok(all)
        }
    }

    from.deserialize_map(All)
}

struct Value(ParameterChoice);

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Value, D::Error> {
        from.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl Visitor<'_> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a parameter: a boolean, a number or a text")
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Value, E> {
        Ok(Value(ParameterChoice::BoolParam(flag)))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
        Ok(Value(ParameterChoice::Int64Param(number)))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        let signed = i64::try_from(number).map(ParameterChoice::Int64Param);
        Ok(Value(signed.unwrap_or(ParameterChoice::Uint64Param(number))))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        Ok(Value(ParameterChoice::DoubleParam(number)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value(ParameterChoice::StringParam(text.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Request<'_>, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_a_request_is_read_and_what_is_not_is_named() {
        let good = r#"{"id":"7","parameters":{"a":true,"b":-1,"c":18446744073709551615,"d":"x"},
            "inputs":[{"name":"I","datatype":"FP32","shape":[1,-2],"data":[[1],2]}],"more":[{}]}"#;
        let request = read(good).unwrap();
        assert_eq!((request.id.as_str(), request.inputs[0].shape.as_slice()), ("7", &[1, -2][..]));
        assert_eq!(request.inputs[0].data.unwrap().get(), "[[1],2]");
        let choice = |name| request.parameters[name].parameter_choice.clone().unwrap();
        assert_eq!(choice("b"), ParameterChoice::Int64Param(-1));
        assert_eq!(choice("c"), ParameterChoice::Uint64Param(u64::MAX));
        for (bad, word) in [
            ("", "EOF"),
            ("[]", "invalid length"),
            ("{}", "missing field `inputs`"),
            (r#"{"inputs":[{"name":"I","datatype":"FP32"}]}"#, "missing field `shape`"),
            (r#"{"inputs":[],"id":7}"#, "expected a string"),
            (r#"{"inputs":[],"parameters":{"a":[1]}}"#, "a boolean, a number or a text"),
            (r#"{"inputs":[],"inputs":[]}"#, "duplicate field `inputs`"),
            (r#"{"inputs":[]} x"#, "trailing characters"),
            (r#"{"inputs":[{"name":"I","datatype":"FP32","shape":[NaN]}]}"#, "expected value"),
        ] {
            let told = read(bad).unwrap_err();
            assert!(told.contains(word), "{bad}: {told}");
        }
    }

    #[test]
    fn lists_have_bounds_and_values_do_not_nest_without_end() {
        let many = |of: &str, count| vec![of; count].join(",");
        let shape = |count| {
            format!(r#"{{"inputs":[{{"name":"I","datatype":"","shape":[{}]}}]}}"#, many("1", count))
        };
        assert!(read(&shape(DIMS_MAX)).is_ok());
        assert!(read(&shape(DIMS_MAX + 1)).unwrap_err().contains("at most 64"));
        let outputs =
            |count| format!(r#"{{"inputs":[],"outputs":[{}]}}"#, many(r#"{"name":""}"#, count));
        assert!(read(&outputs(TENSORS_MAX)).is_ok());
        assert!(read(&outputs(TENSORS_MAX + 1)).unwrap_err().contains("at most 4096"));
        let deep = "[".repeat(1 << 20);
        assert!(read(&format!(r#"{{"inputs":{deep}"#)).is_err());
        assert!(read(&format!(r#"{{"other":{deep}"#)).is_err());
    }
}
