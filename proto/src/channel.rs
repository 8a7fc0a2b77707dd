//! Settings that both ends of the control plane must share.

/// Where `ferryd` listens and `ferry` looks for it, if neither is told.
pub const ADDRESS_DEFAULT: &str = "127.0.0.1:7077";

/// HTTP/2 stream and connection windows, in bytes. With the default of 64 KiB a 602,112-byte
/// tensor needs ten round trips of window updates; with 4 MiB it needs none.
pub const WINDOW_BYTES: u32 = 4 << 20;

/// Largest HTTP/2 frame that the server accepts, in bytes.
pub const FRAME_BYTES_MAX: u32 = 1 << 20;

/// Largest message, in bytes: the largest reply of the reference's models (45 MB) with room.
/// Larger tensors belong on the data plane.
pub const MESSAGE_BYTES_MAX: usize = 128 << 20;

/// gRPC metadata with a tenant's key, or the operator's.
pub const KEY_METADATA: &str = "ferry-key";

/// gRPC metadata of an error with the name of a [`ferry_core::Status`], where a request was served
/// without success: several share one code of gRPC.
pub const STATUS_METADATA: &str = "ferry-status";

/// gRPC metadata of an error `reply_too_large` with the shapes of the outputs, as
/// [`OutputShapes::encode`](ferry_core::OutputShapes::encode) writes them.
pub const OUTPUT_SHAPES_METADATA: &str = "ferry-output-shapes-bin";
