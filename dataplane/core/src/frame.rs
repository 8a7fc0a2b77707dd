//! The 128-byte header in front of every payload, and its codec.
//!
//! All numbers are little-endian. `docs/WIRE.md` has the table. A frame says which session, which
//! lease of it (generation) and which slot it is for, so that a receiver can refuse it before one
//! payload byte is placed.

use crate::placement::Staged;
use crate::record::KindName;
use crate::session::{Generation, SessionId, SlotIndex, Token};
use crate::stage::{ServerTimes, StageTimes, WIRE_STAGES};
use crate::status::Status;

/// Length of the header in bytes: two cache lines.
pub const FRAME_BYTES: usize = 128;
/// First four bytes of every frame, `FRRY`.
pub const MAGIC: u32 = u32::from_le_bytes(*b"FRRY");
/// The version that this build speaks. A session agrees on it before any frame is sent.
pub const VERSION: u16 = 1;
/// A duration that is not there.
const ABSENT_NS: u64 = u64::MAX;

/// The header of one message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frame {
    /// The session that it belongs to.
    pub session: SessionId,
    /// The lease of that session under which it was written.
    pub generation: Generation,
    /// The slot that its payload is for.
    pub slot: SlotIndex,
    /// Number of the request within the session; a reply repeats it.
    pub request: u64,
    /// Payload length in bytes.
    pub payload_bytes: u64,
    /// What the message is.
    pub body: Body,
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Body {
    /// Client → server, first on a connection: proves who is there.
    Hello {
        /// The session's secret.
        token: Token,
    },
    /// Server → client: the connection is accepted.
    Welcome,
    /// Client → server: run the model on the payload.
    Request(Request),
    /// Server → client: the outputs, or a status and a text in the payload.
    Reply(Reply),
    /// Either way: the session is over on this link.
    Bye {
        /// Why.
        status: Status,
    },
}

/// What a request's payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What the payload holds.
    pub kind: RequestKind,
    /// How many items of the batch are filled; 1 where the model has no batch.
    pub batch: u32,
    /// Larger is more urgent; 0 is normal.
    pub priority: u8,
}

/// What a request's payload holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestKind {
    /// Nothing to run: the empty round trip.
    Ping,
    /// Pixels, height × width × channels, tightly packed.
    Raw {
        /// Pixels per row.
        width: u32,
        /// Rows.
        height: u32,
        /// What a pixel is.
        format: PixelFormat,
    },
    /// A JPEG file.
    Jpeg,
    /// The model's input tensors, laid out as the session agreed.
    Tensor,
}

impl RequestKind {
    /// The kind without its parameters.
    pub const fn name(self) -> KindName {
        match self {
            RequestKind::Ping => KindName::Ping,
            RequestKind::Raw { .. } => KindName::Raw,
            RequestKind::Jpeg => KindName::Jpeg,
            RequestKind::Tensor => KindName::Tensor,
        }
    }
}

/// What one pixel of a raw picture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PixelFormat {
    /// Red, green, blue, 8 bits each.
    Rgb8,
    /// Blue, green, red, 8 bits each (OpenCV's order).
    Bgr8,
    /// One 8-bit luminance.
    Gray8,
}

impl PixelFormat {
    /// Every format, in wire order.
    pub const ALL: [PixelFormat; 3] = [PixelFormat::Rgb8, PixelFormat::Bgr8, PixelFormat::Gray8];

    /// Bytes of one pixel.
    pub const fn bytes(self) -> u32 {
        match self {
            PixelFormat::Rgb8 | PixelFormat::Bgr8 => 3,
            PixelFormat::Gray8 => 1,
        }
    }
}

/// What a reply says beside its payload.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reply {
    /// How the request ended. Where it is not [`Status::Ok`], the payload is a UTF-8 text.
    pub status: Status,
    /// The stages that the server timed (those of [`WIRE_STAGES`]).
    pub times: ServerTimes,
    /// How long the link took over the *previous* reply of this session, in nanoseconds: a reply
    /// cannot carry its own.
    pub reply_ns_previous: Option<u64>,
}

/// Why 128 bytes are not a frame that this build accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first four bytes are wrong: the peer does not speak this protocol, or lost its place.
    #[error("magic is {0:#010x}, expected {MAGIC:#010x}: the peer does not speak this protocol")]
    Magic(u32),
    /// Another version.
    #[error("frame version is {0}, this build speaks {VERSION}: update the older end")]
    Version(u16),
    /// A kind, status, pixel format or request kind with no meaning.
    #[error("{what} {number} has no meaning in version {VERSION}")]
    Unknown {
        /// Which field.
        what: &'static str,
        /// Its number.
        number: u16,
    },
    /// A reserved byte is not zero.
    #[error("reserved bytes are not zero: the frame is damaged or from a later version")]
    Reserved,
}

const KIND_HELLO: u16 = 1;
const KIND_WELCOME: u16 = 2;
const KIND_REQUEST: u16 = 3;
const KIND_REPLY: u16 = 4;
const KIND_BYE: u16 = 5;

/// Where the body starts: behind magic, version, kind, session, generation, slot, request and
/// payload length.
const BODY_AT: usize = 40;

impl Frame {
    /// Writes the header.
    pub fn encode(&self) -> [u8; FRAME_BYTES] {
        let mut out = [0_u8; FRAME_BYTES];
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4..6].copy_from_slice(&VERSION.to_le_bytes());
        out[8..16].copy_from_slice(&self.session.0.to_le_bytes());
        out[16..20].copy_from_slice(&self.generation.0.to_le_bytes());
        out[20..24].copy_from_slice(&self.slot.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.request.to_le_bytes());
        out[32..40].copy_from_slice(&self.payload_bytes.to_le_bytes());
        let kind = encode_body(&self.body, &mut out);
        out[6..8].copy_from_slice(&kind.to_le_bytes());
        out
    }

    /// Reads a header. Every field is checked for meaning; whether it fits the session is for the
    /// caller, who knows the session.
    ///
    /// # Errors
    /// [`FrameError`] names the first field that is wrong.
    pub fn decode(bytes: &[u8; FRAME_BYTES]) -> Result<Frame, FrameError> {
        let magic = u32_at(bytes, 0);
        if magic != MAGIC {
            return Err(FrameError::Magic(magic));
        }
        let version = u16_at(bytes, 4);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        Ok(Frame {
            session: SessionId(u64_at(bytes, 8)),
            generation: Generation(u32_at(bytes, 16)),
            slot: SlotIndex(u32_at(bytes, 20)),
            request: u64_at(bytes, 24),
            payload_bytes: u64_at(bytes, 32),
            body: decode_body(u16_at(bytes, 6), bytes)?,
        })
    }
}

fn encode_body(body: &Body, out: &mut [u8; FRAME_BYTES]) -> u16 {
    match body {
        Body::Hello { token } => {
            out[BODY_AT..BODY_AT + Token::BYTES].copy_from_slice(token.reveal());
            KIND_HELLO
        }
        Body::Welcome => KIND_WELCOME,
        Body::Request(request) => {
            out[40] = request.kind.name() as u8;
            out[42] = request.priority;
            out[44..48].copy_from_slice(&request.batch.to_le_bytes());
            if let RequestKind::Raw { width, height, format } = request.kind {
                out[41] = format as u8;
                out[48..52].copy_from_slice(&width.to_le_bytes());
                out[52..56].copy_from_slice(&height.to_le_bytes());
            }
            KIND_REQUEST
        }
        Body::Reply(reply) => {
            out[40..42].copy_from_slice(&reply.status.to_wire().to_le_bytes());
            if let Some(staged) = reply.times.staged() {
                out[42..44].copy_from_slice(&staged.to_wire());
            }
            let previous = reply.reply_ns_previous.unwrap_or(ABSENT_NS);
            out[48..56].copy_from_slice(&previous.to_le_bytes());
            for (i, &stage) in WIRE_STAGES.iter().enumerate() {
                let ns = reply.times.of(stage).unwrap_or(ABSENT_NS);
                out[56 + 8 * i..64 + 8 * i].copy_from_slice(&ns.to_le_bytes());
            }
            KIND_REPLY
        }
        Body::Bye { status } => {
            out[40..42].copy_from_slice(&status.to_wire().to_le_bytes());
            KIND_BYE
        }
    }
}

fn decode_body(kind: u16, bytes: &[u8; FRAME_BYTES]) -> Result<Body, FrameError> {
    match kind {
        KIND_HELLO => {
            let mut token = [0_u8; Token::BYTES];
            token.copy_from_slice(&bytes[BODY_AT..BODY_AT + Token::BYTES]);
            zeros(&bytes[BODY_AT + Token::BYTES..])?;
            Ok(Body::Hello { token: Token::new(token) })
        }
        KIND_WELCOME => {
            zeros(&bytes[BODY_AT..])?;
            Ok(Body::Welcome)
        }
        KIND_REQUEST => Ok(Body::Request(decode_request(bytes)?)),
        KIND_REPLY => Ok(Body::Reply(decode_reply(bytes)?)),
        KIND_BYE => {
            zeros(&bytes[42..])?;
            Ok(Body::Bye { status: status_at(bytes)? })
        }
        number => Err(FrameError::Unknown { what: "frame kind", number }),
    }
}

fn decode_request(bytes: &[u8; FRAME_BYTES]) -> Result<Request, FrameError> {
    zeros(&bytes[43..44])?;
    zeros(&bytes[56..])?;
    let number = bytes[40];
    let name = KindName::from_wire(number)
        .ok_or(FrameError::Unknown { what: "request kind", number: u16::from(number) })?;
    if name != KindName::Raw {
        zeros(&bytes[41..42])?;
        zeros(&bytes[48..56])?;
    }
    let kind = match name {
        KindName::Ping => RequestKind::Ping,
        KindName::Jpeg => RequestKind::Jpeg,
        KindName::Tensor => RequestKind::Tensor,
        KindName::Raw => RequestKind::Raw {
            width: u32_at(bytes, 48),
            height: u32_at(bytes, 52),
            format: format_from(bytes[41])?,
        },
    };
    Ok(Request { kind, batch: u32_at(bytes, 44), priority: bytes[42] })
}

fn format_from(number: u8) -> Result<PixelFormat, FrameError> {
    let known = PixelFormat::ALL.get(usize::from(number)).copied();
    known.ok_or(FrameError::Unknown { what: "pixel format", number: u16::from(number) })
}

fn decode_reply(bytes: &[u8; FRAME_BYTES]) -> Result<Reply, FrameError> {
    zeros(&bytes[44..48])?;
    let staged = match [bytes[42], bytes[43]] {
        [0, 0] => None,
        pair => {
            let number = u16::from_le_bytes(pair);
            let unknown = FrameError::Unknown { what: "memory", number };
            Some(Staged::from_wire(pair).ok_or(unknown)?)
        }
    };
    let present = |ns: u64| (ns != ABSENT_NS).then_some(ns);
    let mut times = StageTimes::NONE;
    times.set_staged(staged);
    for (i, &stage) in WIRE_STAGES.iter().enumerate() {
        times.put(stage, present(u64_at(bytes, 56 + 8 * i)));
    }
    let reply_ns_previous = present(u64_at(bytes, 48));
    Ok(Reply { status: status_at(bytes)?, times, reply_ns_previous })
}

fn status_at(bytes: &[u8; FRAME_BYTES]) -> Result<Status, FrameError> {
    let number = u16_at(bytes, 40);
    Status::from_wire(number).ok_or(FrameError::Unknown { what: "status", number })
}

fn zeros(bytes: &[u8]) -> Result<(), FrameError> {
    if bytes.iter().all(|&byte| byte == 0) { Ok(()) } else { Err(FrameError::Reserved) }
}

fn u16_at(bytes: &[u8; FRAME_BYTES], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8; FRAME_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8; FRAME_BYTES], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests;
