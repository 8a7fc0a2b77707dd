//! The connection to a server's control plane: where it goes, and its HTTP/2 settings.

use std::time::Duration;

use ferry_proto::channel::WINDOW_BYTES;
use tonic::transport::{Endpoint, Uri};

use crate::error::Error;

/// How often a server that is silent during a call is asked whether it is there. A host that lost
/// its power says nothing, and TCP alone notices after a quarter of an hour.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// How long it may take to say so.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How long a connection may take to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// A connection to the server, not made yet, with the windows that tensors need.
pub(crate) fn endpoint(server: &str) -> Result<Endpoint, Error> {
    let address = address(server)
        .map_err(|why| Error::Address { server: server.to_owned(), why: why.to_owned() })?;
    Ok(Endpoint::from(address)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(ASK_EVERY)
        .keep_alive_timeout(ANSWER_WITHIN)
        .connect_timeout(CONNECT_WITHIN))
}

/// `HOST:PORT`, with `http://` before it or not. All else is refused here: a connection would
/// leave out what it does not understand, and speak plain HTTP/2 with the key of the tenant in it.
fn address(server: &str) -> Result<Uri, &'static str> {
    const WANTED: &str = "write HOST:PORT or http://HOST:PORT";
    let (scheme, rest) = server.split_once("://").unwrap_or(("http", server));
    if scheme.eq_ignore_ascii_case("https") {
        return Err("there is no TLS yet, and nothing was sent in plain text: write \
                    http://HOST:PORT where the network may be trusted");
    }
    if !scheme.eq_ignore_ascii_case("http") {
        return Err("its scheme is not known: write HOST:PORT or http://HOST:PORT");
    }
    let address: Uri = format!("http://{rest}").parse().map_err(|_not_a_uri| WANTED)?;
    let is_alone = matches!(address.path(), "" | "/") && address.query().is_none();
    let authority = address.authority().map_or("", |it| it.as_str());
    let host = address.host().unwrap_or_default();
    // What stands behind the host is a port, and nothing stands before it.
    let is_whole = authority == host || address.port_u16().is_some() && !authority.contains('@');
    if is_alone && !host.is_empty() && is_whole { Ok(address) } else { Err(WANTED) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_host_and_a_port() {
        for good in
            ["127.0.0.1:7077", "http://127.0.0.1:7077", "HTTP://127.0.0.1:7077/", "[::1]:7077"]
        {
            let uri = address(good).unwrap();
            let port = uri.port_u16();
            assert_eq!((uri.scheme_str(), port), (Some("http"), Some(7077)), "{good}");
        }
        assert_eq!(address("gpu-box").unwrap().host(), Some("gpu-box"));
        for bad in ["", ":7077", "http://", "a b:1", "host:port", "host:1/path", "host:1?key=k"] {
            assert!(address(bad).unwrap_err().contains("HOST:PORT"), "{bad}");
        }
        assert!(address("user@host:1").is_err(), "a name would silently not be sent");
    }

    #[test]
    fn no_other_scheme_is_taken_for_plain_http() {
        for scheme in ["https", "HTTPS", "grpc", "grpcs", "unix", ""] {
            let error = endpoint(&format!("{scheme}://127.0.0.1:7077")).unwrap_err().to_string();
            assert!(error.contains("http://HOST:PORT"), "{error}");
        }
        let error = endpoint("https://host:1").unwrap_err().to_string();
        assert!(error.contains("TLS") && error.contains("https://host:1"), "{error}");
    }
}
