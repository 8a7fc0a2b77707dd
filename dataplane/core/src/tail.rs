//! What follows the head of a frame where there is something to say beside it: records, each with a
//! type and a length, so that a peer skips what it does not know.
//!
//! `docs/WIRE.md` has the table.

use std::num::NonZeroU32;

use crate::shapes::{OutputShapes, ShapesError};
use crate::stage::{DURATION_BYTES, Stage, StageTimes, read_duration, write_duration};

/// Longest tail in bytes: with the head, 2 KiB.
pub const TAIL_BYTES_MAX: usize = 1_920;
/// A tail and each of its records are multiples of this many bytes long.
pub const TAIL_ALIGN_BYTES: usize = 8;
/// Most relays that one request may pass: two would do for every network that we know.
pub const HOPS_MAX: usize = 8;

/// Type and length in front of each record's body.
const RECORD_HEAD_BYTES: usize = 4;
const TYPE_OUTPUTS: u16 = 1;
const TYPE_HOPS: u16 = 2;
/// 3 is kept for flags of a trace.
const TYPE_BATCH: u16 = 4;

const HOP_BYTES: usize = 8 + 3 * DURATION_BYTES;
const BATCH_BYTES: usize = 4 + 2 * DURATION_BYTES;
/// What the records of a tail take at most; 16 bytes are kept for flags of a trace.
const _: () = assert!(
    record_bytes(crate::shapes::OUTPUT_SHAPES_BYTES_MAX)
        + record_bytes(HOPS_MAX * HOP_BYTES)
        + 16
        + record_bytes(BATCH_BYTES)
        <= TAIL_BYTES_MAX
);

const fn record_bytes(body: usize) -> usize {
    (RECORD_HEAD_BYTES + body).next_multiple_of(TAIL_ALIGN_BYTES)
}

/// What a frame says behind its head. Mostly nothing, and then nothing is sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// The shapes of a reply's outputs; `None` where they are those that the session agreed.
    pub outputs: Option<Box<OutputShapes>>,
    /// The relays that the reply passed, the one next to the server first.
    pub hops: Hops,
    /// Of a reply to a request that was taken into a batch.
    pub batch: Option<Box<InBatch>>,
}

/// What is said of a request that was taken into a batch, beside what is said of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InBatch {
    /// How many rows the batch had; `None` if the request ran alone after all.
    pub rows: Option<NonZeroU32>,
    /// [`Stage::Gather`].
    pub gather_ns: Option<u64>,
    /// [`Stage::Scatter`].
    pub scatter_ns: Option<u64>,
}

impl InBatch {
    /// What `times` say of it; `None` if nothing.
    pub fn of(times: &StageTimes) -> Option<InBatch> {
        let rows = times.batch_rows();
        let [gather_ns, scatter_ns] = [Stage::Gather, Stage::Scatter].map(|it| times.of(it));
        let any = rows.is_some() || gather_ns.is_some() || scatter_ns.is_some();
        any.then_some(InBatch { rows, gather_ns, scatter_ns })
    }

    /// Adds it to `times`.
    pub fn note(&self, times: &mut StageTimes) {
        times.set_batch_rows(self.rows);
        times.put(Stage::Gather, self.gather_ns);
        times.put(Stage::Scatter, self.scatter_ns);
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.rows.map_or(0, NonZeroU32::get).to_le_bytes());
        for ns in [self.gather_ns, self.scatter_ns] {
            out.extend_from_slice(&write_duration(ns));
        }
    }

    fn decode(bytes: &[u8]) -> Result<InBatch, TailError> {
        let wrong = |what| TailError::Record { kind: TYPE_BATCH, what };
        let length = || wrong("has another length than rows and two durations");
        let (rows, durations) = bytes.split_first_chunk::<4>().ok_or_else(length)?;
        let (&[gather, scatter], []) = durations.as_chunks::<DURATION_BYTES>() else {
            return Err(length());
        };
        let rows = NonZeroU32::new(u32::from_le_bytes(*rows));
        let [gather_ns, scatter_ns] = [gather, scatter].map(read_duration);
        if rows.is_none() && gather_ns.is_none() && scatter_ns.is_none() {
            return Err(wrong("says nothing"));
        }
        Ok(InBatch { rows, gather_ns, scatter_ns })
    }
}

/// One relay between client and server, with the time that the reply owes to it. Durations only:
/// clocks of two hosts are never subtracted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Names the relay.
    pub relay: u64,
    /// Request seen → handed on.
    pub out_ns: Option<u64>,
    /// Request handed on → its reply visible. `None` where none came.
    pub away_ns: Option<u64>,
    /// Reply visible → its submit begins.
    pub back_ns: Option<u64>,
}

/// At most [`HOPS_MAX`] hops.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hops(Vec<Hop>);

/// Why bytes are not a tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TailError {
    /// Its length cannot be.
    #[error(
        "a tail of {0} bytes: at most {TAIL_BYTES_MAX} are allowed, in steps of {TAIL_ALIGN_BYTES}"
    )]
    Length(usize),
    /// More or less came than the head said.
    #[error("a tail of {came} bytes where the head says {said}")]
    Differs {
        /// Length in the head.
        said: usize,
        /// Length of what came.
        came: usize,
    },
    /// This kind of frame has none.
    #[error("a frame of kind {0} has no tail")]
    NotHere(u8),
    /// A record makes no sense.
    #[error("record {kind} of the tail: {what}")]
    Record {
        /// Its type.
        kind: u16,
        /// What is wrong.
        what: &'static str,
    },
    /// The shapes in it make no sense.
    #[error(transparent)]
    Shapes(#[from] ShapesError),
    /// One relay too many.
    #[error("a request passed {HOPS_MAX} relays already: do they send it in a circle?")]
    Hops,
}

impl Hops {
    /// Adds the next relay on the way back to the client.
    ///
    /// # Errors
    /// [`TailError::Hops`] if there are as many as may be.
    pub fn push(&mut self, hop: Hop) -> Result<(), TailError> {
        if self.0.len() >= HOPS_MAX {
            return Err(TailError::Hops);
        }
        self.0.push(hop);
        Ok(())
    }

    /// The relays, the one next to the server first.
    pub fn as_slice(&self) -> &[Hop] {
        &self.0
    }
}

impl Tail {
    /// Nothing to say.
    pub const NONE: Tail = Tail { outputs: None, hops: Hops(Vec::new()), batch: None };

    /// A tail with shapes, if there are any.
    pub fn with_outputs(outputs: Option<Box<OutputShapes>>) -> Tail {
        Tail { outputs, ..Tail::NONE }
    }

    /// Writes the records: nothing, without an allocation, where there is nothing to say. At most
    /// [`TAIL_BYTES_MAX`] bytes: the parts of a tail are bounded, each by its own type.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(outputs) = &self.outputs {
            put_record(&mut out, TYPE_OUTPUTS, |out| outputs.encode(out));
        }
        if !self.hops.0.is_empty() {
            put_record(&mut out, TYPE_HOPS, |out| self.hops.encode(out));
        }
        if let Some(batch) = &self.batch {
            put_record(&mut out, TYPE_BATCH, |out| batch.encode(out));
        }
        out
    }

    /// Reads the records. Types that this build does not know are skipped, whatever they hold.
    ///
    /// # Errors
    /// [`TailError`] names the first thing that is wrong.
    pub fn decode(mut bytes: &[u8]) -> Result<Tail, TailError> {
        check_tail_bytes(bytes.len())?;
        let mut tail = Tail::NONE;
        let mut last = 0;
        while !bytes.is_empty() {
            let (kind, body) = take_record(&mut bytes)?;
            if kind <= last {
                return Err(TailError::Record { kind, what: "types must rise" });
            }
            last = kind;
            match kind {
                TYPE_OUTPUTS => tail.outputs = Some(Box::new(OutputShapes::decode(body)?)),
                TYPE_HOPS => tail.hops = Hops::decode(body)?,
                TYPE_BATCH => tail.batch = Some(Box::new(InBatch::decode(body)?)),
                _ => {}
            }
        }
        Ok(tail)
    }
}

/// Whether a tail can be so long.
///
/// # Errors
/// [`TailError::Length`] if not.
pub fn check_tail_bytes(bytes: usize) -> Result<(), TailError> {
    if bytes > TAIL_BYTES_MAX || !bytes.is_multiple_of(TAIL_ALIGN_BYTES) {
        return Err(TailError::Length(bytes));
    }
    Ok(())
}

fn put_record(out: &mut Vec<u8>, kind: u16, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    body(out);
    // No record is longer than a tail, which is shorter than 64 KiB.
    let bytes = u16::try_from(out.len() - start - RECORD_HEAD_BYTES).unwrap_or(u16::MAX);
    out[start + 2..start + RECORD_HEAD_BYTES].copy_from_slice(&bytes.to_le_bytes());
    out.resize(out.len().next_multiple_of(TAIL_ALIGN_BYTES), 0);
}

fn take_record<'a>(bytes: &mut &'a [u8]) -> Result<(u16, &'a [u8]), TailError> {
    let wrong = |kind, what| TailError::Record { kind, what };
    let (head, behind) =
        bytes.split_first_chunk::<RECORD_HEAD_BYTES>().ok_or(wrong(0, "is cut off"))?;
    let kind = u16::from_le_bytes([head[0], head[1]]);
    let length = usize::from(u16::from_le_bytes([head[2], head[3]]));
    let (body, behind) = behind.split_at_checked(length).ok_or(wrong(kind, "is cut off"))?;
    let padding = record_bytes(length) - RECORD_HEAD_BYTES - length;
    let (padding, behind) =
        behind.split_at_checked(padding).ok_or(wrong(kind, "its padding is cut off"))?;
    if padding.iter().any(|&byte| byte != 0) {
        return Err(wrong(kind, "its padding is not zero"));
    }
    *bytes = behind;
    Ok((kind, body))
}

impl Hops {
    fn encode(&self, out: &mut Vec<u8>) {
        for hop in &self.0 {
            out.extend_from_slice(&hop.relay.to_le_bytes());
            for ns in [hop.out_ns, hop.away_ns, hop.back_ns] {
                out.extend_from_slice(&write_duration(ns));
            }
        }
    }

    fn decode(bytes: &[u8]) -> Result<Hops, TailError> {
        let wrong = |what| TailError::Record { kind: TYPE_HOPS, what };
        let (hops, rest) = bytes.as_chunks::<HOP_BYTES>();
        if !rest.is_empty() || hops.is_empty() {
            return Err(wrong("is no whole number of hops"));
        }
        if hops.len() > HOPS_MAX {
            return Err(wrong("has more hops than a request may pass"));
        }
        let read = |hop: &[u8; HOP_BYTES]| {
            let (relay, durations) = hop.split_first_chunk::<8>()?;
            let (durations, _) = durations.as_chunks::<DURATION_BYTES>();
            let &[out, away, back] = durations else { return None };
            let [out_ns, away_ns, back_ns] = [out, away, back].map(read_duration);
            Some(Hop { relay: u64::from_le_bytes(*relay), out_ns, away_ns, back_ns })
        };
        let hops = hops.iter().map(read).collect::<Option<Vec<Hop>>>();
        hops.map(Hops).ok_or(wrong("is no whole number of hops"))
    }
}

#[cfg(test)]
mod tests;
