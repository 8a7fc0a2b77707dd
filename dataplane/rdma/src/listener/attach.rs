//! Connecting a session to the queue pair that its client told of.

use super::*;

impl RdmaListener {
    pub(super) fn connect(
        &mut self,
        serial: u32,
        attachment: &Attachment,
    ) -> Result<RegionDescriptor, LinkError> {
        let next = self.serial();
        let Some(Opened { port, .. }) = &self.opened else { return Err(LinkError::Closed) };
        let gid = attachment.queue_pair.gids.first().copied();
        let gid = gid.ok_or_else(|| LinkError::Protocol("a queue pair without a GID".into()))?;
        let addresses = port.addresses(None);
        let own = addresses.iter().find(|(_, entry)| entry.gid == attachment.server_gid);
        let (_, own) = own.ok_or_else(|| {
            LinkError::Protocol(format!("{} is not a GID of this server", attachment.server_gid))
        })?;
        let path = port.path(own, &attachment.queue_pair, gid, Retry::default());
        let Some(mut session) = self.sessions.remove(&serial) else {
            return Err(LinkError::Closed);
        };
        // A client's memory is the host's: its payloads lie behind their headers.
        let layout = &session.admitted.admission.layout;
        let areas = Areas::new(layout.slots, layout.reply_bytes);
        let areas = areas.map_err(|error| LinkError::os("divide the memory for replies", error));
        let remote = areas.and_then(|areas| Remote::new(areas, attachment.key, None));
        let remote = remote.and_then(|remote| {
            session.stand = Stand::Expected;
            session.wire.reset(port, next)?;
            Ok(remote)
        });
        // What is left of an earlier connection is nobody's, and the queue has no room for it
        // beside what the next one leads to. Nothing comes on top: the queue pair has no peer.
        self.drain_up_to(usize::MAX);
        let connected = remote.and_then(|remote| session.wire.connect(&path, remote));
        let serial = session.wire.serial();
        session.admitted.peer = PeerId(u64::from(serial));
        self.by_id.insert(session.id(), serial);
        self.sessions.insert(serial, session);
        connected?;
        self.opened(serial)
    }

    /// Waits until the client's key is good.
    fn opened(&mut self, serial: u32) -> Result<RegionDescriptor, LinkError> {
        let until = Instant::now() + OPEN_WITHIN;
        loop {
            let session = self.sessions.get(&serial).ok_or(LinkError::Closed)?;
            if session.wire.is_closing() || session.wire.has_failed() {
                return Err(LinkError::os("open a memory window", "the device refused"));
            }
            if session.wire.is_open() {
                let (key, payloads) = session.wire.keys();
                let Some(Opened { port, .. }) = &self.opened else { return Err(LinkError::Closed) };
                let queue_pair = describe(port, session);
                return Ok(RegionDescriptor::Remote { queue_pair, key: Some(key), payloads });
            }
            if Instant::now() > until {
                return Err(LinkError::os("open a memory window", "no completion in 2 s"));
            }
            self.drain_up_to(usize::MAX);
        }
    }
}

/// Our end of a session, as its client must know it.
pub(super) fn describe(port: &Port, session: &Session) -> ferry_core::QueuePair {
    let gids: Vec<_> = port.addresses(None).iter().map(|(_, entry)| entry.gid).collect();
    let (number, first_psn) = session.wire.identity();
    port.end(number, first_psn, &gids)
}
