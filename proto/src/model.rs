//! Tensors, signatures and names, to the wire and back.

use bytes::Bytes;
use ferry_core::{
    BoundSignature, BoundTensor, Dim, HostMemory, MemoryChoice, OutputShapes, PixelFormat, Request,
    RequestKind, Signature, SlotPlace, TensorSpec, TraceId, WaitPolicy,
};

use crate::error::WireError;
use crate::v1;

impl From<WaitPolicy> for v1::WaitPolicy {
    fn from(policy: WaitPolicy) -> Self {
        match policy {
            WaitPolicy::Spin => v1::WaitPolicy::Spin,
            WaitPolicy::Adaptive => v1::WaitPolicy::Adaptive,
            WaitPolicy::Block => v1::WaitPolicy::Block,
        }
    }
}

impl From<v1::WaitPolicy> for WaitPolicy {
    fn from(policy: v1::WaitPolicy) -> Self {
        match policy {
            v1::WaitPolicy::Spin => WaitPolicy::Spin,
            v1::WaitPolicy::Adaptive => WaitPolicy::Adaptive,
            v1::WaitPolicy::Block => WaitPolicy::Block,
        }
    }
}

impl From<SlotPlace> for v1::Placement {
    fn from(place: SlotPlace) -> Self {
        match place {
            SlotPlace::Host(memory) => {
                v1::Placement { cuda_ordinal: None, host_memory: memory.name().to_owned() }
            }
            SlotPlace::Cuda(ordinal) => {
                v1::Placement { cuda_ordinal: Some(ordinal), host_memory: String::new() }
            }
        }
    }
}

impl v1::Placement {
    /// Where slots lie, as a server tells it.
    ///
    /// # Errors
    /// [`WireError`] for a name with no meaning.
    pub fn place(&self) -> Result<SlotPlace, WireError> {
        Ok(match self.cuda_ordinal {
            Some(ordinal) => SlotPlace::Cuda(ordinal),
            None => SlotPlace::Host(self.memory_choice()?.unwrap_or_default()),
        })
    }

    /// What host memory is to be to a device; `None` is the server's choice.
    ///
    /// # Errors
    /// [`WireError`] for a name with no meaning.
    pub fn memory_choice(&self) -> Result<Option<MemoryChoice>, WireError> {
        let name = self.host_memory.as_str();
        if name.is_empty() {
            return Ok(None);
        }
        if name == MemoryChoice::Auto.name() {
            return Ok(Some(MemoryChoice::Auto));
        }
        let known = HostMemory::ALL.into_iter().find(|kind| kind.name() == name);
        let kind = known.ok_or_else(|| {
            let why = format!("{name:?} is none of auto, pageable, pinned, mapped");
            WireError::invalid("placement.host_memory", why)
        })?;
        Ok(Some(MemoryChoice::Always(kind)))
    }
}

impl From<&TensorSpec> for v1::TensorSpec {
    fn from(spec: &TensorSpec) -> Self {
        let dim = |dim: &Dim| v1::Dim {
            size: Some(match dim {
                Dim::Fixed(size) => v1::dim::Size::Fixed(*size),
                Dim::Named(name) => v1::dim::Size::Named(name.clone()),
                Dim::Any => v1::dim::Size::Any(true),
            }),
        };
        v1::TensorSpec {
            name: spec.name.clone(),
            datatype: spec.dtype.name().to_owned(),
            shape: spec.shape.iter().map(dim).collect(),
        }
    }
}

impl TryFrom<v1::TensorSpec> for TensorSpec {
    type Error = WireError;

    fn try_from(spec: v1::TensorSpec) -> Result<Self, WireError> {
        let dim = |dim: v1::Dim| match dim.size {
            Some(v1::dim::Size::Fixed(size)) => Ok(Dim::Fixed(size)),
            Some(v1::dim::Size::Named(name)) => Ok(Dim::Named(name)),
            Some(v1::dim::Size::Any(_)) => Ok(Dim::Any),
            None => Err(WireError::Missing("shape.size")),
        };
        Ok(TensorSpec {
            dtype: spec.datatype.parse().map_err(|why| WireError::invalid("datatype", why))?,
            name: spec.name,
            shape: spec.shape.into_iter().map(dim).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&Signature> for v1::Signature {
    fn from(signature: &Signature) -> Self {
        v1::Signature {
            inputs: signature.inputs.iter().map(Into::into).collect(),
            outputs: signature.outputs.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Signature> for Signature {
    type Error = WireError;

    fn try_from(signature: v1::Signature) -> Result<Self, WireError> {
        let specs = |specs: Vec<v1::TensorSpec>| {
            specs.into_iter().map(TensorSpec::try_from).collect::<Result<Vec<_>, _>>()
        };
        Ok(Signature { inputs: specs(signature.inputs)?, outputs: specs(signature.outputs)? })
    }
}

impl From<&BoundSignature> for v1::BoundSignature {
    fn from(bound: &BoundSignature) -> Self {
        let tensor = |tensor: &BoundTensor| v1::BoundTensor {
            name: tensor.name.clone(),
            datatype: tensor.dtype.name().to_owned(),
            shape: tensor.shape.clone(),
            offset: tensor.offset,
            bytes: tensor.bytes,
            open: tensor.open,
        };
        v1::BoundSignature {
            inputs: bound.inputs.iter().map(tensor).collect(),
            outputs: bound.outputs.iter().map(tensor).collect(),
        }
    }
}

impl TryFrom<v1::BoundSignature> for BoundSignature {
    type Error = WireError;

    fn try_from(bound: v1::BoundSignature) -> Result<Self, WireError> {
        let tensor = |tensor: v1::BoundTensor| {
            Ok(BoundTensor {
                dtype: tensor
                    .datatype
                    .parse()
                    .map_err(|why| WireError::invalid("datatype", why))?,
                name: tensor.name,
                shape: tensor.shape,
                offset: tensor.offset,
                bytes: tensor.bytes,
                open: tensor.open,
            })
        };
        let all = |tensors: Vec<v1::BoundTensor>| {
            tensors.into_iter().map(tensor).collect::<Result<Vec<_>, WireError>>()
        };
        Ok(BoundSignature { inputs: all(bound.inputs)?, outputs: all(bound.outputs)? })
    }
}

impl From<PixelFormat> for v1::PixelFormat {
    fn from(format: PixelFormat) -> Self {
        match format {
            PixelFormat::Rgb8 => v1::PixelFormat::Rgb8,
            PixelFormat::Bgr8 => v1::PixelFormat::Bgr8,
            PixelFormat::Gray8 => v1::PixelFormat::Gray8,
        }
    }
}

impl From<Request> for v1::RequestInfo {
    fn from(request: Request) -> Self {
        let mut info = v1::RequestInfo {
            batch: request.batch,
            priority: u32::from(request.priority),
            trace_id: trace_to_wire(request.trace),
            ..Default::default()
        };
        let kind = match request.kind {
            RequestKind::Ping => v1::RequestKind::Ping,
            RequestKind::Jpeg => v1::RequestKind::Jpeg,
            RequestKind::Tensor => v1::RequestKind::Tensor,
            RequestKind::Raw { width, height, format } => {
                (info.width, info.height) = (width, height);
                info.set_format(format.into());
                v1::RequestKind::Raw
            }
        };
        info.set_kind(kind);
        info
    }
}

impl TryFrom<&v1::RequestInfo> for Request {
    type Error = WireError;

    fn try_from(info: &v1::RequestInfo) -> Result<Self, WireError> {
        let kind = v1::RequestKind::try_from(info.kind)
            .map_err(|why| WireError::invalid("info.kind", why))?;
        let kind = match kind {
            v1::RequestKind::Ping => RequestKind::Ping,
            v1::RequestKind::Jpeg => RequestKind::Jpeg,
            v1::RequestKind::Tensor => RequestKind::Tensor,
            v1::RequestKind::Raw => RequestKind::Raw {
                width: info.width,
                height: info.height,
                format: match v1::PixelFormat::try_from(info.format) {
                    Ok(v1::PixelFormat::Rgb8) => PixelFormat::Rgb8,
                    Ok(v1::PixelFormat::Bgr8) => PixelFormat::Bgr8,
                    Ok(v1::PixelFormat::Gray8) => PixelFormat::Gray8,
                    Err(why) => return Err(WireError::invalid("info.format", why)),
                },
            },
        };
        let priority =
            u8::try_from(info.priority).map_err(|why| WireError::invalid("info.priority", why))?;
        // An unset batch is one item: most models have no batch at all.
        let trace = trace_from_wire(&info.trace_id)?;
        Ok(Request { kind, batch: info.batch.max(1), priority, trace })
    }
}

/// A trace as bytes: none where there is none.
pub(crate) fn trace_to_wire(trace: TraceId) -> Bytes {
    if trace.is_none() { Bytes::new() } else { Bytes::copy_from_slice(&trace.0) }
}

pub(crate) fn trace_from_wire(bytes: &[u8]) -> Result<TraceId, WireError> {
    if bytes.is_empty() {
        return Ok(TraceId::NONE);
    }
    let wrong = |_length| {
        let why = format!("{} bytes; a trace is named by 16 or by none", bytes.len());
        WireError::invalid("trace_id", why)
    };
    bytes.try_into().map(TraceId).map_err(wrong)
}

/// The shapes of a reply's outputs, in the model's order; none where they are as agreed.
pub fn output_shapes_to_wire(outputs: Option<&OutputShapes>) -> Vec<v1::TensorShape> {
    let shapes = outputs.into_iter().flat_map(OutputShapes::iter);
    shapes.map(|shape| v1::TensorShape { name: String::new(), shape: shape.to_vec() }).collect()
}

/// What [`output_shapes_to_wire`] made.
///
/// # Errors
/// [`WireError`] if there are more than any reply has.
pub fn output_shapes_from_wire(
    shapes: &[v1::TensorShape],
) -> Result<Option<Box<OutputShapes>>, WireError> {
    if shapes.is_empty() {
        return Ok(None);
    }
    let outputs = OutputShapes::of(shapes.iter().map(|it| &it.shape));
    let outputs = outputs.map_err(|why| WireError::invalid("output_shapes", why))?;
    Ok(Some(Box::new(outputs)))
}
