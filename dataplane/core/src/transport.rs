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
    /// Plain TCP.
    Tcp,
    /// ZeroMQ ROUTER/DEALER.
    Zmq,
    /// Inline in gRPC.
    Grpc,
    /// RDMA into host memory.
    Rdma,
    /// RDMA into GPU memory.
    Gdr,
}

impl Transport {
    /// Every transport, fastest first where hosts have it.
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

    /// The name on the command line and in SQL.
    pub const fn name(self) -> &'static str {
        match self {
            Transport::Local => "local",
            Transport::Shm => "shm",
            Transport::CudaIpc => "cuda-ipc",
            Transport::Tcp => "tcp",
            Transport::Zmq => "zmq",
            Transport::Grpc => "grpc",
            Transport::Rdma => "rdma",
            Transport::Gdr => "gdr",
        }
    }

    /// The link half.
    pub const fn link(self) -> LinkKind {
        match self {
            Transport::Local => LinkKind::Local,
            Transport::Shm | Transport::CudaIpc => LinkKind::Shm,
            Transport::Tcp => LinkKind::Tcp,
            Transport::Zmq => LinkKind::Zmq,
            Transport::Grpc => LinkKind::Grpc,
            Transport::Rdma | Transport::Gdr => LinkKind::Rdma,
        }
    }

    /// Whether tensors land in device memory.
    pub const fn is_device(self) -> bool {
        matches!(self, Transport::CudaIpc | Transport::Gdr)
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
