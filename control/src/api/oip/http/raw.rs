//! A message without JSON: the bytes of a model's only input, whose shape the model knows but for one
//! size.

use bytes::Bytes;
use ferry_core::{Dim, TensorSpec};
use ferry_proto::oip::ModelInferRequest;
use ferry_proto::oip::model_infer_request::InferInputTensor;

use crate::api::oip::offer::Offer;
use crate::error::ApiError;

/// The inference that asks the version `model_version` of `offer` with these bytes.
///
/// # Errors
/// [`ApiError::Field`] if the model has several inputs, or several sizes that a request chooses.
pub(super) fn request(
    offer: &Offer,
    model_version: String,
    bytes: Bytes,
) -> Result<ModelInferRequest, ApiError> {
    let wrong = |why: String| {
        let why = format!("a message without JSON is for models with one input: {why}");
        ApiError::field("inputs", why)
    };
    let spec = match &*offer.signature().inputs {
        [spec] => spec,
        all => return Err(wrong(format!("this one has {}", all.len()))),
    };
    let has_batch = offer.profile.batch_max().is_some();
    let shape = shape(spec, has_batch, bytes.len() as u64)
        .ok_or_else(|| wrong(format!("{spec} has several open sizes: tell its shape in JSON")))?;
    let input = InferInputTensor {
        name: spec.name.clone(),
        datatype: spec.dtype.name().to_owned(),
        shape,
        ..InferInputTensor::default()
    };
    Ok(ModelInferRequest {
        model_name: offer.profile.name.clone(),
        model_version,
        inputs: vec![input],
        raw_input_contents: vec![bytes],
        ..ModelInferRequest::default()
    })
}

/// The shape of a tensor of so many bytes: one row where the model takes several, and what follows
/// from the bytes in the place of one other open size. Whether they fit is looked at with those of
/// all requests. `None` if there are several.
fn shape(spec: &TensorSpec, has_batch: bool, bytes: u64) -> Option<Vec<i64>> {
    let is_batch = |at: usize| has_batch && at == 0;
    let is_open = |(at, dim): &(usize, &Dim)| !matches!(dim, Dim::Fixed(_)) && !is_batch(*at);
    let mut open = spec.shape.iter().enumerate().filter(is_open).map(|(at, _)| at);
    let (open, None) = (open.next(), open.next()) else { return None };
    let size = |dim: &Dim| if let Dim::Fixed(size) = dim { *size } else { 1 };
    let mut sizes: Vec<u64> = spec.shape.iter().map(size).collect();
    let of_one = spec.dtype.bytes_of(&sizes);
    if let Some(size) = open.and_then(|at| sizes.get_mut(at)) {
        *size = bytes.checked_div(of_one).unwrap_or_default();
    }
    sizes.into_iter().map(|size| i64::try_from(size).ok()).collect()
}

#[cfg(test)]
mod tests {
    use ferry_core::DType;

    use super::*;

    #[test]
    fn one_size_follows_from_the_bytes() {
        let any = || Dim::Named("n".to_owned());
        for (dims, has_batch, bytes, expected) in [
            (vec![Dim::Fixed(2), Dim::Fixed(3)], false, 7, Some(vec![2, 3])),
            (vec![any(), Dim::Fixed(3)], true, 24, Some(vec![1, 3])),
            (vec![any(), Dim::Fixed(3)], false, 24, Some(vec![2, 3])),
            (vec![any(), any(), Dim::Fixed(3)], true, 25, Some(vec![1, 2, 3])),
            (vec![any(), Dim::Fixed(0)], false, 8, Some(vec![0, 0])),
            (vec![any(), any()], false, 8, None),
            (vec![], false, 4, Some(vec![])),
            (vec![Dim::Fixed(u64::MAX)], false, 4, None),
        ] {
            let spec = TensorSpec { name: "x".into(), dtype: DType::F32, shape: dims };
            assert_eq!(shape(&spec, has_batch, bytes), expected, "{spec} {bytes}");
        }
    }
}
