//! The names that people use for transports, and the two axes behind them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How a doorbell and bytes reach the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkKind {
    /// Both ends in one process.
    Local,
    /// Shared memory of one host.
    Shm,
    /// Plain TCP, length-prefixed.
    Tcp,
    /// ZeroMQ over TCP.
    Zmq,
    /// Tensors inside a unary gRPC call: the baseline, not a data plane.
    Grpc,
    /// RDMA verbs.
    Rdma,
}

/// A transport as people name it: a link times a placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// No network: the lower bound.
    Local,
    /// Shared memory, doorbell ring.
    Shm,
    /// Shared-memory doorbell, tensors in GPU memory.
    CudaIpc,
    /// RDMA into GPU memory.
    Gdr,
    /// RDMA into host memory.
    Rdma,
    /// Plain TCP.
    Tcp,
    /// ZeroMQ ROUTER/DEALER.
    Zmq,
    /// Inline in gRPC.
    Grpc,
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

const fn facts(
    name: &'static str,
    link: LinkKind,
    slots: Slots,
    rank: Option<u8>,
) -> TransportFacts {
    let needs_attach = matches!(link, LinkKind::Rdma);
    TransportFacts { name, link, slots, needs_attach, rank }
}

impl Transport {
    /// Every transport, in the order of their declaration.
    pub const ALL: [Transport; 8] = [
        Transport::Local,
        Transport::Shm,
        Transport::CudaIpc,
        Transport::Gdr,
        Transport::Rdma,
        Transport::Tcp,
        Transport::Zmq,
        Transport::Grpc,
    ];

    /// The rows, in the same order.
    const FACTS: [TransportFacts; 8] = [
        facts("local", LinkKind::Local, Slots::Either, None),
        facts("shm", LinkKind::Shm, Slots::Host, Some(1)),
        facts("cuda-ipc", LinkKind::Shm, Slots::Device, Some(0)),
        facts("gdr", LinkKind::Rdma, Slots::Device, Some(2)),
        facts("rdma", LinkKind::Rdma, Slots::Host, Some(3)),
        facts("tcp", LinkKind::Tcp, Slots::Host, Some(4)),
        facts("zmq", LinkKind::Zmq, Slots::Host, Some(5)),
        facts("grpc", LinkKind::Grpc, Slots::Message, Some(6)),
    ];

    /// What is known of it.
    pub const fn facts(self) -> &'static TransportFacts {
        &Transport::FACTS[self as usize]
    }

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
    /// The name in SQL.
    pub const fn name(self) -> &'static str {
        match self {
            LinkKind::Local => "local",
            LinkKind::Shm => "shm",
            LinkKind::Tcp => "tcp",
            LinkKind::Zmq => "zmq",
            LinkKind::Grpc => "grpc",
            LinkKind::Rdma => "rdma",
        }
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
        Transport::ALL.into_iter().find(|transport| transport.name() == name).ok_or_else(|| {
            UnknownName {
                what: "transport",
                given: name.to_owned(),
                known: Transport::ALL.map(Transport::name).join(", "),
            }
        })
    }
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
        WaitPolicy::ALL.into_iter().find(|policy| policy.name() == name).ok_or_else(|| {
            UnknownName {
                what: "wait policy",
                given: name.to_owned(),
                known: WaitPolicy::ALL.map(WaitPolicy::name).join(", "),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_transport_has_its_own_row() {
        for (at, transport) in Transport::ALL.into_iter().enumerate() {
            assert_eq!(transport as usize, at, "{transport}");
        }
        let mut ranks: Vec<u8> = Transport::FACTS.iter().filter_map(|it| it.rank).collect();
        ranks.sort_unstable();
        ranks.dedup();
        assert_eq!(ranks.len(), Transport::ALL.len() - 1, "local alone has none");
        assert_eq!(Transport::Gdr.name(), "gdr");
        assert_eq!(Transport::CudaIpc.link(), LinkKind::Shm);
    }

    #[test]
    fn names_parse_back_and_others_are_told_the_choice() {
        for transport in Transport::ALL {
            assert_eq!(transport.name().parse(), Ok(transport));
        }
        for policy in WaitPolicy::ALL {
            assert_eq!(policy.name().parse(), Ok(policy));
        }
        let error = "udp".parse::<Transport>().expect_err("unknown").to_string();
        assert!(error.contains("udp") && error.contains("cuda-ipc"), "{error}");
    }
}
