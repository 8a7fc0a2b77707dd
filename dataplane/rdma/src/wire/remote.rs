//! The peer's memory: where what we send goes.

use ferry_core::{MemoryKey, SlotIndex};
use ferry_transport::LinkError;

use crate::areas::{Area, Areas};

/// Memory of the peer's, with the keys that it gave for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    areas: Areas,
    headers: MemoryKey,
    /// Where payloads do not lie behind their headers.
    payloads: Option<MemoryKey>,
}

/// A place of the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) address: u64,
    pub(crate) key: u32,
}

impl Remote {
    /// Memory that the peer has divided in this way. Nothing that this value names lies outside of
    /// what the keys say.
    ///
    /// # Errors
    /// [`LinkError::Protocol`] if a key is missing, too short, or of no use.
    pub(crate) fn new(
        areas: Areas,
        headers: MemoryKey,
        payloads: Option<MemoryKey>,
    ) -> Result<Remote, LinkError> {
        check("its memory", &headers, areas.bytes())?;
        match (areas.payloads_bytes(), &payloads) {
            (None, None) => {}
            (Some(needed), Some(key)) => check("its memory for payloads", key, needed)?,
            (None, Some(_)) => return Err(wrong("a second key, and nothing that it is for")),
            (Some(_), None) => return Err(wrong("no key for payloads, which lie apart")),
        }
        Ok(Remote { areas, headers, payloads })
    }

    /// Where the header of an area goes; `None` for a slot that does not exist. Where payloads
    /// lie behind their headers, the room behind it is the slot's.
    pub(crate) fn header(&self, area: Area) -> Option<Target> {
        let at = self.areas.header_at(area)?;
        Some(target(&self.headers, at))
    }

    /// Where so many bytes of a slot's payload go, where that is apart from its header; `None` if
    /// the slot does not exist or is shorter.
    pub(crate) fn payload(&self, slot: SlotIndex, bytes: usize) -> Option<Target> {
        let at = self.areas.payload_at(slot, bytes)?;
        self.payloads.as_ref().map(|key| target(key, at))
    }

    /// Whether so many bytes of payload fit an area.
    pub(crate) fn fits(&self, area: Area, bytes: usize) -> bool {
        match area {
            Area::Slot(slot) => self.areas.payload_at(slot, bytes).is_some(),
            Area::Control => bytes == 0,
        }
    }

    /// Whether payloads go apart from their headers.
    pub(crate) fn is_apart(&self) -> bool {
        self.payloads.is_some()
    }
}

/// `at` lies inside of the key's memory, and its end is an address: both were checked.
fn target(key: &MemoryKey, at: usize) -> Target {
    Target { address: key.address.wrapping_add(at as u64), key: key.remote_key }
}

fn wrong(what: impl Into<String>) -> LinkError {
    LinkError::Protocol(what.into())
}

fn check(what: &str, key: &MemoryKey, needed: usize) -> Result<(), LinkError> {
    if key.bytes < needed as u64 {
        return Err(wrong(format!("{what} has {} of {needed} bytes", key.bytes)));
    }
    if key.address.checked_add(key.bytes).is_none() {
        let (address, bytes) = (key.address, key.bytes);
        return Err(wrong(format!(
            "{what} has {bytes} bytes at {address:#x}, beyond the last one"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ferry_core::FRAME_BYTES;

    use super::*;

    fn key(address: u64, bytes: usize) -> MemoryKey {
        MemoryKey {
            address,
            remote_key: u32::try_from(address >> 20).unwrap(),
            bytes: bytes as u64,
        }
    }

    #[test]
    fn both_pieces_of_a_request_lie_inside_what_their_own_keys_say() {
        let areas = Areas::apart(4, 70_001).unwrap();
        let payloads = areas.payloads_bytes().unwrap();
        let (headers, payloads) = (key(0x1000_0000, areas.bytes()), key(0x7000_0000, payloads));
        let remote = Remote::new(areas, headers, Some(payloads)).unwrap();
        assert!(remote.is_apart());
        let inside = |target: Target, bytes: u64, of: &MemoryKey| {
            assert_eq!(target.key, of.remote_key);
            let end = target.address + bytes;
            assert!(target.address >= of.address && end <= of.address + of.bytes, "{target:?}");
        };
        for slot in (0..4).map(SlotIndex) {
            inside(remote.header(Area::Slot(slot)).unwrap(), FRAME_BYTES as u64, &headers);
            inside(remote.payload(slot, 70_001).unwrap(), 70_001, &payloads);
            assert_eq!(remote.payload(slot, 70_002), None);
            assert!(remote.fits(Area::Slot(slot), 70_001));
            assert!(!remote.fits(Area::Slot(slot), 70_002));
        }
        inside(remote.header(Area::Control).unwrap(), FRAME_BYTES as u64, &headers);
        assert!(remote.fits(Area::Control, 0) && !remote.fits(Area::Control, 1));
        for slot in [4, 63, u32::MAX].map(SlotIndex) {
            assert_eq!(remote.header(Area::Slot(slot)), None);
            assert_eq!(remote.payload(slot, 0), None);
            assert!(!remote.fits(Area::Slot(slot), 0));
        }
    }

    #[test]
    fn keys_that_do_not_cover_the_areas_are_refused() {
        let (joint, apart) = (Areas::new(2, 5000).unwrap(), Areas::apart(2, 5000).unwrap());
        let needed = apart.payloads_bytes().unwrap();
        let (all, headers) = (key(0x100_0000, joint.bytes()), key(0x100_0000, apart.bytes()));
        let payloads = key(0x200_0000, needed);
        Remote::new(joint, all, None).unwrap();
        Remote::new(apart, headers, Some(payloads)).unwrap();
        let beyond = MemoryKey { address: u64::MAX - 10, ..payloads };
        let short = |of: MemoryKey| MemoryKey { bytes: of.bytes - 1, ..of };
        for (areas, headers, payloads) in [
            (joint, short(all), None),
            (joint, all, Some(payloads)),
            (apart, headers, None),
            (apart, short(headers), Some(payloads)),
            (apart, headers, Some(short(payloads))),
            (apart, headers, Some(beyond)),
            (apart, beyond, Some(payloads)),
        ] {
            let refused = Remote::new(areas, headers, payloads).unwrap_err();
            assert!(matches!(refused, LinkError::Protocol(_)), "{refused}");
        }
    }
}
