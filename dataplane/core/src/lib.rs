//! Plain data that every room speaks: tensors, placements, frames, stages.
//!
//! Nothing here performs I/O, reads a clock or uses `unsafe`; it compiles for any target.
#![forbid(unsafe_code)]

pub mod endpoint;
pub mod error_text;
pub mod found;
pub mod frame;
pub mod parts;
pub mod placement;
pub mod record;
pub mod session;
pub mod shapes;
pub mod signature;
pub mod spec;
pub mod stage;
pub mod status;
pub mod tail;
pub mod tensor;
pub mod transport;

pub use endpoint::{
    Attachment, DeviceMemory, DeviceUuid, Endpoint, Gid, IpcHandle, MemoryKey, QueuePair,
    RegionDescriptor, Retry,
};
pub use error_text::{error_text, panic_text, without_middle};
pub use found::{Area, Finding, Found};
pub use frame::{
    Body, FRAME_BYTES, FRAME_ROOM_BYTES, Frame, FrameError, Head, PixelFormat, Reply, Request,
    RequestKind,
};
pub use parts::{Part, payload_bytes};
pub use placement::{HostMemory, MemoryChoice, Placement, SlotPlace, Staged, Why};
pub use record::{KindName, RequestRecord};
pub use session::{Generation, SessionId, SlotIndex, SlotLayout, Token, TraceId};
pub use shapes::{OutputShapes, ShapesError};
pub use signature::{BindError, BoundSignature, BoundTensor, Signature};
pub use spec::{NamedShapes, PlacementWish, RecordedBy, SessionSpec};
pub use stage::{ServerTimes, Stage, StageTimes, nanos};
pub use status::Status;
pub use tail::{Hop, Hops, InBatch, TAIL_BYTES_MAX, Tail, TailError};
pub use tensor::{DType, Dim, TensorSpec};
pub use transport::{LinkKind, Slots, Transport, TransportFacts, WaitPolicy};
