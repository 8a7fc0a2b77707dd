//! When a call came, from where, and until when its caller waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_memory::PeerId;
use tonic::Request;
use tonic::metadata::MetadataMap;

use super::front::Peer;
use crate::serving::call::Came;

/// The header in which a client of gRPC says for how long it waits.
const TIMEOUT_HEADER: &str = "grpc-timeout";

/// Longest number in it, as gRPC has it.
const DIGITS_MAX: usize = 8;

/// What is known of a call whose message has just come.
pub(super) fn of<T>(request: &Request<T>) -> Came {
    let seen = Instant::now();
    let peer = request.extensions().get::<Arc<Peer>>();
    let timeout = timeout(request.metadata());
    Came {
        seen,
        peer: peer.map_or(PeerId(0), |peer| peer.id()),
        deadline: timeout.and_then(|timeout| seen.checked_add(timeout)),
    }
}

/// For how long the client waits. A header without a meaning is none, as for the transport, which
/// ends the call by it.
fn timeout(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get(TIMEOUT_HEADER)?.to_str().ok()?;
    let (last, _) = text.char_indices().next_back()?;
    let (digits, unit) = text.split_at(last);
    let plain = digits.len() <= DIGITS_MAX && digits.bytes().all(|it| it.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| plain)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_read_as_grpc_has_it() {
        let of = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert(TIMEOUT_HEADER, text.parse().unwrap());
            timeout(&metadata)
        };
        assert_eq!(of("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(of("3M"), Some(Duration::from_secs(180)));
        assert_eq!(of("4S"), Some(Duration::from_secs(4)));
        assert_eq!(of("5m"), Some(Duration::from_millis(5)));
        assert_eq!(of("99999999u"), Some(Duration::from_micros(99_999_999)));
        assert_eq!(of("7n"), Some(Duration::from_nanos(7)));
        for none in ["", "m", "5", "5s", "-5m", "+5m", "123456789m", "5 m", "5\u{e9}"] {
            let Ok(text) = none.parse() else { continue };
            let mut metadata = MetadataMap::new();
            metadata.insert(TIMEOUT_HEADER, text);
            assert_eq!(timeout(&metadata), None, "{none}");
        }
        assert_eq!(timeout(&MetadataMap::new()), None);
    }
}
