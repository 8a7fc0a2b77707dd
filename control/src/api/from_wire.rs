//! What messages say, as this crate knows it.

use ferry_core::{Request, RequestKind};
use ferry_proto::channel::MESSAGE_BYTES_MAX;
use ferry_proto::{WireError, named_shapes, v1};

use crate::error::ApiError;
use crate::serving::inline::{InMessage, InlineRequest, InlineTensor};

/// Most bytes of the outputs of one answer: what a message has beside them, names, shapes and
/// parameters, is less than 1 MiB.
pub(super) const OUTPUTS_BYTES_MAX: u64 = MESSAGE_BYTES_MAX as u64 - (1 << 20);

/// What a request is; one that does not say has input tensors.
pub(super) fn what(info: Option<&v1::RequestInfo>) -> Result<Request, WireError> {
    info.map_or_else(|| Ok(Request::of(RequestKind::Tensor)), Request::try_from)
}

/// A request without a session.
pub(super) fn inline(request: v1::InferRequest) -> Result<InlineRequest, ApiError> {
    let tensor = |it: v1::InlineTensor| {
        let dtype = it.datatype.parse();
        Ok::<_, ApiError>(InlineTensor {
            dtype: dtype.map_err(|why| WireError::invalid("inputs.datatype", why))?,
            name: it.name,
            shape: it.shape,
            contents: it.contents.into(),
        })
    };
    Ok(InlineRequest {
        what: what(request.info.as_ref())?,
        model: request.model,
        version: request.version,
        inputs: request.inputs.into_iter().map(tensor).collect::<Result<_, _>>()?,
        payload: request.payload,
        shapes: named_shapes(request.shapes),
        deadline: None,
        reply_to: None,
        in_message: InMessage { outputs: None, bytes_max: OUTPUTS_BYTES_MAX },
    })
}
