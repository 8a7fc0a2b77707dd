//! How many lanes each link gets, as an operator writes it: `shm=4,zmq=0`, or a table of the file.

use std::collections::BTreeMap;
use std::str::FromStr;

use ferry_core::LinkKind;
use serde::Deserialize;
use serde::de::{Deserializer, Error};

/// Most lanes of one link: each is a thread, and more than cores only take turns.
pub const LANES_MAX: u32 = 64;

/// How many lanes links get; those that are not named get their default. 0: the link is not
/// offered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneCounts(BTreeMap<LinkKind, u32>);

impl LaneCounts {
    /// The number for this link; `None`: its default.
    pub fn of(&self, link: LinkKind) -> Option<u32> {
        self.0.get(&link).copied()
    }

    /// Sets the number for a link.
    ///
    /// # Errors
    /// Why there cannot be so many.
    pub fn set(&mut self, link: LinkKind, count: u32) -> Result<(), String> {
        if link == LinkKind::Grpc {
            return Err("grpc has no lanes: it is the control plane itself".into());
        }
        if count > LANES_MAX {
            return Err(format!("{link}: {count} lanes; allowed are 0 to {LANES_MAX}"));
        }
        self.0.insert(link, count);
        Ok(())
    }

    /// These, and those of `others` for links that are not named here.
    #[must_use]
    pub fn over(self, others: LaneCounts) -> LaneCounts {
        let mut all = others.0;
        all.extend(self.0);
        LaneCounts(all)
    }
}

impl FromStr for LaneCounts {
    type Err = String;

    fn from_str(text: &str) -> Result<LaneCounts, String> {
        let mut counts = LaneCounts::default();
        for part in text.split(',') {
            let no_pair = || format!("{part:?} is not LINK=N, as in shm=4,zmq=0");
            let (link, count) = part.split_once('=').ok_or_else(no_pair)?;
            let link = link.parse::<LinkKind>().map_err(|why| why.to_string())?;
            counts.set(link, count.parse().map_err(|why| format!("{part:?}: {why}"))?)?;
        }
        Ok(counts)
    }
}

impl<'de> Deserialize<'de> for LaneCounts {
    fn deserialize<D: Deserializer<'de>>(table: D) -> Result<LaneCounts, D::Error> {
        let mut counts = LaneCounts::default();
        for (link, count) in BTreeMap::<String, u32>::deserialize(table)? {
            let link = link.parse().map_err(D::Error::custom)?;
            counts.set(link, count).map_err(D::Error::custom)?;
        }
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_and_the_file_say_the_same() {
        let told: LaneCounts = "shm=4,zmq=0".parse().unwrap();
        assert_eq!(told, toml::from_str("shm = 4\nzmq = 0").unwrap());
        let [shm, zmq, tcp] = [LinkKind::Shm, LinkKind::Zmq, LinkKind::Tcp].map(|it| told.of(it));
        assert_eq!((shm, zmq, tcp), (Some(4), Some(0), None));
    }

    #[test]
    fn what_is_named_first_wins_link_by_link() {
        let first: LaneCounts = "shm=4".parse().unwrap();
        let all = first.over("shm=1,tcp=3".parse().unwrap());
        assert_eq!(all, "shm=4,tcp=3".parse().unwrap());
    }

    #[test]
    fn what_has_no_meaning_is_refused_by_its_reason() {
        for (text, hint) in [
            ("shm", "LINK=N"),
            ("", "LINK=N"),
            ("shm=-1", "shm=-1"),
            ("shm=65", "0 to 64"),
            ("udp=1", "known are local, shm"),
            ("cuda-ipc=1", "unknown link"),
            ("grpc=1", "the control plane itself"),
        ] {
            let error = text.parse::<LaneCounts>().unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
        for (text, hint) in [("shm = 65", "0 to 64"), ("udp = 1", "unknown link \"udp\"")] {
            let error = toml::from_str::<LaneCounts>(text).unwrap_err().to_string();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }
}
