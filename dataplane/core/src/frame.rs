//! The 128-byte head of every frame, and its codec.
//!
//! All numbers are little-endian. `docs/WIRE.md` has the table. A frame says which session, which
//! lease of it (generation) and which slot it is for, so that a receiver can refuse it before one
//! payload byte is placed. What is said beside it follows in a [tail](crate::tail), whose length the
//! head tells.

use crate::placement::Staged;
use crate::record::KindName;
use crate::session::{Generation, SessionId, SlotIndex, Token, TraceId};
use crate::stage::{
    DURATION_BYTES, ServerTimes, StageTimes, WIRE_STAGES, read_duration, write_duration,
};
use crate::status::Status;
use crate::tail::{TAIL_BYTES_MAX, TailError, check_tail_bytes};

/// Length of the head in bytes: two cache lines.
pub const FRAME_BYTES: usize = 128;
/// Room for a head with the longest tail: 2 KiB.
pub const FRAME_ROOM_BYTES: usize = FRAME_BYTES + TAIL_BYTES_MAX;
/// First four bytes of every frame, `FRRY`.
pub const MAGIC: u32 = u32::from_le_bytes(*b"FRRY");
/// The version that this build speaks. A session agrees on it before any frame is sent.
pub const VERSION: u8 = 2;

/// The head of one message, but for the length of its tail.
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
    /// The trace that the request is part of.
    pub trace: TraceId,
}

impl Request {
    /// One item, of normal priority, in no trace.
    pub const fn of(kind: RequestKind) -> Request {
        Request { kind, batch: 1, priority: 0, trace: TraceId::NONE }
    }
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
    Version(u8),
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
    /// The tail is too long, or its records make no sense.
    #[error("bad tail: {0}")]
    Tail(#[from] TailError),
}

const KIND_HELLO: u8 = 1;
const KIND_WELCOME: u8 = 2;
const KIND_REQUEST: u8 = 3;
const KIND_REPLY: u8 = 4;
const KIND_BYE: u8 = 5;

/// Where the body starts: behind magic, version, kind, tail length, session, generation, slot,
/// request and payload length.
const BODY_AT: usize = 40;
/// Where the durations of a reply start; they fill the rest of the head.
const DURATIONS_AT: usize = 44;
const _: () = assert!(DURATIONS_AT + DURATION_BYTES * (1 + WIRE_STAGES.len()) == FRAME_BYTES);

/// What the 128 bytes of a head say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Head {
    /// The frame.
    pub frame: Frame,
    /// Length of its tail: at most [`TAIL_BYTES_MAX`].
    pub tail_bytes: usize,
}

impl Frame {
    /// Writes the head of a frame without a tail.
    pub fn encode(&self) -> [u8; FRAME_BYTES] {
        Head { frame: *self, tail_bytes: 0 }.encode()
    }

    /// Reads the head of a frame that has no tail.
    ///
    /// # Errors
    /// As for [`Head::decode`]; [`TailError::NotHere`] if there is a tail.
    pub fn decode(bytes: &[u8; FRAME_BYTES]) -> Result<Frame, FrameError> {
        let Head { frame, tail_bytes } = Head::decode(bytes)?;
        if tail_bytes > 0 {
            return Err(TailError::NotHere(bytes[5]).into());
        }
        Ok(frame)
    }
}

impl Head {
    /// Writes the head.
    pub fn encode(&self) -> [u8; FRAME_BYTES] {
        let Head { frame, tail_bytes } = self;
        let mut out = [0_u8; FRAME_BYTES];
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4] = VERSION;
        // No tail is longer than 16 bits say; one that were would be refused by its receiver.
        let tail_bytes = u16::try_from(*tail_bytes).unwrap_or(u16::MAX);
        out[6..8].copy_from_slice(&tail_bytes.to_le_bytes());
        out[8..16].copy_from_slice(&frame.session.0.to_le_bytes());
        out[16..20].copy_from_slice(&frame.generation.0.to_le_bytes());
        out[20..24].copy_from_slice(&frame.slot.0.to_le_bytes());
        out[24..32].copy_from_slice(&frame.request.to_le_bytes());
        out[32..40].copy_from_slice(&frame.payload_bytes.to_le_bytes());
        out[5] = encode_body(&frame.body, &mut out);
        out
    }

    /// Reads a head. Every field is checked for meaning; whether it fits the session is for the
    /// caller, who knows the session.
    ///
    /// # Errors
    /// [`FrameError`] names the first field that is wrong.
    pub fn decode(bytes: &[u8; FRAME_BYTES]) -> Result<Head, FrameError> {
        let magic = u32_at(bytes, 0);
        if magic != MAGIC {
            return Err(FrameError::Magic(magic));
        }
        let version = bytes[4];
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let kind = bytes[5];
        let tail_bytes = usize::from(u16_at(bytes, 6));
        check_tail_bytes(tail_bytes)?;
        if tail_bytes > 0 && !matches!(kind, KIND_REQUEST | KIND_REPLY) {
            return Err(TailError::NotHere(kind).into());
        }
        let frame = Frame {
            session: SessionId(u64_at(bytes, 8)),
            generation: Generation(u32_at(bytes, 16)),
            slot: SlotIndex(u32_at(bytes, 20)),
            request: u64_at(bytes, 24),
            payload_bytes: u64_at(bytes, 32),
            body: decode_body(kind, bytes)?,
        };
        Ok(Head { frame, tail_bytes })
    }
}

fn encode_body(body: &Body, out: &mut [u8; FRAME_BYTES]) -> u8 {
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
            out[56..72].copy_from_slice(&request.trace.0);
            KIND_REQUEST
        }
        Body::Reply(reply) => {
            out[40..42].copy_from_slice(&reply.status.to_wire().to_le_bytes());
            if let Some(staged) = reply.times.staged() {
                out[42..44].copy_from_slice(&staged.to_wire());
            }
            let durations = WIRE_STAGES.iter().map(|&stage| reply.times.of(stage));
            let durations = std::iter::once(reply.reply_ns_previous).chain(durations);
            let (places, _) = out[DURATIONS_AT..].as_chunks_mut::<DURATION_BYTES>();
            for (place, ns) in places.iter_mut().zip(durations) {
                *place = write_duration(ns);
            }
            KIND_REPLY
        }
        Body::Bye { status } => {
            out[40..42].copy_from_slice(&status.to_wire().to_le_bytes());
            KIND_BYE
        }
    }
}

fn decode_body(kind: u8, bytes: &[u8; FRAME_BYTES]) -> Result<Body, FrameError> {
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
        kind => Err(FrameError::Unknown { what: "frame kind", number: u16::from(kind) }),
    }
}

fn decode_request(bytes: &[u8; FRAME_BYTES]) -> Result<Request, FrameError> {
    zeros(&bytes[43..44])?;
    zeros(&bytes[72..])?;
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
    let mut trace = TraceId::NONE;
    trace.0.copy_from_slice(&bytes[56..72]);
    Ok(Request { kind, batch: u32_at(bytes, 44), priority: bytes[42], trace })
}

fn format_from(number: u8) -> Result<PixelFormat, FrameError> {
    let known = PixelFormat::ALL.get(usize::from(number)).copied();
    known.ok_or(FrameError::Unknown { what: "pixel format", number: u16::from(number) })
}

fn decode_reply(bytes: &[u8; FRAME_BYTES]) -> Result<Reply, FrameError> {
    let staged = match [bytes[42], bytes[43]] {
        [0, 0] => None,
        pair => {
            let number = u16::from_le_bytes(pair);
            let unknown = FrameError::Unknown { what: "memory", number };
            Some(Staged::from_wire(pair).ok_or(unknown)?)
        }
    };
    let (durations, _) = bytes[DURATIONS_AT..].as_chunks::<DURATION_BYTES>();
    let mut durations = durations.iter().map(|&bytes| read_duration(bytes));
    let reply_ns_previous = durations.next().flatten();
    let mut times = StageTimes::NONE;
    times.set_staged(staged);
    for (&stage, ns) in WIRE_STAGES.iter().zip(durations) {
        times.put(stage, ns);
    }
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
