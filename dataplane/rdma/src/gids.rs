//! Which of a port's global identifiers to use: the table, and its ranking.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::path::Path;

use ferry_core::Gid;

/// RoCEv2's port. Only to ask the routing table, nothing is sent.
const ROCE_PORT: u16 = 4791;

/// Most entries of a port's table that are read: cards have up to 256.
const TABLE_MAX: u32 = 256;

/// How packets with a GID travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GidKind {
    /// InfiniBand, or RoCEv1: Ethernet frames that no router takes. The kernel does not tell them
    /// apart; the port's link layer does.
    Plain,
    /// UDP over IP.
    RoceV2,
    /// Something that this version does not know.
    Other,
}

/// One entry of a port's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GidEntry {
    /// Its place in the table.
    pub index: u8,
    /// The identifier.
    pub gid: Gid,
    /// How its packets travel.
    pub kind: GidKind,
    /// The network device that it belongs to; `None` on InfiniBand.
    pub device: Option<String>,
    /// Whether that device is up.
    pub is_up: bool,
}

/// How well an entry suits, best first. The order is the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// The address that packets to the peer leave from, on a device that is up.
    RoutesToPeer,
    /// RoCEv2 with an IPv4 address, on a device that is up.
    V2Ipv4,
    /// RoCEv2 with a global IPv6 address, on a device that is up.
    V2Ipv6,
    /// InfiniBand.
    InfiniBand,
    /// RoCEv2 with a link-local address: good within one segment.
    V2LinkLocal,
    /// RoCEv1: good within one segment, and not with every switch.
    V1,
    /// Its device is down, or it is of a kind that this version does not know.
    Unusable,
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rank::RoutesToPeer => "routes to the peer",
            Rank::V2Ipv4 => "RoCEv2, IPv4",
            Rank::V2Ipv6 => "RoCEv2, global IPv6",
            Rank::InfiniBand => "InfiniBand",
            Rank::V2LinkLocal => "RoCEv2, link-local",
            Rank::V1 => "RoCEv1",
            Rank::Unusable => "not usable: its network device is down or its kind unknown",
        })
    }
}

/// How an entry ranks. `source` is the address from which packets to the peer would leave.
pub fn rank(entry: &GidEntry, is_ethernet: bool, source: Option<IpAddr>) -> Rank {
    let address = entry.gid.address();
    match entry.kind {
        GidKind::Other => Rank::Unusable,
        _ if is_ethernet && !entry.is_up => Rank::Unusable,
        GidKind::Plain if is_ethernet => Rank::V1,
        GidKind::Plain => Rank::InfiniBand,
        GidKind::RoceV2 if source == Some(address) => Rank::RoutesToPeer,
        GidKind::RoceV2 => match address {
            IpAddr::V4(_) => Rank::V2Ipv4,
            IpAddr::V6(v6) if v6.is_unicast_link_local() => Rank::V2LinkLocal,
            IpAddr::V6(_) => Rank::V2Ipv6,
        },
    }
}

/// The usable entries, best first; among equals, the lower index.
pub fn ranked(
    mut table: Vec<GidEntry>,
    is_ethernet: bool,
    source: Option<IpAddr>,
) -> Vec<(Rank, GidEntry)> {
    table.sort_by_key(|entry| (rank(entry, is_ethernet, source), entry.index));
    let table = table.into_iter().map(|entry| (rank(&entry, is_ethernet, source), entry));
    table.filter(|(rank, _)| *rank != Rank::Unusable).collect()
}

/// The address that packets to `peer` leave from; `None` where no route leads.
pub fn source_towards(peer: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match peer {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((peer, ROCE_PORT)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// The table of a port as the kernel shows it, without its empty entries.
pub fn table(device: &str, port: u8) -> Vec<GidEntry> {
    read_table(Path::new("/sys/class"), device, port)
}

fn read_table(class: &Path, device: &str, port: u8) -> Vec<GidEntry> {
    let port = class.join("infiniband").join(device).join("ports").join(port.to_string());
    let text = |path: &Path| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let entry = |index: u32| {
        let address: Ipv6Addr = text(&port.join("gids").join(index.to_string()))?.parse().ok()?;
        if address.is_unspecified() {
            return None;
        }
        let attributes = port.join("gid_attrs");
        let kind = match text(&attributes.join("types").join(index.to_string()))?.as_str() {
            "IB/RoCE v1" => GidKind::Plain,
            "RoCE v2" => GidKind::RoceV2,
            _ => GidKind::Other,
        };
        let netdev = text(&attributes.join("ndevs").join(index.to_string()));
        let state =
            netdev.as_ref().and_then(|it| text(&class.join("net").join(it).join("operstate")));
        Some(GidEntry {
            index: u8::try_from(index).ok()?,
            gid: Gid(address.octets()),
            kind,
            device: netdev,
            // Tunnels and loopbacks say "unknown".
            is_up: state.is_some_and(|state| state == "up" || state == "unknown"),
        })
    };
    (0..TABLE_MAX).filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u8, address: &str, kind: GidKind, is_up: bool) -> GidEntry {
        let v6 = address.parse::<IpAddr>().unwrap();
        let v6 = match v6 {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        GidEntry { index, gid: Gid(v6.octets()), kind, device: Some("eth0".into()), is_up }
    }

    #[test]
    fn what_routes_comes_first_and_what_is_down_not_at_all() {
        let table = vec![
            entry(0, "fe80::1", GidKind::Plain, true),
            entry(1, "fe80::1", GidKind::RoceV2, true),
            entry(2, "10.1.0.1", GidKind::Plain, true),
            entry(3, "10.1.0.1", GidKind::RoceV2, true),
            entry(4, "2001:db8::1", GidKind::RoceV2, true),
            entry(5, "192.168.7.1", GidKind::RoceV2, true),
            entry(6, "192.168.8.1", GidKind::RoceV2, false),
            entry(7, "192.168.9.1", GidKind::Other, true),
        ];
        let order = |source: Option<&str>| -> Vec<u8> {
            let source = source.map(|source| source.parse().unwrap());
            ranked(table.clone(), true, source).iter().map(|(_, entry)| entry.index).collect()
        };
        assert_eq!(order(None), [3, 5, 4, 1, 0, 2]);
        assert_eq!(order(Some("192.168.7.1")), [5, 3, 4, 1, 0, 2]);
        assert_eq!(order(Some("2001:db8::1")), [4, 3, 5, 1, 0, 2]);
        assert_eq!(order(Some("192.168.8.1")), [3, 5, 4, 1, 0, 2], "its device is down");
    }

    #[test]
    fn infiniband_needs_no_network_device() {
        let mut plain = entry(0, "fe80::2", GidKind::Plain, false);
        plain.device = None;
        assert_eq!(rank(&plain, false, None), Rank::InfiniBand);
        assert_eq!(rank(&plain, true, None), Rank::Unusable);
    }

    #[test]
    fn the_kernels_table_is_read_and_holes_are_left_out() {
        let class = std::env::temp_dir().join(format!("gids-{}", std::process::id()));
        let port = class.join("infiniband/dev0/ports/1");
        for folder in ["gids", "gid_attrs/types", "gid_attrs/ndevs"] {
            std::fs::create_dir_all(port.join(folder)).unwrap();
        }
        std::fs::create_dir_all(class.join("net/eth7")).unwrap();
        let put = |path: &str, text: &str| std::fs::write(class.join(path), text).unwrap();
        put("net/eth7/operstate", "up\n");
        for (index, gid, kind) in [
            (0, "0000:0000:0000:0000:0000:0000:0000:0000", "IB/RoCE v1"),
            (2, "0000:0000:0000:0000:0000:ffff:0a4d:0001", "RoCE v2"),
        ] {
            put(&format!("infiniband/dev0/ports/1/gids/{index}"), &format!("{gid}\n"));
            put(&format!("infiniband/dev0/ports/1/gid_attrs/types/{index}"), &format!("{kind}\n"));
            put(&format!("infiniband/dev0/ports/1/gid_attrs/ndevs/{index}"), "eth7\n");
        }
        let table = read_table(&class, "dev0", 1);
        std::fs::remove_dir_all(&class).unwrap();
        assert_eq!(
            table,
            [GidEntry {
                device: Some("eth7".into()),
                ..entry(2, "10.77.0.1", GidKind::RoceV2, true)
            }]
        );
        assert_eq!(table[0].gid.address().to_string(), "10.77.0.1");
        assert!(read_table(&class, "dev0", 1).is_empty(), "no such device");
    }

    #[test]
    fn the_way_to_oneself_is_from_oneself() {
        let own: IpAddr = "127.0.0.1".parse().unwrap();
        assert_eq!(source_towards(own), Some(own));
    }
}
