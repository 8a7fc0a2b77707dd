//! Queue pairs and memory keys, to the wire and back. Nothing of a peer's is taken on trust: every
//! number is checked against what a queue pair can have.

use bytes::Bytes;
use ferry_core::endpoint::GIDS_MAX;
use ferry_core::{Attachment, Gid, LinkKind, MemoryKey, QueuePair, Retry};

use crate::error::WireError;
use crate::v1;

impl From<&QueuePair> for v1::QueuePair {
    fn from(pair: &QueuePair) -> Self {
        v1::QueuePair {
            qp_number: pair.number,
            packet_sequence_number: pair.first_psn,
            gids: pair.gids.iter().map(|gid| Bytes::copy_from_slice(&gid.0)).collect(),
            lid: pair.lid.into(),
            path_mtu_bytes: pair.path_mtu_bytes,
            rd_atomic_max: pair.rd_atomic_max.into(),
            dest_rd_atomic_max: pair.dest_rd_atomic_max.into(),
            retry_count: pair.retry.count.into(),
            rnr_retry_count: pair.retry.rnr_count.into(),
            min_rnr_timer: pair.retry.min_rnr_timer.into(),
            ack_timeout: pair.retry.ack_timeout.into(),
        }
    }
}

/// A number of at most `max`.
fn up_to<T: TryFrom<u32>>(name: &'static str, number: u32, max: u32) -> Result<T, WireError> {
    let wrong = || WireError::invalid(name, format!("{number}; at most {max}"));
    if number > max {
        return Err(wrong());
    }
    T::try_from(number).map_err(|_too_large| wrong())
}

fn gid(name: &'static str, bytes: &Bytes) -> Result<Gid, WireError> {
    let found = <[u8; 16]>::try_from(bytes.as_ref());
    found
        .map(Gid)
        .map_err(|_length| WireError::invalid(name, format!("{} bytes; a GID has 16", bytes.len())))
}

impl TryFrom<v1::QueuePair> for QueuePair {
    type Error = WireError;

    fn try_from(pair: v1::QueuePair) -> Result<Self, WireError> {
        const NUMBER_MAX: u32 = 0x00ff_ffff;
        if pair.gids.is_empty() || pair.gids.len() > GIDS_MAX {
            let why = format!("{}; 1 to {GIDS_MAX}", pair.gids.len());
            return Err(WireError::invalid("queue_pair.gids", why));
        }
        if !matches!(pair.path_mtu_bytes, 256 | 512 | 1024 | 2048 | 4096) {
            let why = format!("{}; 256, 512, 1024, 2048 or 4096", pair.path_mtu_bytes);
            return Err(WireError::invalid("queue_pair.path_mtu_bytes", why));
        }
        if pair.ack_timeout == 0 {
            let why = "0: a peer that is gone would never be given up";
            return Err(WireError::invalid("queue_pair.ack_timeout", why));
        }
        let gids = pair.gids.iter().map(|bytes| gid("queue_pair.gids", bytes));
        Ok(QueuePair {
            number: up_to("queue_pair.qp_number", pair.qp_number, NUMBER_MAX)?,
            first_psn: up_to(
                "queue_pair.packet_sequence_number",
                pair.packet_sequence_number,
                NUMBER_MAX,
            )?,
            gids: gids.collect::<Result<_, _>>()?,
            lid: up_to("queue_pair.lid", pair.lid, u16::MAX.into())?,
            path_mtu_bytes: pair.path_mtu_bytes,
            rd_atomic_max: up_to("queue_pair.rd_atomic_max", pair.rd_atomic_max, u8::MAX.into())?,
            dest_rd_atomic_max: up_to(
                "queue_pair.dest_rd_atomic_max",
                pair.dest_rd_atomic_max,
                u8::MAX.into(),
            )?,
            retry: Retry {
                ack_timeout: up_to("queue_pair.ack_timeout", pair.ack_timeout, 31)?,
                count: up_to("queue_pair.retry_count", pair.retry_count, 7)?,
                rnr_count: up_to("queue_pair.rnr_retry_count", pair.rnr_retry_count, 7)?,
                min_rnr_timer: up_to("queue_pair.min_rnr_timer", pair.min_rnr_timer, 31)?,
            },
        })
    }
}

impl From<MemoryKey> for v1::MemoryKey {
    fn from(key: MemoryKey) -> Self {
        v1::MemoryKey { address: key.address, remote_key: key.remote_key, bytes: key.bytes }
    }
}

impl TryFrom<v1::MemoryKey> for MemoryKey {
    type Error = WireError;

    fn try_from(key: v1::MemoryKey) -> Result<Self, WireError> {
        if key.bytes == 0 || key.address.checked_add(key.bytes).is_none() {
            let why = format!("{} bytes at {:#x}", key.bytes, key.address);
            return Err(WireError::invalid("memory_key", why));
        }
        Ok(MemoryKey { address: key.address, remote_key: key.remote_key, bytes: key.bytes })
    }
}

impl v1::AttachSessionRequest {
    /// What a client tells of its end.
    pub fn new(session: v1::SessionRef, attachment: &Attachment) -> v1::AttachSessionRequest {
        let link = LinkKind::Rdma.name().to_owned();
        let queue_pair = Some((&attachment.queue_pair).into());
        v1::AttachSessionRequest {
            session: Some(session),
            endpoint: Some(v1::Endpoint { link, address: String::new(), queue_pair }),
            key: Some(attachment.key.into()),
            server_gid: Bytes::copy_from_slice(&attachment.server_gid.0),
        }
    }

    /// What was told.
    ///
    /// # Errors
    /// [`WireError`] for what is missing or cannot be.
    pub fn attachment(self) -> Result<Attachment, WireError> {
        let (_, queue_pair) = self.endpoint.ok_or(WireError::Missing("endpoint"))?.parts()?;
        Ok(Attachment {
            queue_pair: queue_pair.ok_or(WireError::Missing("endpoint.queue_pair"))?,
            key: self.key.ok_or(WireError::Missing("key"))?.try_into()?,
            server_gid: gid("server_gid", &self.server_gid)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> QueuePair {
        QueuePair {
            number: 0x00ab_cdef,
            first_psn: 77,
            gids: vec![Gid([3; 16]), Gid([4; 16])],
            lid: 9,
            path_mtu_bytes: 4096,
            rd_atomic_max: 1,
            dest_rd_atomic_max: 2,
            retry: Retry::default(),
        }
    }

    fn attachment() -> Attachment {
        let key = MemoryKey { address: 0x7f00_0000_0000, remote_key: 5, bytes: 8192 };
        Attachment { queue_pair: pair(), key, server_gid: Gid([7; 16]) }
    }

    #[test]
    fn an_attachment_comes_back() {
        let sent = v1::AttachSessionRequest::new(v1::SessionRef::default(), &attachment());
        assert_eq!(sent.attachment().unwrap(), attachment());
    }

    #[test]
    fn what_no_queue_pair_has_is_refused() {
        let good = || v1::QueuePair::from(&pair());
        type Spoil = fn(&mut v1::QueuePair);
        let spoils: [(&str, Spoil); 12] = [
            ("qp_number", |it| it.qp_number = 1 << 24),
            ("packet_sequence_number", |it| it.packet_sequence_number = u32::MAX),
            ("gids", |it| it.gids.clear()),
            ("gids", |it| it.gids = vec![Bytes::from_static(&[0; 16]); GIDS_MAX + 1]),
            ("gids", |it| it.gids[1] = Bytes::from_static(&[0; 15])),
            ("lid", |it| it.lid = 1 << 16),
            ("path_mtu_bytes", |it| it.path_mtu_bytes = 1500),
            ("rd_atomic_max", |it| it.rd_atomic_max = 256),
            ("retry_count", |it| it.retry_count = 8),
            ("rnr_retry_count", |it| it.rnr_retry_count = 8),
            ("min_rnr_timer", |it| it.min_rnr_timer = 32),
            ("ack_timeout", |it| it.ack_timeout = 0),
        ];
        for (name, spoil) in spoils {
            let mut bad = good();
            spoil(&mut bad);
            let error = QueuePair::try_from(bad).unwrap_err().to_string();
            assert!(error.contains(name), "{name}: {error}");
        }
        assert_eq!(QueuePair::try_from(good()).unwrap(), pair());
    }

    #[test]
    fn memory_beyond_the_end_of_addresses_is_refused() {
        let key = |address, bytes| v1::MemoryKey { address, remote_key: 1, bytes };
        for bad in [key(0, 0), key(u64::MAX, 2), key(1, u64::MAX)] {
            assert!(MemoryKey::try_from(bad).is_err(), "{bad:?}");
        }
        assert!(MemoryKey::try_from(key(4096, 4096)).is_ok());
        let mut missing = v1::AttachSessionRequest::new(v1::SessionRef::default(), &attachment());
        missing.key = None;
        assert!(missing.attachment().is_err());
    }
}
