//! Settings that both ends of the control plane must share.

/// HTTP/2 stream and connection windows, in bytes. With the default of 64 KiB a 602,112-byte
/// tensor needs ten round trips of window updates; with 4 MiB it needs none.
pub const WINDOW_BYTES: u32 = 4 << 20;

/// Largest HTTP/2 frame that the server accepts, in bytes.
pub const FRAME_BYTES_MAX: u32 = 1 << 20;

/// Largest message, in bytes: the largest reply of the reference's models (45 MB) with room.
/// Larger tensors belong on the data plane.
pub const MESSAGE_BYTES_MAX: usize = 128 << 20;
