//! The names that people use for transports, and the two axes behind them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Makes an enum and what is known of each of its values, a row each: neither can be without the
/// other.
macro_rules! table {
    (
        $(#[$about:meta])*
        $name:ident: $facts:ident;
        $($(#[$doc:meta])* $value:ident = $row:expr;)*
    ) => {
        $(#[$about])*
        pub enum $name {
            $($(#[$doc])* $value,)*
        }

        impl $name {
            /// Every one, in the order of their declaration.
            pub const ALL: [$name; [$($name::$value),*].len()] = [$($name::$value),*];

            /// What is known of it.
            pub const fn facts(self) -> &'static $facts {
                match self {
                    $($name::$value => const { &$row },)*
                }
            }
        }
    };
}

/// What is known of a link.
#[derive(Clone, Copy, Debug)]
pub struct LinkFacts {
    /// The name in SQL, on the command line and on the wire.
    pub name: &'static str,
}

const fn link(name: &'static str) -> LinkFacts {
    LinkFacts { name }
}

table! {
    /// How a doorbell and bytes reach the peer.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    LinkKind: LinkFacts;
    /// Both ends in one process.
    Local = link("local");
    /// Shared memory of one host.
    Shm = link("shm");
    /// Plain TCP, length-prefixed.
    Tcp = link("tcp");
    /// ZeroMQ over TCP.
    Zmq = link("zmq");
    /// Tensors inside a unary gRPC call: the baseline, not a data plane.
    Grpc = link("grpc");
    /// RDMA verbs.
    Rdma = link("rdma");
}

/// Where the tensors of a transport lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slots {
    /// In memory of the host.
    Host,
    /// In memory of the device that runs the model.
    Device,
    /// In either, as the client asks.
    Either,
    /// In the message of a call, wherever that lies.
    Message,
}

/// What is known of a transport. One row for each: nothing else has to know their names.
#[derive(Clone, Copy, Debug)]
pub struct TransportFacts {
    /// The name on the command line and in SQL.
    pub name: &'static str,
    /// The link half.
    pub link: LinkKind,
    /// The placement half.
    pub slots: Slots,
    /// Its clients tell the server of their end before a byte can flow (`Sessions.Attach`).
    pub needs_attach: bool,
    /// The place in the order in which AUTO tries them; `None`: only by name.
    pub rank: Option<u8>,
}

const fn transport(
    name: &'static str,
    link: LinkKind,
    slots: Slots,
    rank: Option<u8>,
) -> TransportFacts {
    let needs_attach = matches!(link, LinkKind::Rdma);
    TransportFacts { name, link, slots, needs_attach, rank }
}

table! {
    /// A transport as people name it: a link times a placement.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    Transport: TransportFacts;
    /// No network: the lower bound.
    Local = transport("local", LinkKind::Local, Slots::Either, None);
    /// Shared memory, doorbell ring.
    Shm = transport("shm", LinkKind::Shm, Slots::Host, Some(1));
    /// Shared-memory doorbell, tensors in GPU memory.
    CudaIpc = transport("cuda-ipc", LinkKind::Shm, Slots::Device, Some(0));
    /// RDMA into GPU memory.
    Gdr = transport("gdr", LinkKind::Rdma, Slots::Device, Some(2));
    /// RDMA into host memory.
    Rdma = transport("rdma", LinkKind::Rdma, Slots::Host, Some(3));
    /// Plain TCP.
    Tcp = transport("tcp", LinkKind::Tcp, Slots::Host, Some(4));
    /// ZeroMQ ROUTER/DEALER.
    Zmq = transport("zmq", LinkKind::Zmq, Slots::Host, Some(5));
    /// Inline in gRPC.
    Grpc = transport("grpc", LinkKind::Grpc, Slots::Message, Some(6));
}

impl Transport {
    /// The name on the command line and in SQL.
    pub const fn name(self) -> &'static str {
        self.facts().name
    }

    /// The link half.
    pub const fn link(self) -> LinkKind {
        self.facts().link
    }

    /// Whether tensors always lie in device memory.
    pub const fn is_device(self) -> bool {
        matches!(self.facts().slots, Slots::Device)
    }
}

impl LinkKind {
    /// The name in SQL, on the command line and on the wire.
    pub const fn name(self) -> &'static str {
        self.facts().name
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for LinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is not one of a known few.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} {given:?}; known are {known}")]
pub struct UnknownName {
    /// What was being named.
    pub what: &'static str,
    /// The name given.
    pub given: String,
    /// The names there are.
    pub known: String,
}

impl FromStr for Transport {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        named("transport", name, Transport::ALL, Transport::name)
    }
}

impl FromStr for LinkKind {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        named("link", name, LinkKind::ALL, LinkKind::name)
    }
}

fn named<T: Copy, const N: usize>(
    what: &'static str,
    given: &str,
    all: [T; N],
    name: fn(T) -> &'static str,
) -> Result<T, UnknownName> {
    let unknown = || UnknownName { what, given: given.to_owned(), known: all.map(name).join(", ") };
    all.into_iter().find(|it| name(*it) == given).ok_or_else(unknown)
}

/// How an end waits for the other one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WaitPolicy {
    /// Polls without sleeping: least latency, one core busy.
    Spin,
    /// Polls for a bounded time, then sleeps.
    #[default]
    Adaptive,
    /// Sleeps at once: least CPU.
    Block,
}

impl WaitPolicy {
    /// Every policy, most eager first.
    pub const ALL: [WaitPolicy; 3] = [WaitPolicy::Spin, WaitPolicy::Adaptive, WaitPolicy::Block];

    /// The name on the command line and in SQL.
    pub const fn name(self) -> &'static str {
        match self {
            WaitPolicy::Spin => "spin",
            WaitPolicy::Adaptive => "adaptive",
            WaitPolicy::Block => "block",
        }
    }
}

impl fmt::Display for WaitPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for WaitPolicy {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        named("wait policy", name, WaitPolicy::ALL, WaitPolicy::name)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_transports_have_the_same_place_in_the_order_of_auto() {
        let ranks: Vec<u8> = Transport::ALL.into_iter().filter_map(|it| it.facts().rank).collect();
        let unlike: BTreeSet<u8> = ranks.iter().copied().collect();
        assert_eq!(unlike.len(), ranks.len(), "{ranks:?}");
        assert_eq!(Transport::Local.facts().rank, None, "no client can have it");
    }

    #[test]
    fn each_link_carries_a_transport_of_its_name() {
        for link in LinkKind::ALL {
            assert_eq!(link.name().parse::<Transport>().map(Transport::link), Ok(link));
        }
    }

    #[test]
    fn names_parse_back_and_others_are_told_the_choice() {
        for transport in Transport::ALL {
            assert_eq!(transport.name().parse(), Ok(transport));
        }
        for link in LinkKind::ALL {
            assert_eq!(link.name().parse(), Ok(link));
        }
        for policy in WaitPolicy::ALL {
            assert_eq!(policy.name().parse(), Ok(policy));
        }
        let error = "udp".parse::<Transport>().expect_err("unknown").to_string();
        assert!(error.contains("udp") && error.contains("cuda-ipc"), "{error}");
    }
}
