//! Bodies that are compressed: read within the bounds that others have, and written as clients ask.

use std::io::{Read, Write};

use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use bytes::Bytes;
use flate2::Compression;
use flate2::bufread::{MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};

use super::body::{Hold, too_long};
use super::refused::Refused;

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// As it is.
    Identity,
    Gzip,
    /// zlib, as RFC 9110 has it.
    Deflate,
}

impl Coding {
    fn of(name: &str) -> Option<Coding> {
        match name.trim().to_ascii_lowercase().as_str() {
            "identity" | "" => Some(Coding::Identity),
            "gzip" | "x-gzip" => Some(Coding::Gzip),
            "deflate" => Some(Coding::Deflate),
            _ => None,
        }
    }

    /// Its name in headers.
    pub(super) fn name(self) -> &'static str {
        match self {
            Coding::Identity => "identity",
            Coding::Gzip => "gzip",
            Coding::Deflate => "deflate",
        }
    }

    /// How the body of a request is written.
    ///
    /// # Errors
    /// [`Refused`] names one that is not known here.
    pub(super) fn of_request(headers: &HeaderMap) -> Result<Coding, Refused> {
        let Some(name) = text(headers, &header::CONTENT_ENCODING) else {
            return Ok(Coding::Identity);
        };
        Coding::of(name).ok_or_else(|| {
            let why =
                format!("Content-Encoding {name:?} is not served; there are gzip and deflate");
            Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, why)
        })
    }

    /// How the client wants its answer: the one that it likes best, and of those that it likes as
    /// much the first.
    pub(super) fn of_answer(headers: &HeaderMap) -> Coding {
        let liked = text(headers, &header::ACCEPT_ENCODING).unwrap_or_default().split(',');
        let liked = liked.filter_map(|part| {
            let (name, quality) = part.split_once(';').unwrap_or((part, ""));
            let quality = quality.trim().strip_prefix("q=").unwrap_or("1");
            // In thousandths, of which RFC 9110 has no smaller ones.
            let quality = quality.trim().parse().map_or(0.0, |it: f32| it.clamp(0.0, 1.0));
            let thousandths = (quality * 1000.0).round();
            Some((Coding::of(name).filter(|_| !name.trim().is_empty())?, thousandths))
        });
        let best = liked
            .filter(|(_, much)| *much > 0.0)
            .reduce(|best, next| if next.1 > best.1 { next } else { best });
        best.map_or(Coding::Identity, |(coding, _)| coding)
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// What was compressed, of at most `limit` bytes. What it takes is held before it is there.
///
/// # Errors
/// [`Refused`] if it is longer, or not what `coding` says.
pub(super) fn inflate(
    packed: &[u8],
    coding: Coding,
    limit: usize,
    hold: &mut Hold,
) -> Result<Vec<u8>, Refused> {
    let bad = |why: &dyn std::fmt::Display| {
        Refused::bad(format!("the body is no {}: {why}", coding.name()))
    };
    let mut plain = Vec::new();
    let mut zlib = ZlibDecoder::new(packed);
    let mut gzip = MultiGzDecoder::new(packed);
    let reader: &mut dyn Read = if coding == Coding::Gzip { &mut gzip } else { &mut zlib };
    loop {
        let needed = plain.len() + 1;
        // One more than there may be, which tells that there are too many.
        hold.grow(&mut plain, needed, limit + 1)?;
        let room = plain.capacity() - plain.len();
        let read = reader.take(room as u64).read_to_end(&mut plain).map_err(|error| bad(&error))?;
        if plain.len() > limit {
            return Err(too_long(hold, plain.len(), limit));
        }
        if read < room {
            break;
        }
    }
    if coding == Coding::Deflate && zlib.total_in() < packed.len() as u64 {
        return Err(bad(&"there is more behind its end"));
    }
    Ok(plain)
}

/// Compresses an answer; `None` if its coding is none.
///
/// # Errors
/// [`Refused`] if there is no room for it.
pub(super) fn deflate(
    parts: &[Bytes],
    coding: Coding,
    hold: &mut Hold,
) -> Result<Vec<u8>, Refused> {
    let all = parts.iter().map(Bytes::len).sum::<usize>();
    let mut packed = Vec::new();
    // Never much longer than what is compressed, so that it does not grow beyond this.
    let most = all.saturating_add(all >> 8).saturating_add(1 << 10);
    hold.grow(&mut packed, most, most)?;
    // Above the fastest level, tensors of floats take longer and hardly become shorter.
    let level = Compression::fast();
    let written = match coding {
        Coding::Gzip => write(GzEncoder::new(packed, level), parts).and_then(GzEncoder::finish),
        _ => write(ZlibEncoder::new(packed, level), parts).and_then(ZlibEncoder::finish),
    };
    written.map_err(|error| Refused::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

fn write<W: Write>(mut to: W, parts: &[Bytes]) -> std::io::Result<W> {
    for part in parts {
        to.write_all(part)?;
    }
    Ok(to)
}
