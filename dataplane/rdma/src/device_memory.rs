//! Whether a card reaches memory of another device: found out by writing and reading it, before
//! anybody's tensors lie there.

use std::sync::Arc;

use ferry_core::error_text;
use ferry_memory::{MemoryError, Placer, Region};
use ferry_transport::{AdmitError, LinkError};

use crate::areas::Areas;
use crate::fence::{Fencing, Memory, Payloads};
use crate::loopback::Loopback;
use crate::options::RdmaOptions;
use crate::pool::{Registered, Room, own};
use crate::port::Port;
use crate::verbs::{Access, By, CompletionStatus, Domain, Write};

/// What is written at either end of a region.
const PATTERN_BYTES: usize = 64;

/// Half a page of the host for each way.
const HALF_BYTES: usize = 2048;

/// Allocates a page of a device's memory in each direction, registers it with the card that would
/// serve, has the card write and read it, and says by what the card's driver found it.
///
/// # Errors
/// [`LinkError`] says what is missing, and how to get it.
pub fn try_device_memory(options: &RdmaOptions, placer: &dyn Placer) -> Result<By, LinkError> {
    let port = Port::open(options)?;
    let areas = Areas::apart(1, 4096)
        .map_err(|error| LinkError::os("divide a page of device memory", error))?;
    let mut memory = Memory::new(&port.domain, Fencing::OwnRegistration);
    let leased = memory.lease(&areas, &areas, Some(placer)).map_err(|error| match error {
        AdmitError::Attach(why) => why,
        AdmitError::Memory(why) => LinkError::os("take a page of device memory", error_text(&why)),
        error => LinkError::os("take a page of device memory", error),
    })?;
    let nothing = || LinkError::os("take a page of device memory", "the placer is of the host");
    let mut payloads = leased.payloads.ok_or_else(nothing)?;
    check(&port, &leased.domain, &mut payloads)?;
    Ok(payloads.inbox.registered.registration().by())
}

/// Has the card write a pattern at both ends of the memory where requests will arrive, and read
/// one from both ends of where replies will leave from. What the check wrote is cleared.
///
/// # Errors
/// [`LinkError`] if what is seen on one side is not what was written on the other.
pub(crate) fn check(
    port: &Port,
    domain: &Arc<Domain>,
    payloads: &mut Payloads,
) -> Result<(), LinkError> {
    let host = own(domain, 2 * HALF_BYTES, Access::RemoteWrite)
        .map_err(|error| LinkError::os("check device memory", error))?;
    let mut trial = Trial { loopback: Loopback::new(port, domain)?, host };
    for at in ends(&payloads.inbox) {
        trial.arrives(&mut payloads.inbox, at)?;
    }
    for at in ends(&payloads.outbox) {
        trial.leaves(&mut payloads.outbox, at)?;
    }
    Ok(())
}

/// Where the pattern goes: at most [`WRITES_MAX`](crate::loopback::WRITES_MAX) in two regions.
fn ends(memory: &Room) -> [usize; 2] {
    [0, memory.region.bytes().saturating_sub(PATTERN_BYTES)]
}

struct Trial {
    loopback: Loopback,
    host: Room,
}

impl Trial {
    /// From the host into the device's memory.
    fn arrives(&mut self, memory: &mut Room, at: usize) -> Result<(), LinkError> {
        let pattern = pattern()?;
        put(&mut self.host, 0, &pattern)?;
        let status = self.write(&self.host.registered, 0, &memory.registered, at)?;
        let visible = memory.region.view().make_visible();
        visible.map_err(|error| refused(&memory.registered, at, error))?;
        let seen = seen(&memory.region, at);
        compare(seen, status, &pattern, memory, at)
    }

    /// From the device's memory to the host.
    fn leaves(&self, memory: &mut Room, at: usize) -> Result<(), LinkError> {
        let pattern = pattern()?;
        put(memory, at, &pattern)?;
        let status = self.write(&memory.registered, at, &self.host.registered, HALF_BYTES)?;
        compare(seen(&self.host.region, HALF_BYTES), status, &pattern, memory, at)
    }

    fn write(
        &self,
        from: &Registered,
        from_at: usize,
        to: &Registered,
        to_at: usize,
    ) -> Result<CompletionStatus, LinkError> {
        self.loopback.write(&Write {
            id: 1,
            part: from.part(from_at, PATTERN_BYTES)?,
            remote_address: to.address() + to_at as u64,
            remote_key: to.registration().remote_key(),
            immediate: 0,
        })
    }
}

/// What lies where a pattern was written to.
fn seen(region: &Region, at: usize) -> Result<[u8; PATTERN_BYTES], MemoryError> {
    let mut seen = [0; PATTERN_BYTES];
    region.view().copy_out(at, &mut seen).map(|()| seen)
}

/// Whether the pattern is where it was written to; clears it in the device's memory.
fn compare(
    seen: Result<[u8; PATTERN_BYTES], MemoryError>,
    status: CompletionStatus,
    pattern: &[u8],
    memory: &mut Room,
    at: usize,
) -> Result<(), LinkError> {
    let refused = |why: String| refused(&memory.registered, at, why);
    if !status.is_success() {
        return Err(refused(format!("the card could not reach it: {status}")));
    }
    if seen.map_err(|error| refused(error_text(&error)))? != pattern {
        let what = "the card and the device do not see the same bytes; the address that was \
                    registered is not that of the memory, or the device's driver does not \
                    support peer access on this machine (IOMMU, ACS): use rdma";
        return Err(refused(what.to_owned()));
    }
    put(memory, at, &[0; PATTERN_BYTES])
}

fn put(memory: &mut Room, at: usize, bytes: &[u8]) -> Result<(), LinkError> {
    let put = memory.region.view_mut().copy_in(at, bytes);
    put.map_err(|error| refused(&memory.registered, at, error_text(&error)))
}

fn pattern() -> Result<[u8; PATTERN_BYTES], LinkError> {
    let mut pattern = [0; PATTERN_BYTES];
    getrandom::fill(&mut pattern).map_err(|error| LinkError::os("random numbers", error))?;
    Ok(pattern)
}

fn refused(memory: &Registered, at: usize, why: impl std::fmt::Display) -> LinkError {
    let (placement, by) = (memory.placement(), memory.registration().by().name());
    LinkError::os(format!("check byte {at} of {placement} memory registered as {by}"), why)
}
