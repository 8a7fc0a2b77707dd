//! What RDMA has and lacks on this machine, for people: what `ferry doctor` prints.

use ferry_core::Found;
use rustix::process::{Resource, getrlimit};

use crate::gids::Rank;
use crate::options::RdmaOptions;
use crate::port::Port;
use crate::probe::{WindowProbe, probe};
use crate::verbs::{Device, LinkLayer};

/// Memory that 16 sessions of two 602,112-byte slots pin, in bytes.
const LOCKED_BYTES_MIN: u64 = 64 << 20;

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
            return vec![
                Found::bad("library", format!("{detail} ({error})"), fix),
                locked_memory(),
            ];
        }
    };
    let mut all = vec![Found::good("library", "libibverbs.so.1")];
    if names.is_empty() {
        let fix = "with a card: install its driver (rdma-core); with any Ethernet card, Soft-RoCE: \
                   modprobe rdma_rxe; rdma link add rxe0 type rxe netdev eth0";
        all.push(Found::bad("devices", "none", fix));
    }
    let chosen = Port::open(options).ok().map(|port| port.device().name().to_owned());
    for name in &names {
        look_at(name, chosen.as_ref() == Some(name), options, &mut all);
    }
    all.push(locked_memory());
    all
}

fn look_at(name: &str, is_chosen: bool, options: &RdmaOptions, all: &mut Vec<Found>) {
    let looked = Device::open(name).and_then(|device| Ok((device.facts()?, device)));
    let (facts, device) = match looked {
        Ok(looked) => looked,
        Err(error) => {
            let fix = "give this user access to /dev/infiniband/uverbs*";
            return all.push(Found::bad(format!("device {name}"), error.to_string(), fix));
        }
    };
    let firmware = if facts.firmware.trim_matches(['0', '.']).is_empty() {
        "no firmware".to_owned()
    } else {
        format!("firmware {}", facts.firmware)
    };
    all.push(Found::good(
        format!("device {name}"),
        format!(
            "{firmware}, {} ports, {} queue pairs, {} completions per queue, {} registrations",
            facts.ports, facts.queue_pairs_max, facts.completions_max, facts.registrations_max
        ),
    ));
    all.extend((1..=facts.ports).map(|number| look_at_number(&device, number)));
    let chosen = RdmaOptions { device: Some(name.to_owned()), ..options.clone() };
    match Port::open(&chosen) {
        Ok(port) => look_at_port(name, is_chosen, &port, all),
        // The port above says why.
        Err(error) => tracing::debug!(%error, name, "port not opened"),
    }
}

fn look_at_number(device: &Device, number: u8) -> Found {
    let name = format!("port {}/{number}", device.name());
    let now = match device.port(number) {
        Ok(now) => now,
        Err(error) => {
            let fix = "see the kernel's log (dmesg): the device failed or was taken away";
            return Found::bad(name, error.to_string(), fix);
        }
    };
    let (layer, fix) = match now.link_layer {
        LinkLayer::InfiniBand => {
            ("InfiniBand", "plug in the cable; a subnet manager has to run (opensm)")
        }
        LinkLayer::Ethernet => ("Ethernet", "ip link set DEVICE up, or plug in the cable"),
        LinkLayer::Other(_) => ("an unknown link layer", "use a device of InfiniBand or Ethernet"),
    };
    let detail = format!("{}, {layer}, MTU {}", now.state, now.mtu_bytes);
    if now.active { Found::good(name, detail) } else { Found::bad(name, detail, fix) }
}

fn look_at_port(name: &str, is_chosen: bool, port: &Port, all: &mut Vec<Found>) {
    let addresses = port.addresses(None);
    if addresses.is_empty() {
        let fix = "give its network device an address: ip address add … dev …";
        all.push(Found::bad(format!("GIDs {name}"), "none that is usable", fix));
    }
    for (place, (rank, entry)) in addresses.iter().enumerate() {
        let netdev = entry.device.as_deref().unwrap_or("no network device");
        let chosen = if place == 0 && is_chosen { ", chosen" } else { "" };
        let detail = format!("{} on {netdev}, {rank}{chosen}", entry.gid);
        let what = format!("GID {name}[{}]", entry.index);
        all.push(match rank {
            Rank::V2LinkLocal | Rank::V1 if place == 0 => Found::bad(
                what,
                detail,
                "peers of other segments are not reached: give its network device an IPv4 address",
            ),
            _ => Found::good(what, detail),
        });
    }
    let windows = probe(port);
    let what = format!("memory windows {name}");
    all.push(match windows {
        WindowProbe::Hold | WindowProbe::Unbounded => Found::good(what, windows.to_string()),
        WindowProbe::None(_) => Found::bad(
            what,
            windows.to_string(),
            "nothing to do: each lease has a registration of its own instead",
        ),
    });
    let (on_demand, dma_buf) = (port.device().on_demand_paging(), port.dma_buf());
    all.push(if on_demand {
        Found::good(format!("on-demand paging {name}"), "offered; not used: memory is pinned")
    } else {
        Found::bad(
            format!("on-demand paging {name}"),
            "not offered",
            "nothing to do: it is not used",
        )
    });
    all.push(match dma_buf {
        Ok(()) => Found::good(format!("dma-buf {name}"), "registrations of GPU memory are taken"),
        Err(why) => Found::bad(
            format!("dma-buf {name}"),
            why,
            "needed for gdr alone: Linux 5.12 or later and a driver that takes dma-bufs",
        ),
    });
}

fn locked_memory() -> Found {
    let name = "locked memory";
    match getrlimit(Resource::Memlock).current {
        None => Found::good(name, "unlimited"),
        Some(limit) if limit < LOCKED_BYTES_MIN => Found::bad(
            name,
            format!("{limit} bytes can be pinned, enough for few sessions"),
            "ulimit -l unlimited, LimitMEMLOCK=infinity in a unit, or CAP_IPC_LOCK",
        ),
        Some(limit) => Found::good(name, format!("{limit} bytes can be pinned")),
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
