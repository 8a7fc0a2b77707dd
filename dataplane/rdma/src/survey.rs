//! What RDMA has and lacks on this machine, for people: what `ferry doctor` prints.

use rustix::process::{Resource, getrlimit};

use crate::gids::Rank;
use crate::options::RdmaOptions;
use crate::port::Port;
use crate::probe::{WindowProbe, probe};
use crate::verbs::{Device, LinkLayer};

/// Memory that 16 sessions of two 602,112-byte slots pin, in bytes.
const LOCKED_BYTES_MIN: u64 = 64 << 20;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What.
    pub name: String,
    /// Whether it can be used.
    pub usable: bool,
    /// What was found.
    pub detail: String,
    /// What to do where it cannot; empty where it can.
    pub fix: String,
}

fn good(name: impl Into<String>, detail: impl Into<String>) -> Found {
    Found { name: name.into(), usable: true, detail: detail.into(), fix: String::new() }
}

fn bad(name: impl Into<String>, detail: impl Into<String>, fix: impl Into<String>) -> Found {
    Found { name: name.into(), usable: false, detail: detail.into(), fix: fix.into() }
}

/// Looks at everything that RDMA needs here. Opens devices, and writes between two queue pairs of
/// the one that would be used, to find out what its memory windows are worth.
pub fn survey(options: &RdmaOptions) -> Vec<Found> {
    let names = match Device::names() {
        Ok(names) => names,
        Err(error) => {
            let (detail, fix) = match error.error.raw_os_error() {
                Some(95) => {
                    ("libibverbs.so.1 is not here", "apt install libibverbs1 ibverbs-providers")
                }
                Some(38) => ("the kernel has no RDMA support loaded", "modprobe ib_uverbs"),
                _ => ("libibverbs cannot list devices", "see the system's log"),
            };
            return vec![bad("library", format!("{detail} ({error})"), fix), locked_memory()];
        }
    };
    let mut all = vec![good("library", "libibverbs.so.1")];
    if names.is_empty() {
        let fix = "with a card: install its driver (rdma-core); with any Ethernet card, Soft-RoCE: \
                   modprobe rdma_rxe; rdma link add rxe0 type rxe netdev eth0";
        all.push(bad("devices", "none", fix));
    }
    for name in &names {
        look_at(name, options, &mut all);
    }
    all.push(locked_memory());
    all
}

fn look_at(name: &str, options: &RdmaOptions, all: &mut Vec<Found>) {
    let looked = Device::open(name).and_then(|device| Ok((device.facts()?, device)));
    let (facts, device) = match looked {
        Ok(looked) => looked,
        Err(error) => {
            let fix = "give this user access to /dev/infiniband/uverbs*";
            return all.push(bad(format!("device {name}"), error.to_string(), fix));
        }
    };
    let firmware = if facts.firmware.trim_matches(['0', '.']).is_empty() {
        "no firmware".to_owned()
    } else {
        format!("firmware {}", facts.firmware)
    };
    all.push(good(
        format!("device {name}"),
        format!(
            "{firmware}, {} ports, {} queue pairs, {} completions per queue, {} registrations",
            facts.ports, facts.queue_pairs_max, facts.completions_max, facts.registrations_max
        ),
    ));
    for number in 1..=facts.ports {
        match device.port(number) {
            Ok(now) => {
                let layer = match now.link_layer {
                    LinkLayer::InfiniBand => "InfiniBand",
                    LinkLayer::Ethernet => "Ethernet",
                    LinkLayer::Other(_) => "an unknown link layer",
                };
                let detail = format!("{}, {layer}, MTU {}", now.state, now.mtu_bytes);
                let name = format!("port {name}/{number}");
                all.push(if now.active {
                    good(name, detail)
                } else {
                    bad(name, detail, "ip link set DEVICE up, or plug in the cable")
                });
            }
            Err(error) => all.push(bad(format!("port {name}/{number}"), error.to_string(), "")),
        }
    }
    let chosen = RdmaOptions { device: Some(name.to_owned()), ..options.clone() };
    match Port::open(&chosen) {
        Ok(port) => look_at_port(name, &port, all),
        // The port above says why.
        Err(error) => tracing::debug!(%error, name, "port not opened"),
    }
}

fn look_at_port(name: &str, port: &Port, all: &mut Vec<Found>) {
    let addresses = port.addresses(None);
    if addresses.is_empty() {
        let fix = "give its network device an address: ip address add … dev …";
        all.push(bad(format!("GIDs {name}"), "none that is usable", fix));
    }
    for (place, (rank, entry)) in addresses.iter().enumerate() {
        let netdev = entry.device.as_deref().unwrap_or("no network device");
        let chosen = if place == 0 { ", chosen" } else { "" };
        let detail = format!("{} on {netdev}, {rank}{chosen}", entry.gid);
        let what = format!("GID {name}[{}]", entry.index);
        all.push(match rank {
            Rank::V2LinkLocal | Rank::V1 if place == 0 => bad(
                what,
                detail,
                "peers of other segments are not reached: give its network device an IPv4 address",
            ),
            _ => good(what, detail),
        });
    }
    let windows = probe(port);
    let what = format!("memory windows {name}");
    all.push(match windows {
        WindowProbe::Hold | WindowProbe::Unbounded => good(what, windows.to_string()),
        WindowProbe::None(_) => bad(
            what,
            windows.to_string(),
            "nothing to do: each lease has a registration of its own instead",
        ),
    });
    let (on_demand, dma_buf) = (port.device().on_demand_paging(), port.dma_buf());
    all.push(if on_demand {
        good(format!("on-demand paging {name}"), "offered; not used: memory is pinned")
    } else {
        bad(format!("on-demand paging {name}"), "not offered", "nothing to do: it is not used")
    });
    all.push(match dma_buf {
        Ok(()) => good(format!("dma-buf {name}"), "registrations of GPU memory are taken"),
        Err(why) => bad(
            format!("dma-buf {name}"),
            why,
            "needed for gdr alone: Linux 5.12 or later and a driver that takes dma-bufs",
        ),
    });
}

fn locked_memory() -> Found {
    let name = "locked memory";
    match getrlimit(Resource::Memlock).current {
        None => good(name, "unlimited"),
        Some(limit) if limit < LOCKED_BYTES_MIN => bad(
            name,
            format!("{limit} bytes can be pinned, enough for few sessions"),
            "ulimit -l unlimited, LimitMEMLOCK=infinity in a unit, or CAP_IPC_LOCK",
        ),
        Some(limit) => good(name, format!("{limit} bytes can be pinned")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_survey_says_what_is_missing_and_how_to_get_it() {
        let all = survey(&RdmaOptions::default());
        assert!(all.iter().any(|found| found.name == "library"), "{all:?}");
        assert!(all.iter().any(|found| found.name == "locked memory"), "{all:?}");
        for found in all.iter().filter(|found| !found.usable) {
            assert!(!found.fix.is_empty() && !found.detail.is_empty(), "{found:?}");
        }
    }
}
