//! What client and server agreed on.

use std::time::Duration;

use ferry_core::{
    BoundSignature, Endpoint, Generation, HostMemory, MemoryChoice, RegionDescriptor, SessionId,
    SlotLayout, SlotPlace, Token, Transport,
};
use ferry_proto::{WireError, v1};

use crate::error::Error;

/// What was negotiated for one lease of a session. Nothing of it changes: a session that is resumed,
/// or opened again with more room, goes on under another.
#[derive(Clone, Debug)]
pub struct Agreed {
    pub(crate) session: SessionId,
    pub(crate) token: Token,
    pub(crate) generation: Generation,
    pub(crate) endpoint: Endpoint,
    pub(crate) region: RegionDescriptor,
    /// The transport in use.
    pub transport: Transport,
    /// Why this one, where the server chose; also why a first choice did not work.
    pub transport_reason: String,
    /// Number and sizes of the slots.
    pub layout: SlotLayout,
    /// Inputs and outputs, every dimension known; of an output that is open, what is expected. The
    /// shapes that it has are those of the [`Reply`](crate::Reply::shape).
    pub signature: BoundSignature,
    /// The session dies if nobody heartbeats for this long.
    pub lease: Duration,
    /// The model's name.
    pub model: String,
    /// The model's version.
    pub version: u64,
    /// The engine that runs it.
    pub engine: String,
    /// Whether `jpeg` and `raw` requests are served.
    pub takes_pictures: bool,
    /// Names of the classes, where the model has some.
    pub labels: Vec<String>,
    /// The run under which requests are recorded.
    pub run_id: i64,
    /// Where the slots lie, and what host memory is to the GPU of the model; `None` where it runs
    /// on the CPU.
    pub place: Option<SlotPlace>,
}

impl Agreed {
    /// The session's public name; another one after it was opened again with more room.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Which lease of the session this is: 1, and one more with each resume.
    pub fn generation(&self) -> u32 {
        self.generation.0
    }

    /// Whether a device reads a slot where the client wrote it, in memory of the host.
    pub(crate) fn is_read_by_device(&self) -> bool {
        let pageable = MemoryChoice::Always(HostMemory::Pageable);
        let for_device = matches!(self.place, Some(SlotPlace::Host(memory)) if memory != pageable);
        for_device && self.transport == Transport::Shm
    }

    pub(crate) fn to_ref(&self) -> v1::SessionRef {
        v1::SessionRef::new(self.session, &self.token, self.generation)
    }

    pub(crate) fn from_wire(opened: v1::OpenSessionResponse) -> Result<Agreed, Error> {
        Agreed::parse(opened).map_err(Error::answer("open a session"))
    }

    /// How the session's memory is reached once the server knows this end.
    pub(crate) fn attached(
        &self,
        told: v1::AttachSessionResponse,
    ) -> Result<RegionDescriptor, Error> {
        let read = |told: v1::AttachSessionResponse| {
            let endpoint = told.endpoint.ok_or(WireError::Missing("endpoint"))?;
            let (_, queue_pair) = endpoint.parts()?;
            if told.regions.is_empty() {
                return Err(WireError::Missing("regions"));
            }
            v1::RegionDescriptor::read(&told.regions, self.layout, queue_pair.as_ref())
        };
        read(told).map_err(Error::answer("attach the session"))
    }

    fn parse(opened: v1::OpenSessionResponse) -> Result<Agreed, WireError> {
        let transport = opened.transport.parse();
        let transport = transport.map_err(|why| WireError::invalid("transport", why))?;
        let reference = opened.session.ok_or(WireError::Missing("session"))?;
        let (session, token, generation) = reference.parts()?;
        let layout: SlotLayout = opened.layout.ok_or(WireError::Missing("layout"))?.into();
        let endpoint = opened.endpoint.ok_or(WireError::Missing("endpoint"))?;
        let (endpoint, queue_pair) = endpoint.parts()?;
        let region = v1::RegionDescriptor::read(&opened.regions, layout, queue_pair.as_ref())?;
        let lease = opened.lease.ok_or(WireError::Missing("lease"))?;
        let signature = opened.signature.ok_or(WireError::Missing("signature"))?;
        let signature = BoundSignature::try_from(signature)?;
        if signature.request_bytes() > layout.request_bytes
            || signature.reply_bytes() > layout.reply_bytes
        {
            return Err(WireError::invalid("layout", "the tensors do not fit the slots"));
        }
        Ok(Agreed {
            session,
            token,
            generation,
            endpoint,
            region,
            transport,
            transport_reason: opened.transport_reason,
            layout,
            signature,
            lease: Duration::try_from(lease).map_err(|why| WireError::invalid("lease", why))?,
            model: opened.model,
            version: opened.version,
            engine: opened.engine,
            takes_pictures: opened.takes_pictures,
            labels: opened.labels,
            run_id: opened.run_id,
            place: opened.placement.map(|it| it.place()).transpose()?,
        })
    }
}
